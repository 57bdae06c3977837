defmodule GrpcLb.Pool.DrainTest do
  # Calls in flight while their pool stops.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.Pool
  alias GrpcLb.Test.PoolWorker

  @moduletag capture_log: true

  setup context do
    Process.flag(:trap_exit, true)
    %{pool: context.test}
  end

  defp start(pool, opts) do
    opts = [name: pool, size: 3, worker: {PoolWorker, {pool, []}}] ++ opts
    {:ok, supervisor} = Pool.start_link(opts)
    :ok = Pool.await_members(pool, 3, 10_000)
    supervisor
  end

  # A call that asks its member when it is told to.
  defp call(pool) do
    test = self()

    task =
      Task.async(fn ->
        Pool.run(pool, fn member ->
          send(test, {:in_flight, self()})

          receive do
            :go_on -> GenServer.call(member, :who)
          end
        end)
      end)

    assert_receive {:in_flight, _pid}, 10_000
    task
  end

  defp go_on(task) do
    send(task.pid, :go_on)
    Task.await(task, 10_000)
  end

  defp stopping(pool, fun \\ &Pool.stop/1) do
    task = Task.async(fn -> fun.(pool) end)
    eventually(fn -> Pool.pick(pool) == {:error, :not_running} end)
    task
  end

  test "its workers end when the calls in flight have ended", %{pool: pool} do
    start(pool, drain_timeout: :infinity)
    calls = [call(pool), call(pool)]
    stop = stopping(pool)
    assert Pool.run(pool, fn _member -> :called end) == {:error, :not_running}

    for call <- calls do
      assert Task.yield(stop, 0) == nil
      assert is_pid(go_on(call))
    end

    assert Task.await(stop, 10_000) == :ok
  end

  test "a supervisor that stops it waits for them", %{pool: pool} do
    spec = {Pool, name: pool, size: 1, worker: {PoolWorker, {pool, []}}, drain_timeout: :infinity}
    {:ok, supervisor} = Supervisor.start_link([spec], strategy: :one_for_one)
    :ok = Pool.await_members(pool, 1, 10_000)
    call = call(pool)
    stop = stopping(pool, fn _pool -> Supervisor.stop(supervisor) end)
    assert Task.yield(stop, 0) == nil
    assert is_pid(go_on(call))
    assert Task.await(stop, 10_000) == :ok
  end

  test "other nodes do not hear of a process that meets its stop as it joins", %{pool: pool} do
    start(pool, drain_timeout: :infinity, scope: :cluster)
    {:ok, handle} = Pool.Handle.fetch(pool)
    call = call(pool)
    stop = stopping(pool)
    eventually(fn -> :pg.which_local_groups(handle.scope) == [] end)
    # It had found the pool before.
    assert Pool.Membership.join(handle, {self(), :late, 1}) == {:error, :not_running}
    assert :pg.which_local_groups(handle.scope) == []
    assert is_pid(go_on(call))
    assert Task.await(stop, 10_000) == :ok
  end

  test "with no call in flight it stops at once", %{pool: pool} do
    start(pool, drain_timeout: :infinity)
    assert is_pid(Pool.run(pool, & &1))
    assert {:ok, _member} = Pool.pick(pool)
    assert Pool.stop(pool) == :ok
  end

  test "it waits for drain_timeout at most", %{pool: pool} do
    for timeout <- [0, 20] do
      start(pool, drain_timeout: timeout)
      call = call(pool)
      Process.unlink(call.pid)
      assert Pool.stop(pool) == :ok
      send(call.pid, :go_on)
      assert {:exit, {:noproc, _call}} = Task.yield(call, 10_000)
    end
  end

  test "workers that die while it drains are not started again, and take no others with them",
       %{pool: pool} do
    start(pool, drain_timeout: :infinity, max_restarts: 0)
    {:ok, members} = Pool.members(pool)
    test = self()

    call =
      Task.async(fn ->
        Pool.run(pool, fn member ->
          send(test, {:in_flight, member})

          receive do
            :go_on -> GenServer.call(member, :who)
          end
        end)
      end)

    assert_receive {:in_flight, used}, 10_000
    stop = stopping(pool)

    for %{pid: pid} <- members, pid != used do
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 10_000
    end

    assert go_on(call) == used
    assert Task.await(stop, 10_000) == :ok
  end
end
