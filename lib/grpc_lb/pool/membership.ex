defmodule GrpcLb.Pool.Membership do
  @moduledoc false
  # Joins and leaves: changes of the balancer's list of members.
  #
  # In a cluster the feed makes the changes of this node's members, one after the other, so that
  # what comes last for a pid is last both in the balancer and in what other nodes hear. While the
  # feed is down a change is made by its caller. That is as good: the next feed starts from what
  # the balancer lists. It can have looked just before the change, so it is asked once more.

  alias GrpcLb.Pool.{Feed, Handle}
  alias GrpcLb.Waiters

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
  def make(handle, {:join, {pid, value, weight}}) do
    add(handle, handle.local, [{pid, value, owner: pid, weight: weight}])
  end

  def make(handle, {:leave, pid}), do: GrpcLb.remove(handle.local, [pid])

  @doc "Lists members of other nodes; their nodes' scopes watch them."
  @spec add_remote(Handle.t(), [member()]) :: result()
  def add_remote(handle, members) do
    add(
      handle,
      handle.remote,
      for({pid, value, weight} <- members, do: {pid, value, weight: weight})
    )
  end

  @spec remove_remote(Handle.t(), [pid()]) :: result()
  def remove_remote(handle, pids), do: GrpcLb.remove(handle.remote, pids)

  defp add(handle, balancer, backends) do
    result = GrpcLb.add(balancer, backends)

    with {:ok, %{added: added, kept: kept}} <- result do
      others = Handle.balancers(handle) -- [balancer]
      Waiters.notify(handle.waiters, fn -> added + kept + count_in(others) end)
    end

    result
  end

  @doc "All members as the balancers know them, local ones first if they are kept apart."
  @spec list(Handle.t()) :: {:ok, [map()]} | {:error, :not_running}
  def list(handle) do
    infos = Enum.map(Handle.balancers(handle), &GrpcLb.info/1)

    if Enum.any?(infos, & &1.closed) do
      {:error, :not_running}
    else
      {:ok, Enum.flat_map(infos, &ready/1)}
    end
  end

  @doc "How many members there are."
  @spec count(Handle.t()) :: non_neg_integer()
  def count(%Handle{} = handle), do: handle |> Handle.balancers() |> count_in()

  defp count_in(balancers), do: balancers |> Enum.map(&GrpcLb.size/1) |> Enum.sum()

  defp ready(info) do
    for %{state: :ready, id: pid} = backend <- info.backends do
      backend |> Map.drop([:id, :state, :owner]) |> Map.put(:pid, pid)
    end
  end
end
