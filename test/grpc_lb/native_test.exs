defmodule GrpcLb.NativeTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Native

  doctest GrpcLb.Native

  test "every stub is backed by Rust" do
    stubs = Native.__info__(:functions)
    assert stubs != []
    assert Enum.sort(Native.module_info(:nifs)) == Enum.sort(stubs)
  end

  describe "new/3 and reconcile/2, called directly" do
    test "refuse malformed arguments by name" do
      {:ok, lb} = Native.new(:random, [], nil)

      for {call, message} <- [
            {fn -> Native.new(:fastest, [], nil) end, "argument 1 is not a policy"},
            {fn -> Native.new({:round_robin, :mine, :first, :keep}, [], nil) end, "the cursor"},
            {fn -> Native.new({:round_robin, :shared, :last, :keep}, [], nil) end, "the start"},
            {fn -> Native.new({:round_robin, :shared, :first, :x}, [], nil) end, "on_reconcile"},
            {fn -> Native.new({:pick_first, :maybe}, [], nil) end, "argument 1 is not a policy"},
            {fn -> Native.new(:random, :none, nil) end, "argument 2 must be a proper list"},
            {fn -> Native.new(:random, [{:a, 1, nil, 1} | :b], nil) end, "got an improper list"},
            {fn -> Native.new(:random, [:a], nil) end, "backend 0 must be {id, value, owner"},
            {fn -> Native.new(:random, [{:a, 1, 2, 1}], nil) end, "the owner of backend 0"},
            {fn -> Native.new(:random, [{:a, 1, nil, 0}], nil) end, "the weight of backend 0"},
            {fn -> Native.new(:random, [{:a, 1, nil, -1}], nil) end, "the weight of backend 0"},
            {fn -> Native.new(:random, [], :me) end, "argument 3, the owner"},
            {fn -> Native.reconcile(lb, [{:a, 1, nil}]) end, "backend 0 must be"},
            {fn -> Native.reconcile(lb, %{}) end, "argument 2 must be a proper list"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, call
      end
    end
  end
end
