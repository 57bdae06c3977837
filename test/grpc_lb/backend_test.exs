defmodule GrpcLb.BackendTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Backend

  test "takes the first of an option that is given twice" do
    assert GrpcLb.Backend.to_native([{:a, 1, weight: 2, owner: self(), weight: 3, owner: nil}]) ==
             [{:a, 1, self(), 2}]
  end
end
