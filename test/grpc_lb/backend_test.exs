defmodule GrpcLb.BackendTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Backend
end
