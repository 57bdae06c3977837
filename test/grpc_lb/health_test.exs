defmodule GrpcLb.HealthTest do
  # What wraps any policy: states, outlier detection, panic, slow start, limits.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.Clock

  defp backend(lb, id), do: Enum.find(GrpcLb.info(lb).backends, &(&1.id == id))
  defp states(lb), do: Map.new(GrpcLb.info(lb).backends, &{&1.id, &1.state})

  # Who is picked, in the next `n` picks.
  defp picked(lb, n \\ 12) do
    for(_ <- 1..n, {:ok, value} = GrpcLb.pick(lb), do: value) |> Enum.uniq() |> Enum.sort()
  end

  # Makes calls until `id` had one, which ends so; the others are cancelled.
  defp end_call(lb, id, outcome) do
    {:ok, value, ticket} = GrpcLb.checkout(lb)

    if value == id do
      :ok = GrpcLb.complete(ticket, outcome)
    else
      :ok = GrpcLb.complete(ticket, :cancelled)
      end_call(lb, id, outcome)
    end
  end

  describe "set_state/3" do
    test "has only ready backends picked" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
      assert states(lb) == %{a: :ready, b: :ready, c: :ready}

      for state <- [:connecting, :transient_failure, :draining] do
        assert GrpcLb.set_state(lb, :b, state) == :ok
        assert GrpcLb.set_state(lb, :b, state) == :ok
        assert states(lb) == %{a: :ready, b: state, c: :ready}
        assert picked(lb) == [:a, :c]
        assert GrpcLb.set_state(lb, :b, :ready) == :ok
        assert picked(lb) == [:a, :b, :c]
      end
    end

    test "leaves nothing to pick when none is ready" do
      for policy <- [:round_robin, :random, :pick_first, :least_request, :peak_ewma] do
        {:ok, lb} = GrpcLb.new(policy, [:a])
        GrpcLb.set_state(lb, :a, :transient_failure)
        assert GrpcLb.pick(lb) == {:error, :no_backends}
        assert GrpcLb.checkout(lb) == {:error, :no_backends}
        GrpcLb.set_state(lb, :a, :ready)
        assert GrpcLb.pick(lb) == {:ok, :a}
      end
    end

    test "keeps to the list's order where it matters" do
      {:ok, lb} = GrpcLb.new(:pick_first, [:a, :b, :c])
      GrpcLb.set_state(lb, :a, :connecting)
      assert GrpcLb.pick(lb) == {:ok, :b}
      GrpcLb.set_state(lb, :b, :transient_failure)
      assert GrpcLb.pick(lb) == {:ok, :c}
      GrpcLb.set_state(lb, :c, :draining)
      assert GrpcLb.pick(lb) == {:error, :no_backends}
      for id <- [:b, :a], do: GrpcLb.set_state(lb, id, :ready)
      assert GrpcLb.pick(lb) == {:ok, :b}
    end

    test "lets the calls of a draining backend end" do
      {:ok, lb} = GrpcLb.new(:least_request, [:a])
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      GrpcLb.set_state(lb, :a, :draining)
      assert %{state: :draining, in_flight: 1} = backend(lb, :a)
      assert GrpcLb.checkout(lb) == {:error, :no_backends}
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert %{state: :draining, in_flight: 0, successes: 1} = backend(lb, :a)
    end

    test "is kept with the id, and gone with it" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      GrpcLb.set_state(lb, :a, :draining)
      GrpcLb.reconcile(lb, [:b, {:a, :other, weight: 3}])
      assert states(lb) == %{a: :draining, b: :ready}
      GrpcLb.add(lb, a: :another)
      assert picked(lb) == [:b]
      GrpcLb.remove(lb, [:a])
      GrpcLb.add(lb, [:a])
      assert states(lb) == %{a: :ready, b: :ready}
      assert picked(lb) == [:a, :b]
    end

    test "does not bring a backend back whose owner is dead" do
      owner = idle()
      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: owner}, {:b, 2}])
      kill([owner])
      eventually(fn -> states(lb).a == :down end)
      assert GrpcLb.set_state(lb, :a, :ready) == :ok
      assert states(lb).a == :down
      assert picked(lb) == [2]
      assert GrpcLb.set_state(lb, :a, :connecting) == :ok
      # What was said last counts when it has an owner again that lives.
      GrpcLb.add(lb, [{:a, 1, owner: self()}])
      assert states(lb).a == :connecting
      assert picked(lb) == [2]
    end

    test "says when there is no such backend, and when the balancer is closed" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      assert GrpcLb.set_state(lb, :b, :ready) == {:error, :not_found}
      GrpcLb.close(lb)
      assert GrpcLb.set_state(lb, :a, :ready) == {:error, :closed}
    end

    test "names a wrong state, and changes nothing" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      before = GrpcLb.info(lb)

      for state <- [:down, :idle, nil, "ready", 1, {:ready}] do
        error = assert_raise ArgumentError, fn -> apply(GrpcLb, :set_state, [lb, :a, state]) end
        assert error.message =~ "argument 3"
      end

      assert GrpcLb.info(lb) == before
    end

    @tag :concurrency
    test "is seen by every pick that starts after it" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
      drain = fn -> GrpcLb.set_state(lb, :b, :draining) end

      refute {:after, {:ok, :b}} in seen_during(8, fn -> GrpcLb.pick(lb) end, drain)
    end
  end

  describe "outlier detection" do
    defp detecting(opts, backends \\ [:a, :b, :c], clock \\ Clock.manual()) do
      opts = Keyword.merge([interval: 10_000, max_ejection_percent: 100], opts)
      {:ok, lb} = GrpcLb.new(:round_robin, backends, outlier_detection: opts, clock: clock)
      lb
    end

    defp ejected(lb),
      do: for(%{ejected_until: until} = b <- GrpcLb.info(lb).backends, until, do: b.id)

    test "ejects after failures in a row, without waiting for the end of the interval" do
      lb = detecting(consecutive_failures: 3, base_ejection_time: 60_000)
      for _ <- 1..2, do: end_call(lb, :b, {:error, 1})
      end_call(lb, :b, :ok)
      for _ <- 1..2, do: end_call(lb, :b, {:error, 1})
      end_call(lb, :b, :cancelled)
      # Backends are looked at together: had b's row been of 3, it would be ejected now, too.
      for _ <- 1..3, do: end_call(lb, :c, {:error, 1})
      assert %{state: :ejected, times_ejected: 1, ejected_until: 60_000} = backend(lb, :c)
      assert picked(lb) == [:a, :b]

      end_call(lb, :b, {:error, 1})
      assert ejected(lb) == [:b, :c]
      assert picked(lb) == [:a]
    end

    test "leaves the last that can be picked" do
      for backends <- [[:a], [:a, :b, :c]], reason <- [:down, {:transport, :closed}] do
        clock = GrpcLb.Clock.manual()
        detection = [consecutive_failures: 5, max_ejection_percent: 100]
        opts = [clock: clock, outlier_detection: detection]
        {:ok, lb} = GrpcLb.new(:round_robin, backends, opts)
        for _ <- 1..30, do: GrpcLb.run(lb, fn _ -> {:error, reason} end)
        GrpcLb.Clock.advance(clock, 0)
        assert length(ejected(lb)) == length(backends) - 1
        assert GrpcLb.run(lb, fn _ -> :it_is_back end) == :it_is_back
      end
    end

    test "has ejected backends picked when no other can be, or not, to A50's letter" do
      lb = detecting([consecutive_failures: 1], [:a, :b])
      end_call(lb, :a, {:error, 1})
      assert ejected(lb) == [:a]
      assert picked(lb) == [:b]
      GrpcLb.set_state(lb, :b, :draining)
      assert picked(lb) == [:a]
      assert ejected(lb) == [:a]
      letter = [consecutive_failures: 1, strict: false, max_ejection_percent: 100]
      assert GrpcLb.configure(lb, outlier_detection: letter) == {:ok, :changed}
      assert GrpcLb.pick(lb) == {:error, :no_backends}
      GrpcLb.set_state(lb, :b, :ready)
      assert picked(lb) == [:b]
      end_call(lb, :b, {:error, 1})
      assert GrpcLb.pick(lb) == {:error, :no_backends}
    end

    test "has who cannot be reached out for a second, then for longer" do
      clock = GrpcLb.Clock.manual()
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c], clock: clock, outlier_detection: [])
      end_call(lb, :b, {:error, :busy})
      assert ejected(lb) == []

      for ms <- [1_000, 1_600, 2_560] do
        end_call(lb, :b, {:error, {:transport, :econnrefused}})
        assert ejected(lb) == [:b]
        assert picked(lb) == [:a, :c]
        GrpcLb.Clock.advance(clock, ms - 1)
        assert ejected(lb) == [:b]
        GrpcLb.Clock.advance(clock, 1)
        assert picked(lb) == [:a, :b, :c]
      end

      end_call(lb, :b, :ok)
      # A result says so, too.
      results = for _ <- 1..3, do: GrpcLb.run(lb, &if(&1 == :b, do: {:error, {:transport, 1}}))
      assert Enum.sort(results) == [nil, nil, {:error, {:transport, 1}}]
      assert ejected(lb) == [:b]
      GrpcLb.Clock.advance(clock, 1_000)
      assert %{ejected_until: nil, times_ejected: 4, failures: 5} = backend(lb, :b)

      off = [consecutive_failures: 9, consecutive_transport_failures: nil]
      assert GrpcLb.configure(lb, outlier_detection: off) == {:ok, :changed}
      end_call(lb, :b, {:error, {:transport, :econnrefused}})
      GrpcLb.Clock.advance(clock, 20_000)
      assert backend(lb, :b).times_ejected == 4
    end

    test "ejects none with fewer backends than it needs" do
      clock = GrpcLb.Clock.manual()
      detection = [consecutive_failures: [failures: 1, minimum_hosts: 3]]
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, outlier_detection: detection)
      end_call(lb, :a, {:error, 1})
      assert ejected(lb) == []
      GrpcLb.add(lb, [:c])
      end_call(lb, :b, {:error, 1})
      assert ejected(lb) == [:a]
    end

    test "trusts time, or success, to shorten the next ejection" do
      for {recovery, calls?, ms} <- [
            {:time, false, 30_000},
            {:success, false, 60_000},
            {:success, true, 30_000}
          ] do
        clock = GrpcLb.Clock.manual()
        detection = [consecutive_failures: 1, backoff_recovery: recovery]
        opts = [clock: clock, outlier_detection: detection]
        {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], opts)
        end_call(lb, :a, {:error, 1})
        GrpcLb.Clock.advance(clock, 40_000)
        assert ejected(lb) == []

        for _interval <- 1..2 do
          if calls?, do: end_call(lb, :a, :ok)
          GrpcLb.Clock.advance(clock, 10_000)
        end

        end_call(lb, :a, {:error, 1})
        assert backend(lb, :a).ejected_until == ms
      end
    end

    test "stops at the share that may be ejected" do
      lb = detecting([consecutive_failures: 1, max_ejection_percent: 50], [:a, :b, :c, :d])
      end_call(lb, :a, {:error, 1})
      assert ejected(lb) == [:a]
      end_call(lb, :b, {:error, 1})
      assert ejected(lb) == [:a, :b]
      # Both would be next.
      end_call(lb, :c, {:error, 1})
      end_call(lb, :d, {:error, 1})
      GrpcLb.remove(lb, [:a])
      GrpcLb.add(lb, [:e, :f, :g, :h])
      end_call(lb, :e, {:error, 1})
      assert :e in ejected(lb)
      assert [:b | _] = ejected(lb)
      refute :f in ejected(lb)
    end

    test "lets a backend back in after its time" do
      clock = Clock.manual()
      lb = detecting([consecutive_failures: 1, base_ejection_time: 25_000], [:a, :b, :c], clock)
      end_call(lb, :b, {:error, 1})
      Clock.advance(clock, 29_999)
      assert ejected(lb) == [:b]
      # The first sweep after that.
      Clock.advance(clock, 1)
      assert ejected(lb) == []
      assert picked(lb) == [:a, :b, :c]
      assert backend(lb, :b).times_ejected == 1
    end

    test "ejects who fails more than the threshold allows" do
      clock = Clock.manual()
      gates = [minimum_hosts: 3, request_volume: 10]
      opts = [failure_percentage: [threshold: 40] ++ gates]
      lb = detecting(opts, [:a, :b, :c], clock)

      for i <- 1..60 do
        GrpcLb.run(lb, fn value -> if value == :b and rem(i, 2) == 0, do: :error end)
      end

      Clock.advance(clock, 9_999)
      assert ejected(lb) == []
      Clock.advance(clock, 1)
      assert ejected(lb) == [:b]
    end

    test "ejects who succeeds much less often than the others" do
      clock = Clock.manual()
      gates = [minimum_hosts: 5, request_volume: 10]
      lb = detecting([success_rate: [stdev_factor: 500] ++ gates], [:a, :b, :c, :d, :e], clock)
      for _ <- 1..100, do: GrpcLb.run(lb, &if(&1 == :b, do: :error))
      Clock.advance(clock, 10_000)
      assert ejected(lb) == [:b]
    end

    test "belongs to the id: a reconcile that keeps it lets nobody back in" do
      lb = detecting(consecutive_failures: 1)
      end_call(lb, :b, {:error, 1})
      assert ejected(lb) == [:b]
      GrpcLb.reconcile(lb, [:a, :b, :d])
      assert picked(lb) == [:a, :d]
      GrpcLb.reconcile(lb, [:a])
      GrpcLb.reconcile(lb, [:a, :b])
      assert picked(lb) == [:a, :b]
      assert %{times_ejected: 0, ejected_until: nil} = backend(lb, :b)
    end
  end

  describe "a panic threshold" do
    test "has failing backends picked when too few are healthy" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c, :d], panic_threshold: 50)
      GrpcLb.set_state(lb, :a, :transient_failure)
      GrpcLb.set_state(lb, :b, :transient_failure)
      # A half is not below a half.
      assert picked(lb) == [:c, :d]
      GrpcLb.set_state(lb, :c, :transient_failure)
      assert picked(lb) == [:a, :b, :c, :d]
      GrpcLb.set_state(lb, :d, :transient_failure)
      assert picked(lb) == [:a, :b, :c, :d]
      GrpcLb.set_state(lb, :a, :ready)
      GrpcLb.set_state(lb, :b, :ready)
      assert picked(lb) == [:a, :b]
    end

    test "does not count, nor pick, those that connect, drain or are down" do
      owner = idle()
      backends = [:a, :b, :c, :d, {:e, :e, owner: owner}]
      {:ok, lb} = GrpcLb.new(:round_robin, backends, panic_threshold: 51)
      kill([owner])
      GrpcLb.set_state(lb, :a, :connecting)
      GrpcLb.set_state(lb, :b, :draining)
      eventually(fn -> picked(lb) == [:c, :d] end)
      GrpcLb.set_state(lb, :c, :transient_failure)
      assert picked(lb) == [:c, :d]
      GrpcLb.set_state(lb, :d, :draining)
      assert picked(lb) == [:c]
    end

    test "has ejected backends picked, too" do
      {:ok, lb} =
        GrpcLb.new(:round_robin, [:a, :b],
          clock: Clock.manual(),
          panic_threshold: 51,
          outlier_detection: [consecutive_failures: 1, max_ejection_percent: 100]
        )

      end_call(lb, :a, {:error, 1})
      assert backend(lb, :a).ejected_until != nil
      assert picked(lb) == [:a, :b]
    end

    test "is off by default" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      GrpcLb.set_state(lb, :a, :transient_failure)
      assert picked(lb) == [:b]
      GrpcLb.set_state(lb, :b, :transient_failure)
      assert GrpcLb.pick(lb) == {:error, :no_backends}
    end
  end

  describe "slow start" do
    test "lets the weight of a new backend grow" do
      for policy <- [:random, :least_request, :peak_ewma, :weighted_round_robin] do
        clock = Clock.manual()
        opts = [window: 64_000, aggression: 2]
        {:ok, lb} = GrpcLb.new(policy, [{:a, 1, weight: 4}], slow_start: opts, clock: clock)
        assert weights(lb, :a, clock) == [0.4, 2.0, 2.0 * :math.sqrt(2), 2.0 * :math.sqrt(3), 4.0]
      end
    end

    test "begins anew for one that gets ready again" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:random, [:a, :b], slow_start: [window: 64_000], clock: clock)
      assert weights(lb, :a, clock) == [0.1, 0.25, 0.5, 0.75, 1.0]
      GrpcLb.set_state(lb, :a, :connecting)
      GrpcLb.set_state(lb, :a, :ready)
      assert weights(lb, :a, clock) == [0.1, 0.25, 0.5, 0.75, 1.0]
      assert backend(lb, :b).current_weight == 1.0
    end

    # Now, and at the end of each quarter of 64 seconds.
    defp weights(lb, id, clock) do
      now = backend(lb, id).current_weight

      quarters =
        for _ <- 1..4 do
          Clock.advance(clock, 16_000)
          backend(lb, id).current_weight
        end

      [now | quarters]
    end
  end

  describe "limits" do
    test "refuse calls when so many are in flight" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], max_requests: 2)
      {:ok, :a, one} = GrpcLb.checkout(lb)
      {:ok, :b, _other} = GrpcLb.checkout(lb)
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
      assert GrpcLb.checkout(lb, :key) == {:error, :overloaded}
      assert GrpcLb.run(lb, fn _ -> flunk("called") end) == {:error, :overloaded}
      # Nothing is known of how long what is picked is used.
      assert {:ok, _value} = GrpcLb.pick(lb)
      GrpcLb.complete(one, :cancelled)
      assert {:ok, _value, _ticket} = GrpcLb.checkout(lb)
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
    end

    test "of 0 let no call pass" do
      for limit <- [:max_requests, :max_requests_per_backend] do
        {:ok, lb} = GrpcLb.new(:random, [:a], [{limit, 0}])
        assert GrpcLb.checkout(lb) == {:error, :overloaded}
        assert GrpcLb.pick(lb) == {:ok, :a}
        assert backend(lb, :a).in_flight == 0
      end
    end

    test "hold for the balancer, whoever comes and goes in its list" do
      {:ok, lb} = GrpcLb.new(:random, [:a], max_requests: 1)
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      GrpcLb.reconcile(lb, [:b])
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
      GrpcLb.complete(ticket, :ok)
      assert {:ok, :b, _ticket} = GrpcLb.checkout(lb)
    end

    test "are not used up by calls for which there was no backend" do
      {:ok, lb} = GrpcLb.new(:random, [], max_requests: 1)
      for _ <- 1..3, do: assert(GrpcLb.checkout(lb) == {:error, :no_backends})
      GrpcLb.reconcile(lb, [:a])
      assert {:ok, :a, _ticket} = GrpcLb.checkout(lb)
    end

    test "of a backend have pick_first go on to the next" do
      {:ok, lb} = GrpcLb.new(:pick_first, [:a, :b, :c], max_requests_per_backend: 2)
      tickets = for _ <- 1..6, {:ok, value, ticket} = GrpcLb.checkout(lb), do: {value, ticket}
      assert Enum.map(tickets, &elem(&1, 0)) == [:a, :a, :b, :b, :c, :c]
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
      {:b, ticket} = Enum.at(tickets, 2)
      GrpcLb.complete(ticket, :ok)
      assert {:ok, :b, _ticket} = GrpcLb.checkout(lb)
      assert GrpcLb.pick(lb) == {:ok, :a}
    end

    test "of a backend have the policy choose again" do
      {:ok, lb} =
        GrpcLb.new({:round_robin, start: :first}, Enum.to_list(1..5), max_requests_per_backend: 1)

      {:ok, 1, ticket} = GrpcLb.checkout(lb)
      calls = Enum.frequencies(for _ <- 1..400, do: GrpcLb.run(lb, & &1))
      assert calls == %{2 => 100, 3 => 100, 4 => 100, 5 => 100}

      picks = for %{picks: picks} <- GrpcLb.info(lb).backends, do: picks
      assert picks == [1, 100, 100, 100, 100]

      assert GrpcLb.complete(ticket, :ok) == :ok
    end

    test "of a backend are no refusal while one of a long list has room" do
      for policy <- [:pick_first, :round_robin, :random, :least_request, :peak_ewma] do
        {:ok, lb} = GrpcLb.new(policy, Enum.to_list(1..1_000), max_requests_per_backend: 1)
        tickets = for _ <- 1..1_000, {:ok, id, ticket} = GrpcLb.checkout(lb), do: {id, ticket}
        assert GrpcLb.checkout(lb) == {:error, :overloaded}
        {id, ticket} = Enum.random(tickets)
        GrpcLb.complete(ticket, :ok)
        assert {:ok, ^id, _ticket} = GrpcLb.checkout(lb)
        # A ticket that is garbage makes room: all are held until here.
        assert length(tickets) == 1_000
      end
    end

    @tag :concurrency
    test "are exact under concurrency" do
      {:ok, lb} =
        GrpcLb.new(:random, Enum.to_list(1..3), max_requests: 5, max_requests_per_backend: 3)

      in_flight = :counters.new(4, [])

      over =
        together(16, fn _ ->
          for _ <- 1..2_000,
              GrpcLb.run(lb, fn id -> busiest(in_flight, id) end) == :over,
              do: :over
        end)

      assert List.flatten(over) == []
      for %{in_flight: n} <- GrpcLb.info(lb).backends, do: assert(n == 0)
    end

    # Counts itself in and out again: 4 counts all.
    defp busiest(in_flight, id) do
      for i <- [id, 4], do: :counters.add(in_flight, i, 1)
      over? = :counters.get(in_flight, id) > 3 or :counters.get(in_flight, 4) > 5
      for i <- [id, 4], do: :counters.sub(in_flight, i, 1)
      if over?, do: :over
    end
  end
end
