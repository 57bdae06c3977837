defmodule GrpcLb.NativeTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Native

  doctest GrpcLb.Native

  test "every stub is backed by Rust" do
    stubs = Native.stubs()
    private = [reserve_page: 3, reserve_page_of: 4, fill_page: 2]
    assert stubs != []
    assert Enum.sort(Native.module_info(:nifs)) == Enum.sort(stubs ++ private)
  end

  # What GrpcLb makes of its arguments is right. Others may call, too.
  describe "called directly, with malformed arguments," do
    @random {:random, %{}}

    defp settings(changes \\ []) do
      [] |> GrpcLb.Settings.to_native(@random) |> Map.merge(Map.new(changes))
    end

    defp assert_named(calls) do
      for {call, message} <- calls do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, call
      end
    end

    test "new/3 names the policy" do
      for policy <- [
            :random,
            {:fastest, %{}},
            {:random, %{}, %{}},
            {"random", %{}},
            nil,
            %{}
          ] do
        assert_raise ArgumentError, ~r/^the policy must be {name, options}/, fn ->
          Native.new(policy, [], settings())
        end
      end

      for options <- [nil, [], [shuffle: true], {}] do
        assert_raise ArgumentError, ~r/^the policy must be a map, got /, fn ->
          Native.new({:pick_first, options}, [], settings())
        end
      end
    end

    test "new/3 names the option of a policy" do
      for {policy, wrong} <-
            [
              {:pick_first, shuffle: :maybe},
              {:round_robin, cursor: :mine, start: :last, on_reconcile: :forget},
              {:least_request, choices: :two, choices: -1, bias: -1.0, bias: nil},
              {:peak_ewma, decay: 0, default_rtt: 0, penalty: -1, decay: 0x100000000},
              {{:weighted_round_robin, weights: :reported},
               weights: :dynamic,
               cursor: nil,
               blackout_period: -1,
               weight_expiration_period: 1.5,
               weight_update_period: :never,
               error_utilization_penalty: -1.0,
               metric_names: ["a" | "b"],
               metric_names: [:a],
               metric_names: List.duplicate("a", 65),
               metric_names: [String.duplicate("a", 256)],
               metric_names: "a",
               reports: :both}
            ],
          {name, options} = GrpcLb.Policy.to_native(policy),
          {option, setting} <- wrong,
          options <- [Map.put(options, option, setting), Map.delete(options, option)] do
        assert_raise ArgumentError, ~r/^the policy has no #{option},/, fn ->
          Native.new({name, options}, [], settings())
        end
      end
    end

    test "new/3 names the setting" do
      detection = fn changes ->
        opts = [outlier_detection: [success_rate: [], failure_percentage: []]]
        %{outlier_detection: detection} = GrpcLb.Settings.to_native(opts, @random)
        Map.merge(detection, Map.new(changes))
      end

      slow_start = &Map.merge(%{window: 1, aggression: 1.0, min_weight_percent: 10.0}, &1)

      for {setting, wrong, named} <- [
            {:owner, :me, :owner},
            {:on_owner_death, :forget, :on_owner_death},
            {:outlier_detection, {1, 2, 3}, :outlier_detection},
            {:outlier_detection, %{}, :interval},
            {:outlier_detection, detection.(interval: 0), :interval},
            {:outlier_detection, detection.(max_ejection_time: nil), :max_ejection_time},
            {:outlier_detection, detection.(max_ejection_percent: 101), :max_ejection_percent},
            {:outlier_detection, detection.(success_rate: []), :success_rate},
            {:outlier_detection, detection.(success_rate: %{}), :stdev_factor},
            {:outlier_detection, detection.(failure_percentage: %{}), :threshold},
            {:outlier_detection, detection.(strict: 1), :strict},
            {:outlier_detection, detection.(backoff_recovery: :never), :backoff_recovery},
            {:outlier_detection, detection.(consecutive_failures: 1), :consecutive_failures},
            {:outlier_detection, detection.(consecutive_failures: %{failures: 0}), :failures},
            {:outlier_detection, detection.(consecutive_failures: %{failures: 1}),
             :minimum_hosts},
            {:outlier_detection, detection.(consecutive_transport_failures: 0),
             :consecutive_transport_failures},
            {:slow_start, {1, 2}, :slow_start},
            {:slow_start, slow_start.(%{window: 0}), :window},
            {:slow_start, slow_start.(%{aggression: :fast}), :aggression},
            {:slow_start, slow_start.(%{aggression: 0.0}), :aggression},
            {:slow_start, slow_start.(%{min_weight_percent: 101.0}), :min_weight_percent},
            {:panic_threshold, -1, :panic_threshold},
            {:panic_threshold, 101, :panic_threshold},
            {:max_requests, -1, :max_requests},
            {:max_requests, 1.0, :max_requests},
            {:max_requests_per_backend, :none, :max_requests_per_backend}
          ] do
        assert_raise ArgumentError, ~r/^argument 3, the settings, has no #{named},/, fn ->
          Native.new(@random, [], settings([{setting, wrong}]))
        end
      end

      for settings <- [[], nil, {}] do
        assert_raise ArgumentError, ~r/^argument 3, the settings, must be a map/, fn ->
          Native.new(@random, [], settings)
        end
      end
    end

    test "every function names the backends" do
      {:ok, lb} = GrpcLb.new(:random, [])
      new = &Native.new(@random, &1, settings())

      assert_named([
        {fn -> new.(:none) end, "argument 2 must be a proper list"},
        {fn -> new.([{:a, 1, %{}} | :b]) end, "got an improper list"},
        {fn -> new.([:a]) end, "backend 0 must be {id, value, options}, got an atom"},
        {fn -> new.([{:a, 1, %{}}, {:b, 1, nil}]) end, "backend 1 must be a map, got an atom"},
        {fn -> new.([{:a, 1, %{owner: 2}}]) end, "backend 0 has no owner,"},
        {fn -> new.([{:a, 1, %{weight: -1}}]) end, "backend 0 has no weight,"},
        {fn -> new.([{:a, 1, %{state: :down}}]) end, "backend 0 has no state,"},
        {fn -> Native.add(lb, :none) end, "argument 2 must be a proper list of backends"},
        {fn -> Native.add(:none, []) end, "argument 1 is not a balancer"},
        {fn -> Native.remove(lb, [:a | :b]) end, "got an improper list"},
        {fn -> Native.remove(:none, []) end, "argument 1 is not a balancer"},
        {fn -> Native.reconcile(lb, [{:a, 1}, {:b}]) end, "backend 1 must be"},
        {fn -> Native.reconcile(lb, %{}) end, "argument 2 must be a proper list"}
      ])
    end

    test "new/3 takes the settings that are given" do
      {:ok, lb} = Native.new(@random, [{:a, 1, %{}}], %{max_requests: 0})
      assert Native.checkout(lb) == {:error, :overloaded}
      {:ok, lb} = Native.new(@random, [{:a, 1, %{}}], %{})
      assert {:ok, 1, _ticket} = Native.checkout(lb)
    end

    test "configure/2 changes nothing" do
      {:ok, lb} = GrpcLb.new(:least_request, [:a, :b])

      for {changes, message} <- [
            {nil, "argument 2, the changes, must be a map, got an atom"},
            {[max_requests: 1], "argument 2, the changes, must be a map, got a list"},
            {%{max_requests: 0, panic_threshold: 101}, "the changes, has no panic_threshold,"},
            {%{max_requests: 0, slow_start: %{}}, "the changes, has no window,"},
            {%{max_requests: 0, outlier_detection: []}, "has no outlier_detection,"},
            {%{max_requests: 0, max_requests_per_backend: -1}, "has no max_requests_per_backend"},
            {%{max_requests: 0, policy: :least_request}, "the policy must be {name, options}"},
            {%{max_requests: 0, policy: {:least_request, %{}}}, "the policy has no choices,"},
            {%{max_requests: 0, policy: @random},
             "the policy is least_request and cannot become random"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, fn ->
          Native.configure(lb, changes)
        end
      end

      assert {:ok, _value, _ticket} = Native.checkout(lb)
      assert_raise ArgumentError, ~r/not a balancer/, fn -> Native.configure(make_ref(), %{}) end
      assert_raise ArgumentError, ~r/not a balancer/, fn -> Native.summary(make_ref()) end
      assert_raise ArgumentError, ~r/not a balancer/, fn -> Native.successes(make_ref(), :a) end
    end

    test "complete/3 ends no call" do
      {:ok, lb} = GrpcLb.new(:random, [:a])
      {:ok, :a, ticket} = Native.checkout(lb)

      for {outcome, report} <- [
            {:done, nil},
            {{:error, 1}, nil},
            {nil, nil},
            {:ok, :none},
            {:ok, {1.0, 1.0}},
            {:ok, %{cpu_utilization: :full}},
            {:ok, %{eps: nil}},
            {:ok, %{named_metrics: %{"a" => :b}}},
            {:ok, %{named_metrics: %{a: 1.0}}},
            {:ok, %{named_metrics: %{<<255>> => 1.0}}},
            {:ok, %{utilization: [{"a", 1.0}]}},
            {:ok, %{request_cost: %{:binary.copy("x", 8 * 1024) => 1.0}}},
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

      for report <- [nil, %{eps: :many}, [], {1.0}, 1] do
        assert_raise ArgumentError, fn -> Native.report(lb, :a, report) end
      end

      assert Native.info(lb) == before
    end
  end
end
