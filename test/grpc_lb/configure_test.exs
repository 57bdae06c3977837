defmodule GrpcLb.ConfigureTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.Clock

  # Ejects whoever fails once, at once, and for long.
  @detection [consecutive_failures: 1, max_ejection_percent: 100, base_ejection_time: 3_600_000]

  setup_all do
    {:ok, _started} = Application.ensure_all_started(:grpc_lb)
    :ok
  end

  defp backend(lb, id), do: Enum.find(GrpcLb.info(lb).backends, &(&1.id == id))
  defp picks(lb, n), do: for(_ <- 1..n, do: elem(GrpcLb.pick(lb), 1))

  defp call(lb, outcome) do
    {:ok, value, ticket} = GrpcLb.checkout(lb)
    :ok = GrpcLb.complete(ticket, outcome)
    value
  end

  test "says whether something has changed" do
    {:ok, lb} = GrpcLb.new(:least_request, [:a])

    for {opts, outcome} <- [
          {[], :unchanged},
          {[max_requests: nil, slow_start: nil, outlier_detection: nil], :unchanged},
          {[policy: :least_request], :unchanged},
          {[policy: {:least_request, choices: 2}], :unchanged},
          {[policy: {:least_request, choices: 3}], :changed},
          {[panic_threshold: 50], :changed},
          {[policy: {:least_request, choices: 3}, panic_threshold: 50], :unchanged},
          # Of an option that is given twice the first one counts.
          {[panic_threshold: 50, panic_threshold: 7], :unchanged},
          {[slow_start: [window: 1]], :changed},
          {[slow_start: [window: 1, aggression: 1]], :unchanged},
          {[outlier_detection: @detection], :changed},
          {[outlier_detection: @detection], :unchanged}
        ] do
      assert GrpcLb.configure(lb, opts) == {:ok, outcome}, inspect(opts)
    end

    GrpcLb.close(lb)
    assert GrpcLb.configure(lb, panic_threshold: 51) == {:error, :closed}
    assert GrpcLb.configure(lb, []) == {:error, :closed}
  end

  test "leaves what is not given as it is" do
    opts = [max_requests: 1, outlier_detection: @detection]
    {:ok, lb} = GrpcLb.new({:round_robin, start: :first}, [:a, :b], opts)
    assert GrpcLb.configure(lb, panic_threshold: 50) == {:ok, :changed}
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    assert GrpcLb.checkout(lb) == {:error, :overloaded}
    GrpcLb.complete(ticket, {:error, :refused})
    eventually(fn -> backend(lb, :a).times_ejected == 1 end)
  end

  test "refuses what new/3 refuses, and changes nothing then" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])

    for {opts, message} <- [
          {%{max_requests: 0}, "options must be a keyword list, got: %{"},
          {[max_requests: 0, owner: self()], "unknown option :owner, expected :policy or "},
          {[max_requests: 0, on_owner_death: :keep], "unknown option :on_owner_death"},
          {[max_requests: 0, panic_threshold: nil], "option :panic_threshold must be an integer"},
          {[max_requests: 0, max_requests_per_backend: -1], "option :max_requests_per_backend"},
          {[max_requests: 0, outlier_detection: [consecutive_transport_failures: nil]],
           "option :outlier_detection must have "},
          {[max_requests: 0, outlier_detection: [interval: 0]], "option :interval of :outlier"},
          {[max_requests: 0, slow_start: [window: 1]], "option :slow_start goes with "},
          {[max_requests: 0, policy: :fastest], "unknown policy :fastest"},
          {[max_requests: 0, policy: nil], "unknown policy nil"},
          {[max_requests: 0, policy: {:round_robin, start: 1}], "option :start of :round_robin"},
          {[max_requests: 0, policy: :random],
           "option :policy must be :round_robin, alone or with options, for a balancer that has " <>
             "this policy, got: :random"}
        ] do
      error = assert_raise ArgumentError, fn -> GrpcLb.configure(lb, opts) end
      assert String.starts_with?(error.message, message), error.message
    end

    assert GrpcLb.configure(lb, []) == {:ok, :unchanged}
    assert {:ok, :a, _ticket} = GrpcLb.checkout(lb)

    {:ok, lb} = GrpcLb.new(:pick_first, [:a])
    assert_raise ArgumentError, fn -> GrpcLb.configure(lb, panic_threshold: 1) end
    assert_raise ArgumentError, ~r/not a balancer/, fn -> GrpcLb.configure(:lb, []) end
  end

  test "sets and lifts limits for the calls that begin after it" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
    {:ok, :a, before} = GrpcLb.checkout(lb)

    assert GrpcLb.configure(lb, max_requests_per_backend: 1) == {:ok, :changed}
    {:ok, :b, ticket} = GrpcLb.checkout(lb)
    assert GrpcLb.checkout(lb) == {:error, :overloaded}

    assert GrpcLb.configure(lb, max_requests_per_backend: nil, max_requests: 1) == {:ok, :changed}
    {:ok, _value, limited} = GrpcLb.checkout(lb)
    assert GrpcLb.checkout(lb) == {:error, :overloaded}

    # The limit goes while a call counts under it, and comes again.
    assert GrpcLb.configure(lb, max_requests: nil) == {:ok, :changed}
    for ticket <- [before, ticket, limited], do: :ok = GrpcLb.complete(ticket, :ok)
    assert GrpcLb.configure(lb, max_requests: 1) == {:ok, :changed}
    assert {:ok, _value, _ticket} = GrpcLb.checkout(lb)
    assert GrpcLb.checkout(lb) == {:error, :overloaded}
  end

  test "gives the policy other options, and it goes on where it is" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
    assert picks(lb, 4) == [:a, :b, :c, :a]
    policy = {:round_robin, on_reconcile: :reset}
    assert GrpcLb.configure(lb, policy: policy) == {:ok, :changed}
    assert picks(lb, 1) == [:b]
    GrpcLb.reconcile(lb, [:a, :b, :c])
    assert picks(lb, 2) == [:a, :b]
    assert Enum.map(GrpcLb.info(lb).backends, & &1.picks) == [3, 3, 1]
  end

  test "keeps what is known of backends" do
    {:ok, lb} = GrpcLb.new(:peak_ewma, [{:a, :a, weight: 3}])
    for outcome <- [:ok, :ok, {:error, :refused}, :cancelled], do: call(lb, outcome)
    GrpcLb.set_state(lb, :a, :draining)
    %{backends: [known]} = GrpcLb.info(lb)

    assert GrpcLb.configure(lb, max_requests: 5, outlier_detection: [success_rate: []]) ==
             {:ok, :changed}

    assert GrpcLb.info(lb).backends == [known]
  end

  test "begins to look for outliers, and ends it" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
    assert GrpcLb.configure(lb, outlier_detection: @detection) == {:ok, :changed}
    assert call(lb, {:error, :refused}) == :a
    # The ticker has adopted it.
    eventually(fn -> backend(lb, :a).times_ejected == 1 end)
    assert picks(lb, 2) == [:b, :b]

    assert GrpcLb.configure(lb, outlier_detection: nil) == {:ok, :changed}
    assert %{ejected_until: nil, times_ejected: 1} = backend(lb, :a)
    assert Enum.sort(picks(lb, 2)) == [:a, :b]
  end

  test "begins to sweep, as often as it is told" do
    clock = Clock.manual()
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock)
    share = [threshold: 50, minimum_hosts: 1, request_volume: 1]

    detection = [
      interval: 20_000,
      max_ejection_percent: 50,
      base_ejection_time: 3_600_000,
      failure_percentage: share
    ]

    for _ <- 1..2 do
      assert GrpcLb.configure(lb, outlier_detection: detection) == {:ok, :changed}
      ejected? = fn -> Enum.any?(GrpcLb.info(lb).backends, & &1.ejected_until) end
      for _ <- 1..2, do: call(lb, {:error, :refused})
      Clock.advance(clock, 19_999)
      refute ejected?.()
      Clock.advance(clock, 1)
      assert ejected?.()
      assert GrpcLb.configure(lb, outlier_detection: nil) == {:ok, :changed}
    end
  end

  test "begins to start slowly, and ends it" do
    clock = Clock.manual()
    {:ok, lb} = GrpcLb.new(:random, [{:a, 1, weight: 4}], clock: clock)
    assert GrpcLb.configure(lb, slow_start: [window: 3_600_000]) == {:ok, :changed}
    assert %{weight: 4, current_weight: weight} = backend(lb, :a)
    assert weight < 4
    assert GrpcLb.configure(lb, slow_start: nil) == {:ok, :changed}
    assert %{weight: 4, current_weight: 4.0} = backend(lb, :a)

    # One ends by itself: the clock has adopted it.
    assert GrpcLb.configure(lb, slow_start: [window: 3_600_000]) == {:ok, :changed}
    Clock.advance(clock, 3_600_000)
    assert backend(lb, :a).current_weight == 4.0
  end

  test "sets the panic threshold" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])
    GrpcLb.set_state(lb, :a, :transient_failure)
    assert GrpcLb.pick(lb) == {:error, :no_backends}
    assert GrpcLb.configure(lb, panic_threshold: 100) == {:ok, :changed}
    assert GrpcLb.pick(lb) == {:ok, :a}
    assert GrpcLb.configure(lb, panic_threshold: 0) == {:ok, :changed}
    assert GrpcLb.pick(lb) == {:error, :no_backends}
  end

  test "reads weights as it is told" do
    weighted = &{:weighted_round_robin, &1}
    reported = [weights: :reported, blackout_period: 0, weight_update_period: 100]
    clock = Clock.manual()
    {:ok, lb} = GrpcLb.new(weighted.([]), [{:a, :a, weight: 5}, :b], clock: clock)
    assert GrpcLb.configure(lb, policy: weighted.(reported)) == {:ok, :changed}
    assert %{weight: 5, current_weight: nil} = backend(lb, :a)

    GrpcLb.report(lb, :a, %{rps_fractional: 100, cpu_utilization: 0.5})
    Clock.advance(clock, 100)
    assert backend(lb, :a).current_weight == 200.0
    assert GrpcLb.configure(lb, policy: weighted.([])) == {:ok, :changed}
    assert %{weight: 5, current_weight: 5.0} = backend(lb, :a)
  end

  describe "size/1 and closed?/1" do
    test "count what is listed, whatever its state" do
      {:ok, lb} = GrpcLb.new(:random, [])
      assert {GrpcLb.size(lb), GrpcLb.closed?(lb)} == {0, false}
      GrpcLb.reconcile(lb, [:a, {:b, 1, state: :draining}, :c])
      assert GrpcLb.size(lb) == 3
      GrpcLb.remove(lb, [:a])
      GrpcLb.add(lb, [:b, :d])
      assert GrpcLb.size(lb) == 3
      GrpcLb.close(lb)
      assert {GrpcLb.size(lb), GrpcLb.closed?(lb)} == {0, true}
    end

    test "follow the deaths of owners" do
      owner = spawn(fn -> Process.sleep(:infinity) end)
      {:ok, owned} = GrpcLb.new(:random, [:a], owner: owner)
      {:ok, keeps} = GrpcLb.new(:random, [{:a, 1, owner: owner}])
      {:ok, removes} = GrpcLb.new(:random, [{:a, 1, owner: owner}], on_owner_death: :remove)
      assert Enum.map([owned, keeps, removes], &GrpcLb.size/1) == [1, 1, 1]
      Process.exit(owner, :kill)
      eventually(fn -> Enum.map([owned, keeps, removes], &GrpcLb.size/1) == [0, 1, 0] end)
      assert Enum.map([owned, keeps, removes], &GrpcLb.closed?/1) == [true, false, false]
    end

    test "refuse what is no balancer" do
      for fun <- [&GrpcLb.size/1, &GrpcLb.closed?/1], wrong <- [nil, make_ref(), self()] do
        assert_raise ArgumentError, ~r/^argument 1 is not a balancer/, fn -> fun.(wrong) end
      end
    end
  end

  describe "a backend that is listed with a state" do
    test "has it from then on" do
      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, state: :connecting}, {:b, 2}])
      assert picks(lb, 2) == [2, 2]
      assert %{state: :connecting} = backend(lb, :a)

      # Without one it keeps its own.
      GrpcLb.reconcile(lb, [{:a, 1}, {:b, 2}])
      assert %{state: :connecting} = backend(lb, :a)

      GrpcLb.add(lb, [%GrpcLb.Backend{id: :a, value: 1, state: :ready}])
      assert Enum.sort(picks(lb, 2)) == [1, 2]
      GrpcLb.reconcile(lb, [{:a, 1, state: :transient_failure}, {:b, 2, state: :draining}])
      assert GrpcLb.pick(lb) == {:error, :no_backends}
    end
  end
end
