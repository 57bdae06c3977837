defmodule GrpcLb.NativeTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Native

  doctest GrpcLb.Native

  test "every stub is backed by Rust" do
    stubs = Native.__info__(:functions)
    assert stubs != []
    assert Enum.sort(Native.module_info(:nifs)) == Enum.sort(stubs)
  end

  # What GrpcLb makes of its arguments is right. Others may call, too.
  describe "called directly, with malformed arguments," do
    defp settings(changes \\ []) do
      [] |> GrpcLb.Settings.to_native(:random) |> Map.merge(Map.new(changes))
    end

    defp assert_named(calls) do
      for {call, message} <- calls do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, call
      end
    end

    test "new/3 names the policy" do
      for policy <- [
            :fastest,
            {:pick_first, :maybe},
            {:least_request, 2},
            {:least_request, :two, 1.0},
            {:peak_ewma, 1},
            {:weighted_round_robin, :shared, :dynamic},
            {:weighted_round_robin, :shared, {1, 2, 3}},
            {:weighted_round_robin, :shared, {0, 1, 100, 1.0, ["a" | "b"], :per_call}},
            {:weighted_round_robin, :shared, {0, 1, 100, 1.0, [:a], :per_call}},
            {:weighted_round_robin, :shared, {0, 1, 100, 1.0, [], :both}}
          ] do
        assert_raise ArgumentError, fn -> Native.new(policy, [], settings()) end
      end

      assert_named([
        {fn -> Native.new(:fastest, [], settings()) end, "argument 1 is not a policy"},
        {fn -> Native.new({:round_robin, :mine, :first, :keep}, [], settings()) end,
         "the cursor"},
        {fn -> Native.new({:round_robin, :shared, :last, :keep}, [], settings()) end,
         "the start"},
        {fn -> Native.new({:round_robin, :shared, :first, :x}, [], settings()) end,
         "on_reconcile"}
      ])
    end

    test "new/3 names the settings" do
      for {setting, wrong} <- [
            owner: :me,
            on_owner_death: :forget,
            outlier_detection: {1, 2, 3},
            outlier_detection: [],
            slow_start: {1, 2},
            slow_start: {1, :fast, 10.0},
            panic_threshold: -1,
            panic_threshold: 101,
            max_requests: -1,
            max_requests: 1.0,
            max_requests_per_backend: :none
          ] do
        assert_raise ArgumentError, ~r/#{setting}/, fn ->
          Native.new(:random, [], settings([{setting, wrong}]))
        end
      end

      for settings <- [%{}, [], nil, Map.delete(settings(), :owner)] do
        assert_raise ArgumentError, fn -> Native.new(:random, [], settings) end
      end
    end

    test "every function names the backends" do
      {:ok, lb} = GrpcLb.new(:random, [])
      new = &Native.new(:random, &1, settings())

      assert_named([
        {fn -> new.(:none) end, "argument 2 must be a proper list"},
        {fn -> new.([{:a, 1, nil, 1} | :b]) end, "got an improper list"},
        {fn -> new.([:a]) end, "backend 0 must be {id, value, owner"},
        {fn -> new.([{:a, 1, 2, 1}]) end, "the owner of backend 0"},
        {fn -> new.([{:a, 1, nil, 0}]) end, "the weight of backend 0"},
        {fn -> new.([{:a, 1, nil, -1}]) end, "the weight of backend 0"},
        {fn -> Native.add(lb, :none) end, "argument 2 must be a proper list of backends"},
        {fn -> Native.add(:none, []) end, "argument 1 is not a balancer"},
        {fn -> Native.remove(lb, [:a | :b]) end, "got an improper list"},
        {fn -> Native.remove(:none, []) end, "argument 1 is not a balancer"},
        {fn -> Native.reconcile(lb, [{:a, 1, nil}]) end, "backend 0 must be"},
        {fn -> Native.reconcile(lb, %{}) end, "argument 2 must be a proper list"}
      ])
    end

    test "complete/3 ends no call" do
      {:ok, lb} = GrpcLb.new(:random, [:a])
      {:ok, :a, ticket} = Native.checkout(lb)

      for {outcome, report} <- [
            {:done, nil},
            {{:error, 1}, nil},
            {nil, nil},
            {:ok, :none},
            {:ok, %{}},
            {:ok, {1.0, 1.0}},
            {:ok, {:full, 0.0, 0.0, 0.0, 0.0, [], [], []}},
            {:ok, {1.0, 0.0, 0.0, 0.0, 0.0, [], [], [{"a", :b}]}},
            {:ok, {1.0, 0.0, 0.0, 0.0, 0.0, [], [], [{:a, 1.0}]}},
            {:ok, {1.0, 0.0, 0.0, 0.0, 0.0, [], [], :none}},
            {:ok, {1.0, 0.0, 0.0, 0.0, 0.0, [], [], [{"a", 1.0} | :b]}},
            {:ok, <<1::1>>}
          ] do
        assert_raise ArgumentError, fn -> Native.complete(ticket, outcome, report) end
      end

      assert [%{in_flight: 1}] = Native.info(lb).backends
      assert Native.complete(ticket, :ok, nil) == :ok
    end

    test "set_state/3 and report/3 change nothing" do
      {:ok, lb} = GrpcLb.new(:random, [:a])
      before = Native.info(lb)

      for state <- [:down, :idle, nil, "ready", 1] do
        assert_raise ArgumentError, fn -> Native.set_state(lb, :a, state) end
      end

      for report <- [nil, %{}, [], {1.0}, 1] do
        assert_raise ArgumentError, fn -> Native.report(lb, :a, report) end
      end

      assert Native.info(lb) == before
    end
  end
end
