defmodule GrpcLb.HostPortTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.HostPort
end
