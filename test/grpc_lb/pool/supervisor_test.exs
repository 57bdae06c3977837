defmodule GrpcLb.Pool.SupervisorTest do
  # What fails, and what then: a process of every level is killed.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1, picking_during: 4]

  alias GrpcLb.Pool
  alias GrpcLb.Test.PoolWorker

  @moduletag :capture_log

  # In a cluster of one node all the rest must be as it is without.
  for scope <- [:node, :cluster] do
    describe "scope #{scope}:" do
      @describetag scope: scope

      setup context do
        pool = context.test
        opts = [name: pool, scope: context.scope, size: 3, worker: {PoolWorker, {pool, []}}]
        start_supervised!({Pool, opts})
        outsider = idle()
        :ok = Pool.join(pool, outsider, value: :outsider)
        on_exit(fn -> Process.exit(outsider, :kill) end)
        %{pool: pool, outsider: outsider, workers: workers(pool)}
      end

      test "a worker is killed: the others do not notice", %{pool: pool, workers: workers} do
        [victim | others] = workers
        kill([victim])
        eventually(fn -> length(workers(pool)) == 3 end)
        assert others -- workers(pool) == []
        assert victim not in workers(pool)
      end

      test "the workers' supervisor is killed: new workers join", context do
        %{pool: pool, workers: workers} = context
        before = entry(pool)
        kill([child(pool, :workers)])
        eventually(fn -> replaced?(pool, workers) end)
        assert same?(before, pool)
      end

      test "the pool's supervisor is killed: another starts empty, and workers join it",
           context do
        %{pool: pool, workers: workers, outsider: outsider} = context
        before = entry(pool)
        supervisor = Process.whereis(pool)
        kill([supervisor])
        await_successor(pool, supervisor)
        assert_ended(before)
        assert workers -- workers(pool) == workers
        assert outsider not in pids(pool)
        assert Pool.join(pool, outsider, value: :outsider) == :ok
        assert :outsider in for(_ <- 1..4, do: Pool.pick!(pool))
      end

      test "the holder is killed: another pool starts empty, and workers join it", context do
        %{pool: pool, workers: workers, outsider: outsider} = context
        before = entry(pool)
        supervisor = Process.whereis(pool)
        # What tells members from outside.
        monitor = Process.monitor(supervisor)
        kill([before.holder])
        assert_receive {:DOWN, ^monitor, :process, ^supervisor, :shutdown}, 10_000
        await_successor(pool, supervisor)
        assert_ended(before)
        assert workers -- workers(pool) == workers
        assert pids(pool) -- workers(pool) == []
        assert Pool.join(pool, outsider, value: :outsider) == :ok
        assert :outsider in for(_ <- 1..4, do: Pool.pick!(pool))
      end

      test "the gate is killed: nobody notices, and another one has its duty", context do
        %{pool: pool, workers: workers} = context
        before = entry(pool)

        for _ <- 1..2 do
          gate = child(pool, :gate)
          kill([gate])
          eventually(fn -> child(pool, :gate) not in [gate, nil] end)
        end

        assert workers(pool) == workers
        assert same?(before, pool)
        stop_supervised!({Pool, pool})
        assert :persistent_term.get(pool, :none) == :none
      end

      test "the pool's supervisor and its holder are killed again and again", context do
        %{pool: pool} = context

        for victims <- [[:supervisor], [:holder], [:supervisor, :holder], [:holder, :supervisor]],
            _ <- 1..5 do
          before = entry(pool)
          supervisor = Process.whereis(pool)
          pids = %{supervisor: supervisor, holder: before.holder}
          for victim <- victims, do: Process.exit(pids[victim], :kill)
          await_successor(pool, supervisor)
          assert_ended(before)
        end

        assert pids(pool) -- workers(pool) == []
      end

      test "all of its processes are killed, in any order", context do
        %{pool: pool} = context

        for _ <- 1..10 do
          before = entry(pool)
          supervisor = Process.whereis(pool)
          children = for {_, pid, _, _} <- Supervisor.which_children(pool), do: pid
          for pid <- Enum.shuffle([supervisor | children]), do: Process.exit(pid, :kill)
          await_successor(pool, supervisor)
          assert_ended(before)
        end

        eventually(fn -> length(workers(pool)) == 3 and length(pids(pool)) == 3 end)
      end

      test "the pool gives up: it starts empty, and workers join it", context do
        %{pool: pool, outsider: outsider} = context
        supervisor = Process.whereis(pool)

        # More than it lets pass in five seconds.
        eventually(fn ->
          with workers when workers != nil <- child(pool, :workers), do: kill([workers])
          Process.whereis(pool) != supervisor
        end)

        await_successor(pool, supervisor)
        assert outsider not in pids(pool)
      end
    end
  end

  describe "workers that take their time to end:" do
    defmodule Slow do
      # Has a name, as its successor has, and ends when it is told to.
      use GenServer, shutdown: 60_000

      def start_link(test), do: GenServer.start_link(__MODULE__, test, name: __MODULE__)

      @impl true
      def init(test) do
        Process.flag(:trap_exit, true)
        send(test, {:started, self()})
        {:ok, test}
      end

      @impl true
      def terminate(_reason, test) do
        send(test, {:ending, self()})

        receive do
          :end -> :ok
        end
      end
    end

    # The new workers wait for them, and nobody's restarts are used up.
    for {what, next} <- ["the same": [], other: [policy: :random]] do
      test "a pool with #{what} options that starts under the name waits" do
        pool = :"slow workers, #{unquote(what)} options"
        opts = [name: pool, size: 1, worker: {Slow, self()}]
        child = &Supervisor.child_spec({Pool, opts ++ &1}, restart: :temporary)
        {:ok, above} = Supervisor.start_link([child.([])], strategy: :one_for_one)
        assert_receive {:started, first}, 5_000

        kill([Process.whereis(pool)])
        assert_receive {:ending, ^first}, 5_000
        starting = Task.async(fn -> Supervisor.start_child(above, child.(unquote(next))) end)
        assert Task.yield(starting, 50) == nil
        refute_received {:started, _second}

        send(first, :end)
        assert {:ok, _pool} = Task.await(starting)
        assert_receive {:started, second}, 5_000
        stopping = Task.async(fn -> Supervisor.stop(above) end)
        assert_receive {:ending, ^second}, 5_000
        send(second, :end)
        assert Task.await(stopping) == :ok
      end
    end
  end

  test "a worker fails to start in the next pool: the supervisor above tries again" do
    pool = :"workers start at the third try"
    starts = :counters.new(1, [])

    start = fn ->
      :counters.add(starts, 1, 1)
      # The first one after the kill.
      if :counters.get(starts, 1) == 2,
        do: {:error, :not_yet},
        else: Agent.start_link(fn -> 1 end)
    end

    worker = %{id: :worker, start: {:erlang, :apply, [start, []]}}
    start_supervised!({Pool, name: pool, size: 1, worker: worker})
    Pool.join(pool)
    kill([Process.whereis(pool)])
    eventually(fn -> :counters.get(starts, 1) == 3 end)
    eventually(fn -> child(pool, :workers) != nil end)
    assert Pool.pick(pool) == {:error, :no_backends}
    assert Pool.join(pool) == :ok
    assert Pool.pick(pool) == {:ok, self()}
  end

  describe "no other is started:" do
    test "its supervisor is killed, and no supervisor had started it" do
      pool = :"nobody's pool"
      Process.flag(:trap_exit, true)
      {:ok, supervisor} = Pool.start_link(name: pool)
      Pool.join(pool)
      before = entry(pool)
      kill([supervisor])
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
      assert Pool.pick(pool) == {:error, :not_running}
      assert_ended(before)
    end

    test "its supervisor is killed, and then that one's supervisor" do
      pool = :"orphaned pool"
      Process.flag(:trap_exit, true)
      child = Supervisor.child_spec({Pool, name: pool}, restart: :temporary)
      {:ok, above} = Supervisor.start_link([child], strategy: :one_for_one)
      Pool.join(pool)
      before = entry(pool)
      kill([Process.whereis(pool), above])
      eventually(fn -> Pool.pick(pool) == {:error, :not_running} end)
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
      assert_ended(before)
    end

    test "its holder is killed: the name is erased" do
      pool = :"holder without a successor"
      Process.flag(:trap_exit, true)
      {:ok, supervisor} = Pool.start_link(name: pool)
      Pool.join(pool)
      before = entry(pool)
      kill([before.holder])
      assert_receive {:EXIT, ^supervisor, :shutdown}, 10_000
      assert Pool.pick(pool) == {:error, :not_running}
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
      assert_ended(before)
    end

    test "it is stopped while it is about to end" do
      pool = :"stopped orphan"
      Process.flag(:trap_exit, true)
      child = Supervisor.child_spec({Pool, name: pool}, restart: :temporary)
      {:ok, _above} = Supervisor.start_link([child], strategy: :one_for_one)
      Pool.join(pool)
      before = entry(pool)
      kill([Process.whereis(pool)])
      assert Pool.stop(pool) in [:ok, {:error, :not_running}]
      assert :persistent_term.get(pool, :none) == :none
      assert Pool.stop(pool) == {:error, :not_running}
      assert_ended(before)
    end

    # A worker that is just started again finds no pool to join, if its pool is closed before its supervisor
    # stops; and that gives up after a few attempts. Once in about 50 stops that was seen.
    test "it is stopped while its workers are started again: it ends as one that is stopped" do
      pool = :"stopped while it restarts"
      Process.flag(:trap_exit, true)

      for _ <- 1..300 do
        {:ok, supervisor} = Pool.start_link(name: pool, size: 3, worker: {PoolWorker, {pool, []}})
        {:ok, members} = Pool.members(pool)
        Enum.each(members, &Process.exit(&1.pid, :kill))
        :ok = Pool.stop(pool)
        assert_receive {:EXIT, ^supervisor, reason}, 10_000
        assert reason == :normal
      end
    end

    test "its supervisor and its holder are killed at once: nothing is left, also of the name" do
      for order <- [& &1, &Enum.reverse/1] do
        pool = :"killed with its holder"
        Process.flag(:trap_exit, true)
        {:ok, supervisor} = Pool.start_link(name: pool)
        before = entry(pool)
        kill(order.([supervisor, before.holder]))
        assert Pool.pick(pool) == {:error, :not_running}
        assert Pool.stop(pool) in [:ok, {:error, :not_running}]
        assert :persistent_term.get(pool, :none) == :none
        assert Pool.stop(pool) == {:error, :not_running}
        assert_ended(before)
      end
    end
  end

  test "its supervisor's supervisor is killed: that one's successor starts it again" do
    pool = :"pool of a killed supervisor"
    worker = {PoolWorker, {pool, []}}

    above = %{
      id: :above,
      start:
        {Supervisor, :start_link,
         [[{Pool, name: pool, size: 3, worker: worker}], [strategy: :one_for_one]]},
      type: :supervisor
    }

    # Where nobody waits for an end, three attempts are used up at once.
    {:ok, top} = Supervisor.start_link([above], strategy: :one_for_one)
    before = entry(pool)
    supervisor = Process.whereis(pool)
    [{:above, pid, _type, _modules}] = Supervisor.which_children(top)
    kill([pid])
    await_successor(pool, supervisor)
    assert_ended(before)
    Supervisor.stop(top)
    assert :persistent_term.get(pool, :none) == :none
  end

  describe "the feed and the scope:" do
    setup context do
      pool = context.test
      start_supervised!({Pool, name: pool, scope: :cluster})
      members = PoolWorker.start_members(pool, 5)
      on_exit(fn -> kill(members) end)
      %{pool: pool, members: members, entry: entry(pool)}
    end

    # What other nodes hear.
    defp announced(entry), do: Enum.sort(for {pid, _, _} <- groups(entry), do: pid)
    defp groups(entry), do: :pg.which_local_groups(entry.scope)

    test "other nodes hear of joins, updates, leaves and deaths", context do
      %{pool: pool, members: [first, second | rest], entry: entry} = context
      assert announced(entry) == Enum.sort(context.members)
      Pool.join(pool, first, value: :new, weight: 2)
      assert Enum.filter(groups(entry), &(elem(&1, 0) == first)) == [{first, :new, 2}]
      Pool.leave(pool, first)
      kill([second])
      eventually(fn -> announced(entry) == Enum.sort(rest) end)
      Pool.leave(pool, first)
      Pool.join(pool, first)
      assert announced(entry) == Enum.sort([first | rest])
    end

    for victim <- [:feed, :scope, :cluster] do
      test "the #{victim} is killed: nobody notices", context do
        %{pool: pool, members: members, entry: entry} = context
        victim = victim(pool, unquote(victim))
        feed = Process.whereis(entry.feed)

        seen =
          picking_during(
            2,
            fn -> elem(Pool.pick(pool), 0) end,
            fn ->
              kill([victim])
              # Whoever is killed, the feed is the last to be back.
              eventually(fn -> Process.whereis(entry.feed) not in [nil, feed] end)
              eventually(fn -> announced(entry) == Enum.sort(members) end)
            end,
            100
          )

        assert seen |> List.flatten() |> Keyword.values() |> Enum.uniq() == [:ok]
        assert Enum.sort(pids(pool)) == Enum.sort(members)
      end
    end

    defp victim(pool, :cluster), do: child(pool, :cluster)
    defp victim(pool, process), do: Process.whereis(Map.fetch!(entry(pool), process))

    test "the feed is stuck: picks, calls and who waits do not notice", context do
      %{pool: pool, members: members, entry: entry} = context
      :ok = :sys.suspend(entry.feed)
      assert Pool.pick!(pool) in members
      assert {:ok, _member} = Pool.call(pool, :who, 5_000)
      assert Pool.await_members(pool, 5, :infinity) == :ok
      assert Pool.await_members(pool, 6, 10) == {:error, :timeout}
      assert Pool.broadcast(pool, {:report_to, self()}) == :ok
      assert Enum.sort(pids(pool)) == Enum.sort(members)
      # A join waits, and is made when the feed goes on.
      joining = Task.async(fn -> Pool.join(pool, hd(members), value: :new) end)
      assert Task.yield(joining, 50) == nil
      :ok = :sys.resume(entry.feed)
      assert Task.await(joining) == :ok
    end

    test "joins and leaves while the feed is down are announced by the next one", context do
      %{pool: pool, members: [first, second | rest], entry: entry} = context
      cluster = child(pool, :cluster)
      :ok = Supervisor.terminate_child(cluster, :feed)
      assert Pool.leave(pool, first) == :ok
      assert Pool.join(pool, second, value: :new) == :ok
      late = PoolWorker.start_member(pool)
      assert announced(entry) == Enum.sort(context.members)
      {:ok, _feed} = Supervisor.restart_child(cluster, :feed)
      eventually(fn -> announced(entry) == Enum.sort([late, second | rest]) end)
      assert Enum.filter(groups(entry), &(elem(&1, 0) == second)) == [{second, :new, 1}]
      kill([late])
    end

    test "messages and groups that are not the pool's are passed over", context do
      %{pool: pool, members: members, entry: entry} = context
      feed = Process.whereis(entry.feed)
      send(feed, :hello)
      send(feed, {make_ref(), :join, :group, []})

      for group <- [:group, {self(), :value, 0}, {:me, 1, 1}],
          do: :pg.join(entry.scope, group, self())

      assert Pool.join(pool) == :ok
      assert Process.whereis(entry.feed) == feed
      assert Enum.sort(pids(pool)) == Enum.sort([self() | members])
    end

    @tag :concurrency
    test "joins, leaves and deaths while the feed is killed again and again", context do
      %{pool: pool, entry: entry} = context
      members = for _ <- 1..30, do: idle()
      {dying, staying} = Enum.split(members, 10)
      stop = :atomics.new(1, [])

      killer =
        Task.async(fn ->
          # More kills would have the pool's supervisor give up, which is another test.
          for _ <- 1..3 do
            feed = Process.whereis(entry.feed)
            if feed, do: kill([feed])
            eventually(fn -> Process.whereis(entry.feed) not in [nil, feed] end)
          end
        end)

      churners =
        for i <- 1..4 do
          Task.async(fn ->
            churn(stop, fn ->
              member = Enum.random(members)

              if rem(i, 2) == 0,
                do: Pool.join(pool, member, value: i),
                else: Pool.leave(pool, member)
            end)
          end)
        end

      Task.await(killer, 30_000)
      kill(dying)
      :atomics.put(stop, 1, 1)
      Task.await_many(churners, 30_000)

      {:ok, left} = Pool.members(pool)
      listed = Enum.sort(for m <- left, do: {m.pid, m.value, m.weight})
      eventually(fn -> Enum.sort(groups(entry)) == listed end)
      assert pids(pool) -- (staying ++ context.members) == []
      kill(staying)
    end
  end

  defp churn(stop, fun) do
    if :atomics.get(stop, 1) == 0 do
      fun.()
      churn(stop, fun)
    end
  end

  defp entry(pool) do
    {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
    entry
  end

  # Another pool of this name, with all its workers.
  defp await_successor(pool, supervisor) do
    eventually(fn ->
      Process.whereis(pool) not in [nil, supervisor] and length(workers(pool)) == 3
    end)
  end

  # Its balancers are closed, and it has left no process.
  defp assert_ended(%{holder: holder} = entry) do
    eventually(fn -> GrpcLb.info(entry.balancer).closed end)
    eventually(fn -> not Process.alive?(holder) end)
    eventually(fn -> not Process.alive?(entry.waiters) end)
  end

  defp same?(entry, pool), do: :erts_debug.same(entry, entry(pool))

  # Three new workers, the member from outside, and nobody else.
  defp replaced?(pool, workers) do
    now = workers(pool)
    length(now) == 3 and workers -- now == workers and length(pids(pool)) == 4
  end

  defp child(pool, id) do
    {^id, pid, _type, _modules} = pool |> Supervisor.which_children() |> List.keyfind(id, 0)
    if is_pid(pid), do: pid
  catch
    :exit, _the_pool_is_down -> nil
  end

  # The members that are workers, once all of the pool's processes are up.
  defp workers(pool) do
    case child(pool, :workers) do
      nil ->
        []

      supervisor ->
        children = for {_, pid, _, _} <- Supervisor.which_children(supervisor), do: pid
        Enum.filter(children, &(&1 in pids(pool)))
    end
  catch
    :exit, _the_supervisor_is_down -> []
  end

  defp pids(pool) do
    case Pool.members(pool) do
      {:ok, members} -> Enum.map(members, & &1.pid)
      {:error, :not_running} -> []
    end
  end
end
