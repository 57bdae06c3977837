defmodule GrpcLb.ClockTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.{Clock, Native}
  alias GrpcLb.Test.Peer

  doctest GrpcLb.Clock

  @outliers [
    consecutive_failures: 1,
    interval: 10_000,
    base_ejection_time: 30_000,
    max_ejection_percent: 100
  ]

  defp backend(lb, id), do: Enum.find(GrpcLb.info(lb).backends, &(&1.id == id))

  defp fail(lb, id) do
    {:ok, value, ticket} = GrpcLb.checkout(lb)
    if value == id, do: GrpcLb.complete(ticket, {:error, 1}), else: fail(lb, id)
  end

  describe "a manual clock" do
    test "stands still until it is moved, and each goes by its own" do
      {one, other} = {Clock.manual(), Clock.manual()}
      {:ok, lb} = GrpcLb.new(:least_request, [:a], clock: one)
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      assert Clock.advance(one, 0) == :ok
      assert Clock.advance(other, 1_000) == :ok
      assert Clock.advance(one, 7) == :ok
      GrpcLb.complete(ticket, :ok)
      assert backend(lb, :a).latency_ns == 7_000_000
    end

    test "times the first response, too" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:least_request, [:a], clock: clock)
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      Clock.advance(clock, 3)
      GrpcLb.first_response(ticket)
      Clock.advance(clock, 600_000)
      GrpcLb.complete(ticket, :ok)
      assert backend(lb, :a).latency_ns == 3_000_000
    end

    test "ends an ejection at its time, in one step and in many" do
      for steps <- [[34_999], List.duplicate(1, 34_999), [30_001, 4_998]] do
        clock = Clock.manual()
        {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, outlier_detection: @outliers)
        Clock.advance(clock, 5_000)
        fail(lb, :a)
        # At once, and by the clock.
        assert %{state: :ejected, times_ejected: 1, ejected_until: 30_000} = backend(lb, :a)
        assert backend(lb, :a).ejected_by == :consecutive_failures
        # The first sweep after that is the fourth.
        for step <- steps, do: Clock.advance(clock, step)
        assert %{state: :ejected, ejected_until: 0} = backend(lb, :a)
        Clock.advance(clock, 1)
        assert %{state: :ready, ejected_until: nil, ejected_by: nil} = backend(lb, :a)
      end
    end

    test "has the work of several balancers done, in the order of its times" do
      clock = Clock.manual()

      lbs =
        for interval <- [1_000, 700, 300] do
          opts = Keyword.merge(@outliers, interval: interval, base_ejection_time: 2_000)
          {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, outlier_detection: opts)
          fail(lb, :a)
          lb
        end

      ejected = fn -> for lb <- lbs, do: backend(lb, :a).ejected_until != nil end

      # Sweeps of a time that has just come are too early, and the next ones after that are at 2,100
      # and at 3,000.
      Clock.advance(clock, 2_099)
      assert ejected.() == [true, true, true]
      Clock.advance(clock, 1)
      assert ejected.() == [true, false, false]
      Clock.advance(clock, 899)
      assert ejected.() == [true, false, false]
      Clock.advance(clock, 1)
      assert ejected.() == [false, false, false]
    end

    test "drives a balancer that has such work only later" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock)
      Clock.advance(clock, 500)
      {:ok, :changed} = GrpcLb.configure(lb, outlier_detection: @outliers)
      fail(lb, :a)
      assert backend(lb, :a).ejected_until == 30_000
      Clock.advance(clock, 40_000)
      assert backend(lb, :a).ejected_until == nil
    end

    test "is not what the ticker goes by" do
      clock = Clock.manual()
      opts = Keyword.merge(@outliers, interval: 1, base_ejection_time: 0)
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, outlier_detection: opts)
      fail(lb, :a)
      # Twice, so that a tick that was under way is through.
      for _ <- 1..2, do: Native.tick()
      assert backend(lb, :a).ejected_until == 0
    end

    test "has weights of load reports and slow start go by it" do
      clock = Clock.manual()

      {:ok, lb} =
        GrpcLb.new({:weighted_round_robin, weights: :reported, reports: :out_of_band}, [:a, :b],
          clock: clock,
          slow_start: [window: 10_000]
        )

      report = %{rps_fractional: 100, cpu_utilization: 0.5}
      for id <- [:a, :b], do: :ok = GrpcLb.report(lb, id, report)
      Clock.advance(clock, 9_999)
      :ok = GrpcLb.report(lb, :a, report)
      Clock.advance(clock, 1_001)
      assert backend(lb, :a).current_weight == 200.0
    end

    test "keeps no balancer, and is kept by those that go by it" do
      clock = Clock.manual()
      test = self()

      {pid, monitor} =
        spawn_monitor(fn ->
          {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, owner: test)
          {:ok, _, _} = GrpcLb.checkout(lb)
          {:ok, dropped} = GrpcLb.new(:random, [:a], clock: clock, outlier_detection: @outliers)
          {:ok, :a, ticket} = GrpcLb.checkout(dropped)
          send(test, {:ticket, ticket})
        end)

      assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 10_000
      assert_received {:ticket, ticket}
      Clock.advance(clock, 60_000)
      assert GrpcLb.complete(ticket, {:error, 1}) == :ok

      {:ok, lb} = GrpcLb.new(:peak_ewma, [:a], clock: Clock.manual())
      :erlang.garbage_collect()
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      assert GrpcLb.complete(ticket, :ok) == :ok
    end

    test "goes on by a time that it can, and is told so else" do
      clock = Clock.manual()
      for _ <- 1..3, do: assert(Clock.advance(clock, 0xFFFFFFFF) == :ok)

      for ms <- [-1, 0x100000000, 1.0, nil, "1", :infinity, {1}] do
        error = assert_raise ArgumentError, fn -> apply(Clock, :advance, [clock, ms]) end
        assert error.message =~ "argument 2 must be a number of milliseconds"
      end

      {:ok, lb} = GrpcLb.new(:random, [])

      for other <- [lb, make_ref(), nil, :clock, self(), 1] do
        error = assert_raise ArgumentError, fn -> Clock.advance(other, 1) end
        assert error.message =~ "argument 1 is not a clock"
      end
    end

    test "is refused in a name that says which option is wrong" do
      for clock <- [:manual, 1, self(), "clock", {Clock, :manual}] do
        error = assert_raise ArgumentError, fn -> GrpcLb.new(:random, [], clock: clock) end
        assert error.message =~ "option :clock must be a reference, or nil"
      end

      {:ok, lb} = GrpcLb.new(:random, [])

      for clock <- [lb, make_ref()] do
        error = assert_raise ArgumentError, fn -> GrpcLb.new(:random, [], clock: clock) end
        assert error.message =~ "clock"
      end

      for {option, value} <- [clock: Clock.manual(), seed: 1] do
        error = assert_raise ArgumentError, fn -> GrpcLb.configure(lb, [{option, value}]) end
        assert error.message =~ "unknown option #{inspect(option)}"
      end
    end

    @tag :concurrency
    test "is moved in turns, with as many others as there are" do
      clock = Clock.manual()
      opts = [clock: clock, outlier_detection: [interval: 1]]
      {:ok, lb} = GrpcLb.new(:least_request, [:a], opts)
      {:ok, :a, ticket} = GrpcLb.checkout(lb)

      1..16
      |> Enum.map(fn _ -> Task.async(fn -> Clock.advance(clock, 20_000) end) end)
      |> Task.await_many(:infinity)

      GrpcLb.complete(ticket, :ok)
      # An average, of one.
      assert_in_delta backend(lb, :a).latency_ns, 16 * 20_000 * 1_000_000, 1_000
    end

    @tag :concurrency
    test "is moved by who can be killed, and leaves the dirty schedulers to others" do
      movers =
        for _ <- 1..(2 * :erlang.system_info(:dirty_cpu_schedulers_online)) do
          clock = Clock.manual()
          opts = [clock: clock, outlier_detection: [interval: 1]]
          {:ok, lb} = GrpcLb.new(:least_request, [:a], opts)
          # Fifty days, each with 86 million sweeps.
          pid = spawn(fn -> Clock.advance(clock, 0xFFFFFFFF) end)

          eventually(fn ->
            GrpcLb.run(lb, fn :a -> GrpcLb.info(lb) end)
            backend(lb, :a).latency_ns > 0
          end)

          {pid, lb}
        end

      for {pid, lb} <- movers do
        Process.exit(pid, :kill)
        GrpcLb.close(lb)
      end

      # What is erased is not freed as long as a NIF has not returned.
      key = {__MODULE__, "is moved by who can be killed"}

      fn ->
        {:ok, lb} = GrpcLb.new(:random, [], name: key)
        :persistent_term.put(key, lb)
      end
      |> Task.async()
      |> Task.await()

      :persistent_term.erase(key)
      eventually(fn -> not Enum.any?(GrpcLb.all(), &(&1.name == key)) end)
    end

    test "is moved in turns that leave no garbage" do
      # In a VM of its own: the VM does not count this for the process.
      assert Peer.run(Peer.start(), Peer.Ticking, :grown_by_moving) < 1_000_000
    end

    @tag :concurrency
    test "is moved by many at once, each step whole, while calls are made" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], clock: clock, outlier_detection: @outliers)

      1..8
      |> Enum.map(fn _ ->
        Task.async(fn ->
          for _ <- 1..200 do
            Clock.advance(clock, 10)
            GrpcLb.run(lb, fn _ -> :error end)
          end
        end)
      end)
      |> Task.await_many(:infinity)

      # 16 seconds have passed, and all that was ejected is let in again 300 seconds later at most.
      Clock.advance(clock, 400_000)
      assert for(%{ejected_until: until} <- GrpcLb.info(lb).backends, do: until) == [nil, nil]
      {:ok, _, ticket} = GrpcLb.checkout(lb)
      assert GrpcLb.complete(ticket, :ok) == :ok
    end
  end

  describe "a seed" do
    defp picks(policy, backends, opts \\ []) do
      {:ok, lb} = GrpcLb.new(policy, backends, [seed: 42] ++ opts)
      for _ <- 1..50, {:ok, value} = GrpcLb.pick(lb), do: value
    end

    test "has random choices repeat, whichever scheduler makes them" do
      backends = for i <- 1..20, do: {i, i, weight: i}

      policies = [
        :random,
        :least_request,
        :peak_ewma,
        {:pick_first, shuffle: true},
        {:round_robin, start: :random},
        {:round_robin, start: :random, cursor: :per_scheduler},
        {:weighted_round_robin, cursor: :per_scheduler},
        :weighted_round_robin
      ]

      for policy <- policies do
        expected = picks(policy, backends)

        for scheduler <- 1..System.schedulers_online() do
          assert expected == on_scheduler(scheduler, fn -> picks(policy, backends) end)
        end
      end
    end

    test "goes on where it is when processes on other schedulers pick" do
      backends = Enum.to_list(1..50)
      expected = picks(:random, backends)
      {:ok, lb} = GrpcLb.new(:random, backends, seed: 42)

      picked =
        for i <- 0..49 do
          scheduler = rem(i, System.schedulers_online()) + 1
          {:ok, value} = on_scheduler(scheduler, fn -> GrpcLb.pick(lb) end)
          value
        end

      assert picked == expected
    end

    test "decides, and is evenly spread" do
      {:ok, one} = GrpcLb.new(:random, Enum.to_list(1..50), seed: 1)
      {:ok, other} = GrpcLb.new(:random, Enum.to_list(1..50), seed: 2)
      refute for(_ <- 1..50, do: GrpcLb.pick(one)) == for(_ <- 1..50, do: GrpcLb.pick(other))

      # 10 of 10 degrees of freedom would be exceeded by one seed in two, 29.6 by one in a thousand.
      {:ok, lb} = GrpcLb.new(:random, Enum.to_list(1..11), seed: 42)
      counts = Enum.frequencies(for _ <- 1..11_000, do: GrpcLb.pick(lb))
      assert map_size(counts) == 11
      assert Enum.sum(for {_, n} <- counts, do: (n - 1_000) ** 2 / 1_000) < 29.6
    end

    test "is a number" do
      for seed <- [-1, 1.0, "42", :x, 0x10000000000000000] do
        error = assert_raise ArgumentError, fn -> GrpcLb.new(:random, [], seed: seed) end
        assert error.message =~ "option :seed must be an integer from 0"
      end

      assert {:ok, _lb} = GrpcLb.new(:random, [], seed: 0xFFFFFFFFFFFFFFFF)
    end

    # A process that stays on one scheduler.
    defp on_scheduler(scheduler, fun) do
      test = self()
      pid = :erlang.spawn_opt(fn -> send(test, {self(), fun.()}) end, [{:scheduler, scheduler}])
      assert_receive {^pid, result}, 30_000
      result
    end
  end

  test "connections and pools take both for their balancers" do
    clock = Clock.manual()
    name = :"#{__MODULE__}.pool"
    opts = [name: name, policy: :random, seed: 42, clock: clock, outlier_detection: @outliers]
    start_supervised!({GrpcLb.Pool, opts})
    members = for i <- 1..2, do: start_supervised!({Agent, fn -> i end}, id: i)
    for member <- members, do: :ok = GrpcLb.Pool.join(name, member)
    GrpcLb.Pool.run(name, fn _ -> :error end)

    until = fn ->
      info = GrpcLb.Pool.info(name)
      Enum.sort(for member <- info.members, do: member.ejected_until)
    end

    assert until.() == [30_000, nil]
    Clock.advance(clock, 40_000)
    assert until.() == [nil, nil]
  end
end
