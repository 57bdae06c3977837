defmodule GrpcLb.SharesTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Shares
end
