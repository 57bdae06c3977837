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

      test "the pool's supervisor is killed: members from outside stay", context do
        %{pool: pool, workers: workers} = context
        before = entry(pool)
        supervisor = Process.whereis(pool)

        seen =
          picking_during(
            4,
            fn -> elem(Pool.pick(pool), 0) end,
            fn ->
              kill([supervisor])
              eventually(fn -> replaced?(pool, workers) end)
            end,
            100
          )

        assert seen |> List.flatten() |> Keyword.values() |> Enum.uniq() == [:ok]
        assert same?(before, pool)
        assert Process.whereis(pool) != supervisor
      end

      test "the keeper is killed: the pool starts anew, and workers join it", context do
        %{pool: pool, workers: workers} = context
        supervisor = Process.whereis(pool)
        kill([entry(pool).keeper])

        eventually(fn ->
          Process.whereis(pool) not in [nil, supervisor] and length(workers(pool)) == 3
        end)

        assert workers -- workers(pool) == workers
        assert pids(pool) -- workers(pool) == []
        assert Pool.join(pool, context.outsider, value: :outsider) == :ok
        assert :outsider in for(_ <- 1..4, do: Pool.pick!(pool))
      end

      test "the lease is killed: nobody notices, and another one has its duties", context do
        %{pool: pool, workers: workers} = context

        for _ <- 1..2 do
          lease = child(pool, :lease)
          kill([lease])
          eventually(fn -> child(pool, :lease) not in [lease, nil] end)
        end

        assert workers(pool) == workers
        supervisor = Process.whereis(pool)
        kill([entry(pool).keeper])
        eventually(fn -> Process.whereis(pool) not in [nil, supervisor] end)
        stop_supervised!({Pool, pool})
        assert :persistent_term.get(pool, :none) == :none
      end

      test "the pool's supervisor is killed again and again", context do
        %{pool: pool} = context

        for _ <- 1..20 do
          supervisor = Process.whereis(pool)
          kill([supervisor])
          eventually(fn -> Process.whereis(pool) not in [nil, supervisor] end)
        end

        eventually(fn -> length(workers(pool)) == 3 and length(pids(pool)) == 4 end)
      end

      test "the pool gives up: it starts empty, and workers join it", context do
        %{pool: pool, outsider: outsider} = context
        supervisor = Process.whereis(pool)

        # One more than the pool's supervisor lets pass.
        for _ <- 1..4 do
          workers = child(pool, :workers)
          kill([workers])
          eventually(fn -> child(pool, :workers) not in [workers, nil] end)
        end

        eventually(fn -> Process.whereis(pool) not in [nil, supervisor] end)
        eventually(fn -> length(workers(pool)) == 3 end)
        assert outsider not in pids(pool)
      end
    end
  end

  describe "workers that take their time to end:" do
    defmodule Slow do
      # Has a name, as its successor has, and ends when it is told to.
      use GenServer

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
      test "a pool with #{what} options takes over" do
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

  test "a worker fails to start in a pool that takes over: members from outside stay" do
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
    assert Pool.pick(pool) == {:ok, self()}
  end

  describe "nobody takes the pool over:" do
    test "its supervisor is killed, and no supervisor had started it" do
      pool = :"nobody's pool"
      Process.flag(:trap_exit, true)
      {:ok, supervisor} = Pool.start_link(name: pool)
      Pool.join(pool)
      kill([supervisor])
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
      assert Pool.pick(pool) == {:error, :not_running}
    end

    test "its supervisor is killed, and then that one's supervisor" do
      pool = :"orphaned pool"
      Process.flag(:trap_exit, true)
      child = Supervisor.child_spec({Pool, name: pool}, restart: :temporary)
      {:ok, above} = Supervisor.start_link([child], strategy: :one_for_one)
      Pool.join(pool)
      kill([Process.whereis(pool)])
      # Nobody came yet, so the keeper waits.
      assert Pool.pick(pool) == {:ok, self()}
      kill([above])
      eventually(fn -> Pool.pick(pool) == {:error, :not_running} end)
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
    end

    test "the one that comes has other options, and starts empty" do
      pool = :"changed pool"
      child = &Supervisor.child_spec({Pool, [name: pool] ++ &1}, restart: :temporary)
      {:ok, above} = Supervisor.start_link([child.([])], strategy: :one_for_one)
      Pool.join(pool)
      kill([Process.whereis(pool)])
      {:ok, _pool} = Supervisor.start_child(above, child.(policy: :random, scope: :cluster))
      assert {:ok, %{policy: :random, scope: :cluster, members: []}} = Pool.info(pool)
      assert Pool.join(pool) == :ok
      kill([Process.whereis(pool)])
      {:ok, _pool} = Supervisor.start_child(above, child.(policy: :random, scope: :cluster))
      assert Pool.pick(pool) == {:ok, self()}
      Supervisor.stop(above)
    end

    test "it is stopped while nobody has it" do
      pool = :"stopped orphan"
      Process.flag(:trap_exit, true)
      child = Supervisor.child_spec({Pool, name: pool}, restart: :temporary)
      {:ok, _above} = Supervisor.start_link([child], strategy: :one_for_one)
      Pool.join(pool)
      kill([Process.whereis(pool)])
      assert Pool.stop(pool) == :ok
      assert :persistent_term.get(pool, :none) == :none
      assert Pool.stop(pool) == {:error, :not_running}
    end

    test "its supervisor and its keeper are killed at once: what is left is its name, until a stop" do
      pool = :"killed with its keeper"
      Process.flag(:trap_exit, true)
      {:ok, supervisor} = Pool.start_link(name: pool)
      keeper = entry(pool).keeper
      lease = Process.monitor(child(pool, :lease))
      # It must not hear of the supervisor's end before its own.
      :ok = :sys.suspend(keeper)
      kill([supervisor])
      assert_receive {:DOWN, ^lease, :process, _lease, :killed}, 5_000
      kill([keeper])
      assert :persistent_term.get(pool, :none) != :none
      assert Pool.pick(pool) == {:error, :not_running}
      assert Pool.stop(pool) == :ok
      assert :persistent_term.get(pool, :none) == :none
      assert Pool.stop(pool) == {:error, :not_running}
    end
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

        seen =
          picking_during(
            2,
            fn -> elem(Pool.pick(pool), 0) end,
            fn ->
              kill([victim])
              eventually(fn -> up?(entry) and announced(entry) == Enum.sort(members) end)
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

      expected = fn -> pids(pool) |> Enum.sort() end
      eventually(fn -> up?(entry) and announced(entry) == expected.() end)

      {:ok, listed} = Pool.members(pool)

      assert Enum.sort(groups(entry)) ==
               Enum.sort(for m <- listed, do: {m.pid, m.value, m.weight})

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

  defp up?(entry) do
    Process.whereis(entry.feed) != nil and Process.whereis(entry.scope) != nil
  end

  defp entry(pool) do
    {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
    entry
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
