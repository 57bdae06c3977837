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
      {:ok, lb} = Native.new(:random, [], nil, :keep)

      for {call, message} <- [
            {fn -> Native.new(:fastest, [], nil, :keep) end, "argument 1 is not a policy"},
            {fn -> Native.new({:round_robin, :mine, :first, :keep}, [], nil, :keep) end,
             "the cursor"},
            {fn -> Native.new({:round_robin, :shared, :last, :keep}, [], nil, :keep) end,
             "the start"},
            {fn -> Native.new({:round_robin, :shared, :first, :x}, [], nil, :keep) end,
             "on_reconcile"},
            {fn -> Native.new({:pick_first, :maybe}, [], nil, :keep) end,
             "argument 1 is not a policy"},
            {fn -> Native.new(:random, :none, nil, :keep) end,
             "argument 2 must be a proper list"},
            {fn -> Native.new(:random, [{:a, 1, nil, 1} | :b], nil, :keep) end,
             "got an improper list"},
            {fn -> Native.new(:random, [:a], nil, :keep) end,
             "backend 0 must be {id, value, owner"},
            {fn -> Native.new(:random, [{:a, 1, 2, 1}], nil, :keep) end,
             "the owner of backend 0"},
            {fn -> Native.new(:random, [{:a, 1, nil, 0}], nil, :keep) end,
             "the weight of backend 0"},
            {fn -> Native.new(:random, [{:a, 1, nil, -1}], nil, :keep) end,
             "the weight of backend 0"},
            {fn -> Native.new(:random, [], :me, :keep) end, "argument 3, the owner"},
            {fn -> Native.new(:random, [], nil, :forget) end,
             "argument 4, what to do on the death"},
            {fn -> Native.add(lb, :none) end, "argument 2 must be a proper list of backends"},
            {fn -> Native.add(:none, []) end, "argument 1 is not a balancer"},
            {fn -> Native.remove(lb, [:a | :b]) end, "got an improper list"},
            {fn -> Native.remove(:none, []) end, "argument 1 is not a balancer"},
            {fn -> Native.reconcile(lb, [{:a, 1, nil}]) end, "backend 0 must be"},
            {fn -> Native.reconcile(lb, %{}) end, "argument 2 must be a proper list"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, call
      end
    end
  end
end
