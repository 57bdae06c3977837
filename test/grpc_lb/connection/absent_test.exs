defmodule GrpcLb.Connection.AbsentTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Connection.Absent
end
