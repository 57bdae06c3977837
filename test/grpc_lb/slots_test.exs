defmodule GrpcLb.SlotsTest do
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.{Native, Slots}
  alias GrpcLb.Test.Peer

  defp balancer(policy \\ :least_request, backends \\ [:a], opts \\ []) do
    {:ok, lb} = GrpcLb.new(policy, backends, opts)
    lb
  end

  defp counts(lb) do
    for backend <- GrpcLb.info(lb).backends,
        do: {backend.in_flight, backend.successes, backend.failures}
  end

  defp in_another_process(fun), do: fun |> Task.async() |> Task.await()

  defp never_done(test) do
    send(test, :running)
    Process.sleep(:infinity)
  end

  describe "GrpcLb.run/3" do
    test "makes one resource a process, and no ticket" do
      lb = balancer()
      assert Process.get(Slots) == nil
      GrpcLb.run(lb, fn :a -> :ok end)
      {pid, slots} = Process.get(Slots)
      assert pid == self() and is_reference(slots)
      for _ <- 1..10, do: GrpcLb.run(lb, fn :a -> :ok end)
      assert Process.get(Slots) == {pid, slots}

      in_another_process(fn ->
        GrpcLb.run(lb, fn :a -> :ok end)
        assert Slots.own() != slots
      end)

      # One that has taken over a dictionary does not take those for its own.
      in_another_process(fn ->
        Process.put(Slots, {pid, slots})
        GrpcLb.run(lb, fn :a -> :ok end)
        GrpcLb.run(lb, fn :a -> :ok end, outcome: fn :ok -> :ok end)
        assert Slots.own() != slots
      end)

      assert counts(lb) == [{0, 14, 0}]
    end

    test "runs in a run, and each call ends as it went" do
      lb = balancer(:round_robin, [:a, :b])

      deep = fn deep, depth ->
        GrpcLb.run(lb, fn _value ->
          assert lb |> counts() |> Enum.map(&elem(&1, 0)) |> Enum.sum() == depth
          if depth < 100, do: deep.(deep, depth + 1)
          if rem(depth, 4) == 0, do: {:error, depth}, else: depth
        end)
      end

      assert deep.(deep, 1) == 1
      assert [{0, a, 0}, {0, b, 25}] = counts(lb)
      assert {a, b} == {50, 25}
    end

    test "counts what raises, exits and throws as failed, and goes on" do
      lb = balancer()
      assert_raise RuntimeError, "oops", fn -> GrpcLb.run(lb, fn :a -> raise "oops" end) end
      assert catch_exit(GrpcLb.run(lb, fn :a -> exit(:gone) end)) == :gone

      assert catch_throw(GrpcLb.run(lb, fn :a -> GrpcLb.run(lb, fn :a -> throw(:up) end) end)) ==
               :up

      assert counts(lb) == [{0, 0, 4}]
      assert GrpcLb.run(lb, fn :a -> 1 end) == 1
      assert counts(lb) == [{0, 1, 4}]
    end

    test "ends its call though the process dictionary was erased meanwhile" do
      lb = balancer()

      GrpcLb.run(lb, fn :a ->
        :erlang.erase()
        :erlang.garbage_collect()
        # In slots of their own.
        GrpcLb.run(lb, fn :a -> assert counts(lb) == [{2, 0, 0}] end)
        Process.delete(Slots)
        :erlang.garbage_collect()
        assert counts(lb) == [{1, 1, 0}]
      end)

      assert counts(lb) == [{0, 2, 0}]
    end

    test "has a process that `fun` starts make calls of its own" do
      lb = balancer()

      GrpcLb.run(lb, fn :a ->
        in_another_process(fn ->
          GrpcLb.run(lb, fn :a -> assert counts(lb) == [{2, 0, 0}] end)
        end)
      end)

      assert counts(lb) == [{0, 2, 0}]
    end

    test "is cancelled with its process, which lets in who waits for room" do
      lb = balancer(:least_request, [:a], max_requests: 2, checkout_wait: 60_000)
      test = self()

      runner =
        spawn(fn ->
          GrpcLb.run(lb, fn :a -> GrpcLb.run(lb, fn :a -> never_done(test) end) end)
        end)

      assert_receive :running, 5_000
      waiting = Task.async(fn -> GrpcLb.run(lb, fn :a -> :in end) end)
      refute Task.yield(waiting, 50)
      Process.exit(runner, :kill)
      assert Task.await(waiting) == :in
      eventually(fn -> counts(lb) == [{0, 1, 0}] end)
    end

    test "that is killed ends a drain" do
      lb = balancer()
      test = self()

      runner = spawn(fn -> GrpcLb.run(lb, fn :a -> never_done(test) end) end)

      assert_receive :running, 5_000
      {:ok, %{removed: 1}, [number]} = Native.reconcile_draining(lb, [], [:a])
      assert is_integer(number)
      refute_received {:grpc_lb_drained, _}
      Process.exit(runner, :kill)
      assert_receive {:grpc_lb_drained, ^number}, 5_000
    end

    test "measures by the clock of each balancer" do
      clocks = for _ <- 1..2, do: GrpcLb.Clock.manual()
      [one, other] = for clock <- clocks, do: balancer(:peak_ewma, [:a], clock: clock)
      [fast, slow] = clocks

      GrpcLb.run(one, fn :a ->
        GrpcLb.run(other, fn :a ->
          GrpcLb.Clock.advance(fast, 3)
          GrpcLb.Clock.advance(slow, 70)
        end)
      end)

      assert [%{latency_ns: 3_000_000}] = GrpcLb.info(one).backends
      assert [%{latency_ns: 70_000_000}] = GrpcLb.info(other).backends
    end

    test "has what it makes urgent on a manual clock done when it returns" do
      opts = [
        clock: GrpcLb.Clock.manual(),
        outlier_detection: [consecutive_failures: 1, max_ejection_percent: 100]
      ]

      lb = balancer(:round_robin, [:a, :b], opts)
      GrpcLb.run(lb, fn :a -> :error end)
      assert [%{times_ejected: 1}, %{times_ejected: 0}] = GrpcLb.info(lb).backends
    end
  end

  describe "slots" do
    test "are refused to every other process, which changes nothing" do
      lb = balancer()
      slots = Native.slots()
      {:ok, :a, slot} = Native.begin_call(lb, slots)
      message = ~r/argument 2 has the calls of another process/

      in_another_process(fn ->
        assert_raise ArgumentError, message, fn -> Native.begin_call(lb, slots) end
        assert_raise ArgumentError, message, fn -> Native.begin_call(lb, slots, "key") end

        assert_raise ArgumentError, message, fn ->
          Native.begin_call_except(lb, slots, [], nil)
        end

        assert_raise ArgumentError, ~r/argument 1 has the calls of another process/, fn ->
          Native.complete(slots, slot, :ok, nil, nil)
        end
      end)

      assert counts(lb) == [{1, 0, 0}]
      assert Native.complete(slots, slot, :ok, nil, nil) == :ok
      assert counts(lb) == [{0, 1, 0}]
    end

    test "name what is wrong with an argument, and end nothing then" do
      lb = balancer()
      slots = Native.slots()
      {:ok, :a, slot} = Native.begin_call(lb, slots)

      for {call, message} <- [
            {fn -> Native.begin_call(slots, slots) end, "argument 1 is not a balancer"},
            {fn -> Native.begin_call(lb, lb) end,
             "argument 2 is not the slots of calls: expected the reference that " <>
               "GrpcLb.Native.slots/0 returned to this process, got another reference"},
            {fn -> Native.begin_call(lb, :slots) end, "got an atom"},
            {fn -> Native.begin_call(lb, slots, 1.0) end, "argument 3, the key,"},
            {fn -> Native.begin_call_except(lb, slots, :a, nil) end, "argument 3"},
            {fn -> Native.begin_call_except(lb, slots, [], 1.0) end, "argument 4, the key,"},
            {fn -> Native.complete(lb, slot, :ok, nil, nil) end,
             "argument 1 is not the slots of calls"},
            {fn -> Native.complete(slots, :slot, :ok, nil, nil) end,
             "argument 2, the slot, must be an integer"},
            {fn -> Native.complete(slots, slot, :fine, nil, nil) end, "argument 3, the outcome,"},
            {fn -> Native.complete(slots, slot, :ok, %{cpu_utilization: :high}, nil) end,
             "argument 4, the load report,"},
            {fn -> Native.complete(slots, slot, :ok, nil, -1) end, "argument 5, the latency,"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, call
      end

      assert counts(lb) == [{1, 0, 0}]
      assert Native.complete(slots, slot, :error, nil, nil) == :ok
    end

    test "know a call that has ended, whatever has begun since" do
      lb = balancer()
      slots = Native.slots()
      {:ok, :a, first} = Native.begin_call(lb, slots)
      assert Native.complete(slots, first, :ok, nil, nil) == :ok

      for _ <- 1..1_000 do
        {:ok, :a, slot} = Native.begin_call(lb, slots)
        assert slot != first
        assert Native.complete(slots, first, :error, nil, nil) == {:error, :already_completed}
        assert Native.complete(slots, slot, :ok, nil, nil) == :ok
      end

      for none <- [0, 1_002, 0xFFFFFFFFFFFFFFFF],
          do: assert(Native.complete(slots, none, :ok, nil, nil) == {:error, :already_completed})

      assert counts(lb) == [{0, 1_001, 0}]
    end

    test "hold any number of calls, of several balancers, which end in any order" do
      lbs = for _ <- 1..3, do: balancer(:round_robin, [:a, :b])
      slots = Native.slots()

      begun =
        for number <- 1..3_000 do
          lb = Enum.at(lbs, rem(number, 3))
          {:ok, _value, slot} = Native.begin_call(lb, slots)
          slot
        end

      assert begun == Enum.uniq(begun)
      for lb <- lbs, do: assert(counts(lb) == [{500, 0, 0}, {500, 0, 0}])
      for slot <- Enum.shuffle(begun), do: :ok = Native.complete(slots, slot, :ok, nil, nil)
      for lb <- lbs, do: assert(counts(lb) == [{0, 500, 0}, {0, 500, 0}])
    end

    test "keep count of each backend, however many are called in turn, and nothing of those that go" do
      # More than the records that are kept, and lists that come and go while records are.
      assert Peer.run(Peer.start(), Peer.Slots, :in_turn, [5, 50, 4]) == :gone
    end

    test "that are garbage have their calls cancelled, few or many" do
      lb = balancer()
      test = self()

      holder =
        spawn(fn ->
          slots = Native.slots()
          for _ <- 1..5_000, do: {:ok, :a, _slot} = Native.begin_call(lb, slots)
          send(test, :begun)
          receive do: (:forget -> :ok)
          :erlang.garbage_collect()
          send(test, :forgotten)
          receive do: (:end -> :ok)
        end)

      assert_receive :begun, 5_000
      assert counts(lb) == [{5_000, 0, 0}]
      send(holder, :forget)
      assert_receive :forgotten, 5_000
      eventually(fn -> counts(lb) == [{0, 0, 0}] end)
      send(holder, :end)
    end

    test "are used on by a process that has hibernated" do
      lb = balancer()
      test = self()
      {:ok, pid} = Task.start(fn -> __MODULE__.begin_and_hibernate(lb, test) end)
      assert_receive :hibernating, 5_000
      assert counts(lb) == [{1, 0, 0}]
      send(pid, :wake_up)
      assert_receive {:ended, :ok}, 5_000
      assert counts(lb) == [{0, 1, 0}]
    end

    if File.exists?("/proc/self/statm") do
      test "give back the memory of a burst, though a call of it goes on" do
        {before, meanwhile, left} = Peer.run(Peer.start(), Peer.Slots, :burst, [1_000_000])
        assert meanwhile - before > 40_000_000
        assert left - before < (meanwhile - before) / 4
      end
    end
  end

  def begin_and_hibernate(lb, test) do
    slots = Slots.own()
    {:ok, :a, slot} = Native.begin_call(lb, slots)
    send(test, :hibernating)
    :proc_lib.hibernate(__MODULE__, :end_call, [slots, slot, test])
  end

  def end_call(slots, slot, test) do
    receive do: (:wake_up -> :ok)
    send(test, {:ended, Native.complete(slots, slot, :ok, nil, nil)})
  end

  @tag :concurrency
  test "processes on all schedulers run, nest and fail at once, and all of it is counted" do
    lb = balancer(:least_request, [:a, :b, :c])

    1..64
    |> Task.async_stream(
      fn _ ->
        for n <- 1..500 do
          GrpcLb.run(lb, fn _ ->
            if rem(n, 10) == 0, do: GrpcLb.run(lb, fn _ -> :erlang.yield() end)
            if rem(n, 5) == 0, do: :error, else: :ok
          end)
        end
      end,
      max_concurrency: 64,
      timeout: 60_000
    )
    |> Stream.run()

    counts = counts(lb)
    assert counts |> Enum.map(&elem(&1, 0)) |> Enum.sum() == 0
    assert counts |> Enum.map(&elem(&1, 1)) |> Enum.sum() == 64 * 450
    assert counts |> Enum.map(&elem(&1, 2)) |> Enum.sum() == 64 * 100
  end
end
