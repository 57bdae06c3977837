defmodule GrpcLb.Test.Peer.PoolLeaks do
  @moduledoc "What `GrpcLb.Stress.PoolLeakTest` has done in a VM of its own."

  import GrpcLb.Test.Eventually

  alias GrpcLb.Pool
  alias GrpcLb.Test.Peer.Leaks
  alias GrpcLb.Test.{PoolWorker, Workers}

  @doc "All that a pool could leave behind."
  def inventory do
    Map.merge(Leaks.inventory(), %{
      processes: length(Process.list()),
      names: Enum.sort(Process.registered()),
      registry: Registry.count(GrpcLb.Registry),
      # Those of pools: OTP makes some of its own when it first comes by a place.
      persistent_terms: for({name, {GrpcLb.Pool, _, _}} <- :persistent_term.get(), do: name),
      ports: length(Port.list())
    })
  end

  def scenarios do
    [:stopped, :shut_down, :started_again, :abandoned, :holder_lost, :all_killed, :refused]
  end

  @doc "Starts a pool in both scopes, with all that can be in it, and ends it in one of the ways."
  def cycle(scenario) do
    for {scope, opts} <- [{:node, []}, {:cluster, []}, {:cluster, [local_share: 0.5]}] do
      pool = :"leaks #{scope}"
      worker = {PoolWorker, {pool, [value: %{some: "term"}]}}
      opts = [name: pool, scope: scope, size: 3, worker: worker] ++ opts
      in_a_process(fn -> run(scenario, pool, opts) end)
      eventually(fn -> Process.whereis(pool) == nil end)
      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
    end

    :ok
  end

  defp run(:refused, pool, opts) do
    Process.flag(:trap_exit, true)
    opts = Keyword.put(opts, :worker, %{id: 1, start: {__MODULE__, :refuse, []}})
    {:error, _reason} = Pool.start_link(opts)
    eventually(fn -> Pool.join(pool) == {:error, :not_running} end)
  end

  defp run(:stopped, pool, opts) do
    {:ok, _supervisor} = Pool.start_link(opts)
    use_it(pool)
    :ok = Pool.stop(pool)
  end

  defp run(:shut_down, pool, opts) do
    {:ok, above} = Supervisor.start_link([{Pool, opts}], strategy: :one_for_one)
    use_it(pool)
    :ok = Supervisor.stop(above)
  end

  defp run(:started_again, pool, opts) do
    {:ok, above} = Supervisor.start_link([{Pool, opts}], strategy: :one_for_one)

    for _ <- 1..3 do
      use_it(pool)
      before = holder(pool)
      kill(pool)
      eventually(fn -> holder(pool) not in [nil, before] end)
    end

    :ok = Supervisor.stop(above)
  end

  defp run(:abandoned, pool, opts) do
    Process.flag(:trap_exit, true)
    {:ok, _supervisor} = Pool.start_link(opts)
    use_it(pool)
    kill(pool)
  end

  defp run(:holder_lost, pool, opts) do
    Process.flag(:trap_exit, true)
    {:ok, supervisor} = Pool.start_link(opts)
    use_it(pool)
    Workers.kill([holder(pool)])

    receive do
      {:EXIT, ^supervisor, :shutdown} -> :ok
    end
  end

  defp run(:all_killed, pool, opts) do
    Process.flag(:trap_exit, true)

    for order <- [& &1, &Enum.reverse/1, &Enum.shuffle/1] do
      {:ok, supervisor} = start_when_possible(opts)
      use_it(pool)
      children = for {_id, pid, _type, _modules} <- Supervisor.which_children(pool), do: pid
      Workers.kill(order.([supervisor | children]))
    end
  end

  # The workers of one that was killed may still be about to end, and to join.
  defp start_when_possible(opts) do
    with {:error, _reason} <- Pool.start_link(opts), do: start_when_possible(opts)
  end

  def refuse, do: {:error, :refused}

  defp holder(pool) do
    with {GrpcLb.Pool, _route, handle} <- :persistent_term.get(pool, nil), do: handle.holder
  end

  defp kill(pool), do: Workers.kill([Process.whereis(pool)])

  # A killed pool's members from outside, and processes that wait for more of them.
  defp use_it(pool) do
    members = PoolWorker.start_members(pool, 20)
    {:ok, _value} = Pool.pick(pool)
    {:ok, _value, _forgotten} = Pool.checkout(pool)
    :called = Pool.run(pool, fn _value -> :called end)
    :ok = Pool.broadcast(pool, {:report_to, self()})
    {:error, :timeout} = Pool.await_members(pool, 1_000, 0)
    waiters = for _ <- 1..3, do: spawn(fn -> Pool.await_members(pool, 1_000, :infinity) end)
    Enum.each(Enum.take(members, 10), &Pool.leave(pool, &1))
    Workers.kill(members ++ waiters)
  end

  # One that ends with all that it started and is linked to.
  defp in_a_process(fun) do
    {pid, monitor} = spawn_monitor(fun)

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} -> :normal = reason
    end
  end
end
