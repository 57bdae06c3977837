defmodule GrpcLb.Pool.Membership do
  @moduledoc false
  # Joins and leaves: changes of the balancer's list of members.
  #
  # In a cluster the feed makes the changes of this node's members, one after the other, so that
  # what comes last for a pid is last both in the balancer and in what other nodes hear. While the
  # feed is down a change is made by its caller. That is as good: the next feed starts from what
  # the balancer lists. It can have looked just before the change, so it is asked once more.

  alias GrpcLb.Pool.{Feed, Handle, Preference}
  alias GrpcLb.{Interned, Key, Native, Telemetry, Waiters}

  @typedoc "A member: its pid, what a pick returns, its weight."
  @type member :: {pid(), value :: term(), weight :: non_neg_integer()}

  @typedoc "A change of this node's members."
  @type change :: {:join, member()} | {:leave, pid()}

  @typep result :: {:ok, GrpcLb.changes()} | {:error, :closed}

  @spec join(Handle.t(), member()) :: :ok | {:error, :noproc | :not_running}
  def join(handle, {pid, _value, _weight} = member) do
    # A pid from before this node was restarted bears its name, and can be no owner of a backend.
    if Process.alive?(pid), do: join_alive(handle, member), else: {:error, :noproc}
  end

  defp join_alive(handle, {pid, _value, _weight} = member) do
    case change(handle, {:join, member}) do
      {:error, :closed} -> {:error, :not_running}
      {:ok, %{added: 1}} -> :ok
      # It was listed before, or it is dead, and then it is not listed any more.
      {:ok, %{added: 0}} -> if Process.alive?(pid), do: :ok, else: {:error, :noproc}
    end
  end

  @spec leave(Handle.t(), pid()) :: :ok | {:error, :not_running}
  def leave(handle, pid) do
    case change(handle, {:leave, pid}) do
      {:error, :closed} -> {:error, :not_running}
      {:ok, _changes} -> :ok
    end
  end

  defp change(handle, change) do
    with :down <- Feed.ask(handle, change) do
      result = make(handle, change)
      Feed.ask(handle, change)
      result
    end
  end

  @doc "Makes a change in the balancer, which watches this node's members."
  @spec make(Handle.t(), change()) :: result()
  def make(handle, {:join, {pid, _value, _weight} = member}) do
    add(handle, [backend(handle, member, %{owner: pid})])
  end

  def make(handle, {:leave, pid}), do: remove(handle, [pid])

  @doc "Lists members of other nodes; their nodes' scopes watch them."
  @spec add_remote(Handle.t(), [member()]) :: result()
  def add_remote(%Handle{options: options} = handle, members) do
    elsewhere = Preference.elsewhere(options.local_share)
    add(handle, Enum.map(members, &backend(handle, &1, elsewhere)))
  end

  # The external form of a pid is the same on all nodes.
  defp backend(%Handle{hashed?: hashed?}, {pid, value, weight}, opts) do
    opts = if hashed?, do: Map.put(opts, :hash_key, Key.external(pid)), else: opts
    {pid, value, Map.put(opts, :weight, weight)}
  end

  @spec remove_remote(Handle.t(), [pid()]) :: result()
  def remove_remote(handle, pids), do: remove(handle, pids)

  defp add(handle, backends) do
    result = Interned.change(handle.balancer, backends, &Native.add(handle.balancer, &1))

    with {:ok, %{added: added, kept: kept}} <- result do
      Waiters.notify(handle.waiters, added + kept)
      tell(handle, :joined, added, for({pid, _value, _opts} <- backends, do: pid))
    end

    result
  end

  defp remove(handle, pids) do
    result = GrpcLb.remove(handle.balancer, pids)
    with {:ok, %{removed: removed}} <- result, do: tell(handle, :left, removed, pids)
    result
  end

  defp tell(_handle, _event, 0, _pids), do: :ok

  defp tell(%Handle{balancer: balancer, options: options}, event, count, pids) do
    metadata = %{name: options.name, balancer: balancer, ids: pids}
    Telemetry.execute([:grpc_lb, :member, event], %{count: count}, metadata)
  end

  @doc "All members as the balancer knows them, with a preference local ones first."
  @spec list(Handle.t()) :: {:ok, [map()]} | {:error, :not_running}
  def list(handle) do
    with {:ok, %{members: members}} <- info(handle), do: {:ok, members}
  end

  @doc "What the balancer says, with the members as in `list/1` in the place of backends."
  @spec info(Handle.t()) :: {:ok, map()} | {:error, :not_running}
  def info(handle) do
    case GrpcLb.info(handle.balancer) do
      %{closed: true} ->
        {:error, :not_running}

      %{backends: backends} = info ->
        members = backends |> alive() |> in_order(handle.options.local_share)
        {:ok, Map.put(info, :members, members)}
    end
  end

  @doc "How many members there are."
  @spec count(Handle.t()) :: non_neg_integer()
  def count(handle), do: GrpcLb.size(handle.balancer)

  defp in_order(members, nil), do: members

  defp in_order(members, _share) do
    {here, elsewhere} = Enum.split_with(members, &(node(&1.pid) == node()))
    here ++ elsewhere
  end

  defp alive(backends) do
    for %{state: state, id: pid} = backend <- backends, state in [:ready, :ejected] do
      backend
      |> Map.drop([:id, :owner, :in_subset])
      |> Map.put(:pid, pid)
    end
  end
end
