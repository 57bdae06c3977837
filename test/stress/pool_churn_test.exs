defmodule GrpcLb.Stress.PoolChurnTest do
  # Members join, leave and die at random while fifty callers pick.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1, together: 2]

  alias GrpcLb.Pool
  alias GrpcLb.Test.PoolWorker

  @moduletag :concurrency
  @moduletag :capture_log

  @callers 50
  @churners 4
  # Of each churner. In a cluster each takes several processes, which compete with the callers.
  @changes %{node: 300, cluster: 50}

  for policy <- [:round_robin, :random, :pick_first], scope <- [:node, :cluster] do
    test "#{policy} in scope #{scope}: no pick is a member that had left or died before" do
      pool = :"churn #{unquote(policy)} #{unquote(scope)}"
      start_supervised!({Pool, name: pool, policy: unquote(policy), scope: unquote(scope)})
      churn(pool, @changes[unquote(scope)], fn -> :ok end)
    end
  end

  # The holder and the supervisor are not among them: with these the pool ends.
  test "nor while the pool's processes are killed" do
    pool = :"churn under fire"
    worker = {PoolWorker, {pool, [value: :worker]}}
    # More restarts of workers than kills.
    opts = [name: pool, scope: :cluster, size: 3, worker: worker, max_restarts: 100]
    start_supervised!({Pool, opts})
    outsider = idle()
    :ok = Pool.join(pool, outsider, value: :outsider)
    {GrpcLb.Pool, _route, handle} = :persistent_term.get(pool)

    churn(pool, @changes.cluster, fn ->
      # No more than the supervisors of the pool bear.
      for victim <- [:feed, :worker, :scope, :gate, :feed, :worker, :workers, :cluster, :worker] do
        pid = victim(pool, handle, victim)
        kill([pid])
        eventually(fn -> victim(pool, handle, victim) not in [nil, pid] end)
      end
    end)

    {:ok, members} = Pool.members(pool)
    assert outsider in Enum.map(members, & &1.pid)
    assert {GrpcLb.Pool, _route, ^handle} = :persistent_term.get(pool)
    kill([outsider])
  end

  defp victim(_pool, handle, :feed), do: Process.whereis(handle.feed)
  defp victim(_pool, handle, :scope), do: Process.whereis(handle.scope)

  defp victim(pool, handle, :worker) do
    with pid when is_pid(pid) <- victim(pool, handle, :workers) do
      {_id, worker, _type, _modules} = pid |> Supervisor.which_children() |> List.last()
      if is_pid(worker), do: worker
    end
  catch
    :exit, _it_has_ended -> nil
  end

  defp victim(pool, _handle, child) do
    {^child, pid, _type, _modules} = pool |> Supervisor.which_children() |> List.keyfind(child, 0)
    if is_pid(pid), do: pid
  end

  for {scope, n} <- [node: 10_000, cluster: 2_000] do
    test "#{n} members join one by one in scope #{scope}" do
      pool = :"one by one, scope #{unquote(scope)}"
      policy = {:round_robin, start: :first}
      start_supervised!({Pool, name: pool, policy: policy, scope: unquote(scope)})
      members = for _ <- 1..unquote(n), do: idle()
      for member <- members, do: :ok = Pool.join(pool, member)
      assert for(_ <- members, do: Pool.pick!(pool)) == members
      assert Pool.await_members(pool, unquote(n), 0) == :ok
      {leaving, dying} = Enum.split(members, div(unquote(n), 2))
      for member <- leaving, do: :ok = Pool.leave(pool, member)
      assert Enum.sort(for _ <- dying, do: Pool.pick!(pool)) == Enum.sort(dying)
      kill(dying)
      assert Pool.pick(pool) == {:error, :no_backends}
      kill(leaving)
    end
  end

  # Every membership has a value of its own, and `gone` has for each value when it had ended: the
  # clock after its leave had returned, or after the news of its process's death had arrived here, at
  # one that began to monitor it after it had joined. The VM tells watchers in the order in which they
  # began to watch, so this says nothing of those who monitored a member before it joined.
  # Callers note the clock before they pick.
  defp churn(pool, changes, disturb) do
    clock = :atomics.new(1, [])
    gone = :ets.new(:gone, [:public, write_concurrency: true])
    stable = idle()
    :ok = Pool.join(pool, stable, value: :stable)

    callers =
      for _ <- 1..@callers do
        Task.async(fn ->
          # Fifty busy processes would leave the others few turns.
          Process.flag(:priority, :low)
          pick(pool, clock, %{})
        end)
      end

    disturber = Task.async(disturb)

    together(@churners, fn _ ->
      Enum.reduce(1..changes, [], fn _, members -> change(pool, clock, gone, members) end)
    end)

    Task.await(disturber, :infinity)
    for caller <- callers, do: send(caller.pid, :stop)

    for {value, picked_at} <-
          callers |> Task.await_many(:infinity) |> Enum.flat_map(&Map.to_list/1),
        [{^value, gone_at}] <- [:ets.lookup(gone, value)] do
      assert picked_at < gone_at, "#{inspect(value)} was picked after it had gone"
    end

    kill([stable])
  end

  # The latest time at which each value was picked.
  defp pick(pool, clock, seen) do
    receive do
      :stop -> seen
    after
      0 ->
        now = :atomics.get(clock, 1)
        # There is one member always.
        {:ok, value} = Pool.pick(pool)
        pick(pool, clock, Map.put(seen, value, now))
    end
  end

  defp change(pool, clock, gone, members) do
    case {:rand.uniform(4), members} do
      {n, members} when n == 1 or members == [] ->
        pid = idle()
        [join(pool, pid) | members]

      # Joins again before it left: the value that it had is no member's any more.
      {2, [{pid, value} | members]} ->
        member = join(pool, pid)
        gone!(clock, gone, value)
        members ++ [member]

      {3, [{pid, value} | members]} ->
        :ok = Pool.leave(pool, pid)
        gone!(clock, gone, value)
        members ++ [join(pool, pid)]

      {4, [{pid, value} | members]} ->
        kill([pid])
        gone!(clock, gone, value)
        members
    end
  end

  defp join(pool, pid) do
    value = make_ref()
    :ok = Pool.join(pool, pid, value: value)
    {pid, value}
  end

  defp gone!(clock, gone, value), do: :ets.insert(gone, {value, :atomics.add_get(clock, 1, 1)})
end
