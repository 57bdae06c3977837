defmodule GrpcLb.Test.Peer.PoolNode do
  @moduledoc "What tests of clusters have done on their nodes."

  import GrpcLb.Test.Eventually

  alias GrpcLb.Pool
  alias GrpcLb.Pool.{Feed, Membership}
  alias GrpcLb.Test.PoolWorker

  @doc "Starts a pool under a supervisor that nobody is linked to."
  def start_pool(opts) do
    {:ok, _supervisor} =
      in_a_process(fn ->
        {:ok, supervisor} = Supervisor.start_link([{Pool, opts}], strategy: :one_for_one)
        Process.unlink(supervisor)
        {:ok, supervisor}
      end)

    :ok
  end

  # What the calling process starts must outlive it.
  defp in_a_process(fun), do: fun |> Task.async() |> Task.await(:infinity)

  def pids(pool) do
    {:ok, members} = Pool.members(pool)
    Enum.sort(Enum.map(members, & &1.pid))
  end

  def picks(pool, n), do: for(_ <- 1..n, do: Pool.pick!(pool))

  @doc "Where keys lead."
  def led(pool, n), do: for(key <- 1..n, do: elem(Pool.pick(pool, {:key, key}), 1))

  @doc "Who answers calls with keys."
  def answers(pool, n) do
    for key <- 1..n do
      {:ok, pid} = Pool.call(pool, :who, key: {:key, key})
      pid
    end
  end

  def join_many(pool, n) do
    ^n = length(PoolWorker.start_members(pool, n))
    :ok
  end

  # Under its supervisor, which would start it again.
  def stop_pool(pool) do
    {:links, links} = Process.info(Process.whereis(pool), :links)
    {:dictionary, dictionary} = Process.info(Process.whereis(pool), :dictionary)
    [above | _] = dictionary[:"$ancestors"]
    true = above in links
    :ok = Supervisor.stop(above)
  end

  @doc "Stops the pool while a call of this node's is in flight, which ends when it gets `:go_on`."
  def stop_with_a_call(pool) do
    test = self()

    call =
      spawn(fn ->
        {:ok, _member, ticket} = Pool.checkout(pool)
        send(test, {:called, self()})

        receive do
          :go_on -> GrpcLb.complete(ticket, :ok)
        end
      end)

    receive do
      {:called, ^call} -> spawn(fn -> stop_pool(pool) end)
    end

    call
  end

  def broadcast_and_hear(pool) do
    :ok = Pool.broadcast(pool, {:report_to, self()})

    for pid <- pids(pool) do
      receive do
        {:reported, ^pid} -> pid
      end
    end
  end

  def raised(function, args) do
    apply(Pool, function, args)
  rescue
    error in ArgumentError -> error.message
  end

  @doc "What is raised for a cluster where `:pg` cannot be monitored. Takes it from the whole VM."
  def raised_with_old_pg do
    :code.unstick_mod(:pg)
    Code.compiler_options(ignore_module_conflict: true)
    Module.create(:pg, quote(do: def(start_link(_scope), do: :ignore)), file: "pg.ex", line: 1)
    raised(:child_spec, [[name: :old, scope: :cluster]])
  end

  def kill(pid), do: GrpcLb.Test.Workers.kill([pid])

  def kill_part(pool, :cluster), do: kill(cluster(pool))
  def kill_part(pool, part), do: kill(whereis(pool, part))

  def suspend(pool, part), do: :sys.suspend(whereis(pool, part))
  def resume(pool, part), do: :sys.resume(whereis(pool, part))

  defp whereis(pool, part) do
    {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
    Process.whereis(Map.fetch!(entry, part))
  end

  @doc """
  Kills the scope. Returns what the next feed does first of two things, and then: it waits no longer for
  answers of other nodes, and it takes members of theirs from the list.
  """
  def after_kill_of_scope(pool) do
    :erlang.trace_pattern({Feed, :handle_info, 2}, [{[:answers_due, :_], [], []}], [])
    :erlang.trace_pattern({Membership, :remove_remote, 2}, true, [])
    # The feed is its child.
    :erlang.trace(cluster(pool), true, [:call, :set_on_spawn])
    kill_part(pool, :scope)

    for _ <- 1..2 do
      receive do
        {:trace, _feed, :call, {Feed, :handle_info, _arguments}} -> :answers_due
        {:trace, _feed, :call, {Membership, :remove_remote, [_handle, pids]}} -> {:removed, pids}
      after
        30_000 -> :nothing
      end
    end
  end

  @doc "Has a process of this node join and leave the group by which another one is a member."
  def meddle(pool, member) do
    {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
    :ok = :pg.join(entry.scope, member, self())
    :ok = :pg.leave(entry.scope, member, self())
  end

  @doc """
  Tells other nodes of members of this one, as a second scope of it would of which they learn before
  they learn of the end of the first; and ends. Returns when they have learnt of both.
  """
  def speak_as_second_scope(pool, nodes, pids) do
    {GrpcLb.Pool, _route, %{scope: scope}} = :persistent_term.get(pool)
    members = for {pid, _, _} = member <- :pg.which_groups(scope), pid in pids, do: member
    told = for node <- nodes, member <- members, do: {node, member}

    in_a_process(fn ->
      for node <- nodes, do: send({scope, node}, {:discover, self()})

      for {node, {pid, _, _} = member} <- told,
          do: send({scope, node}, {:join, self(), member, pid})

      for {node, {pid, _, _} = member} <- told,
          do: await_in_scope(node, scope, member, [pid, pid])
    end)

    for {node, {pid, _, _} = member} <- told, do: await_in_scope(node, scope, member, [pid])
    :ok
  end

  defp await_in_scope(node, scope, member, pids) do
    eventually(fn -> :erpc.call(node, :pg, :get_members, [scope, member]) == pids end)
  end

  def stop_feed(pool), do: Supervisor.terminate_child(cluster(pool), :feed)

  def start_feed(pool) do
    {:ok, _feed} = Supervisor.restart_child(cluster(pool), :feed)
    :ok
  end

  defp cluster(pool) do
    {:cluster, pid, :supervisor, _} =
      pool |> Supervisor.which_children() |> List.keyfind(:cluster, 0)

    pid
  end

  @doc "Whom the pool's scope knows, whatever the feed has made of it."
  def pids_in_scope(pool) do
    {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
    Enum.sort(for {pid, _value, _weight} <- :pg.which_groups(entry.scope), do: pid)
  end

  @doc """
  Has `n` processes call the pool, until `stop_load/1`. Returns once each has had an answer.
  """
  def start_load(pool, n) do
    test = self()

    load =
      spawn(fn ->
        callers = for _ <- 1..n, do: Task.async(fn -> first_call(pool, test) end)

        receive do
          {:stop, from} ->
            Enum.each(callers, &send(&1.pid, :stop))
            send(from, {:load, Task.await_many(callers, :infinity)})
        end
      end)

    for _ <- 1..n do
      receive do
        :called -> :ok
      end
    end

    load
  end

  @doc "Ends the load. Returns for each of its callers how many answers it had, and its errors."
  def stop_load(load) do
    send(load, {:stop, self()})

    receive do
      {:load, results} -> results
    end
  end

  defp first_call(pool, test) do
    {:ok, _member} = Pool.call(pool, {:work, 1})
    send(test, :called)
    call(pool, %{answers: 1, errors: []})
  end

  # Once more after it is told to stop: a call that begins by then meets what the test has waited for.
  defp call(pool, seen) do
    receive do
      :stop -> call_once(pool, seen)
    after
      0 -> call(pool, call_once(pool, seen))
    end
  end

  defp call_once(pool, seen) do
    case Pool.call(pool, {:work, 1}) do
      {:ok, _member} -> %{seen | answers: seen.answers + 1}
      {:error, error} -> %{seen | errors: [error | seen.errors]}
    end
  end
end
