defmodule GrpcLb.Pool.Feed do
  @moduledoc false
  # Stands between a pool's balancer and its :pg scope, in both directions: it tells the other
  # nodes about the members here, and lists the members of other nodes here. Picks never wait for
  # it, and all that it knows can be read anew from the balancer and the scope when it starts.

  use GenServer
  use GrpcLb.Redacted, show: [:ref]

  alias GrpcLb.Pool.{Handle, Membership, View}

  require View

  # How long a connected node of which a scope knows nobody counts as one that has not answered yet.
  @answer_ms 2_000

  @spec start_link(Handle.t()) :: GenServer.on_start()
  def start_link(handle), do: GenServer.start_link(__MODULE__, handle, name: handle.feed)

  @doc """
  Asks the feed to make a change of this node's members. Returns its result, or `:down` if the pool
  has no feed or it ended before it answered.
  """
  @spec ask(Handle.t(), Membership.change()) ::
          {:ok, GrpcLb.changes()} | {:error, :closed} | :down
  def ask(%Handle{feed: nil}, _change), do: :down

  def ask(%Handle{feed: feed}, change) do
    GenServer.call(feed, change, :infinity)
  catch
    :exit, _reason -> :down
  end

  @doc "Has the feed look whether a node is still connected of which a caller thinks that it is not."
  @spec unreachable(Handle.t(), node()) :: :ok
  def unreachable(%Handle{feed: nil}, _node), do: :ok
  def unreachable(%Handle{feed: feed}, node), do: GenServer.cast(feed, {:unreachable, node})

  @doc "Has other nodes no longer pick the members of this one, because their pool stops."
  @spec withdraw(Handle.t()) :: :ok
  def withdraw(%Handle{feed: nil}), do: :ok

  def withdraw(%Handle{feed: feed}), do: GenServer.cast(feed, :withdraw)

  @impl true
  def init(handle) do
    # What follows can take its time: the pool's other children need not wait for it.
    {:ok, handle, {:continue, :read}}
  end

  @impl true
  def handle_continue(:read, handle) do
    {ref, groups} = :pg.monitor_scope(handle.scope)
    in_scope = for {group, pids} <- groups, member?(group, pids), do: group
    {here, elsewhere} = Enum.split_with(in_scope, &local?/1)

    {listed_here, listed_elsewhere} = handle |> listed() |> Enum.split_with(&local?/1)

    for {pid, _value, _weight} = member <- here -- listed_here do
      :pg.leave(handle.scope, member, pid)
    end

    for {pid, _value, _weight} = member <- listed_here -- here do
      :pg.join(handle.scope, member, pid)
    end

    view = Enum.reduce(elsewhere, View.new(), &View.join(&2, &1))
    pids_elsewhere = Enum.map(listed_elsewhere, &elem(&1, 0))
    # A new scope asks the other nodes' scopes who their members are, and each answers with all of
    # them at once. Until then those that are listed stay: most likely they are members still.
    silent = Enum.reject(Node.list(), &View.knows?(view, &1))
    {unheard, heard} = Enum.split_with(pids_elsewhere, &(node(&1) in silent))
    if unheard != [], do: Process.send_after(self(), :answers_due, @answer_ms)

    state = %{
      handle: handle,
      ref: ref,
      announced: Map.new(listed_here, &{elem(&1, 0), &1}),
      view: view,
      unheard: unheard,
      changed: MapSet.new(heard ++ View.pids(view))
    }

    {:noreply, flush(state)}
  end

  defp listed(handle) do
    case Membership.list(handle) do
      {:ok, members} -> for member <- members, do: {member.pid, member.value, member.weight}
      {:error, :not_running} -> []
    end
  end

  @impl true
  def handle_call({:join, {pid, _value, _weight} = member} = change, _from, state) do
    case Membership.make(state.handle, change) do
      {:ok, _changes} = made -> {:reply, made, announce(state, pid, member)}
      {:error, :closed} = closed -> {:reply, closed, state}
    end
  end

  def handle_call({:leave, pid} = change, _from, state) do
    {:reply, Membership.make(state.handle, change), announce(state, pid, nil)}
  end

  # A caller has picked a member of a node that is not connected any more. The scope will say so
  # for each of its members, a moment later.
  @impl true
  def handle_cast({:unreachable, node}, state) do
    if node in Node.list(:connected) do
      {:noreply, state}
    else
      {pids, view} = View.drop_node(state.view, node)
      {gone, unheard} = Enum.split_with(state.unheard, &(node(&1) == node))
      {:noreply, flush(changed(%{state | view: view, unheard: unheard}, pids ++ gone))}
    end
  end

  def handle_cast(:withdraw, %{announced: announced} = state),
    do: {:noreply, Enum.reduce(Map.keys(announced), state, &announce(&2, &1, nil))}

  @impl true
  def handle_info({ref, event, group, pids}, %{ref: ref} = state) do
    cond do
      not member?(group, pids) -> {:noreply, state}
      local?(group) -> {:noreply, heard_here(state, group)}
      true -> {:noreply, heard_elsewhere(state, event, group)}
    end
  end

  def handle_info(:flush, state), do: {:noreply, flush(state)}

  def handle_info(:answers_due, %{view: view, unheard: unheard} = state) do
    gone = Enum.filter(unheard, &(View.current(view, &1) == nil))
    {:noreply, flush(changed(%{state | unheard: []}, gone))}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Joins the new group before it leaves the old one, so that nowhere the member is missing.
  defp announce(%{announced: announced, handle: %Handle{scope: scope}} = state, pid, member) do
    before = Map.get(announced, pid)

    # 1 and 1.0 are two groups, as they are two values.
    if member != nil and member !== before, do: :pg.join(scope, member, pid)
    if before != nil and member !== before, do: :pg.leave(scope, before, pid)

    if member == nil do
      %{state | announced: Map.delete(announced, pid)}
    else
      %{state | announced: Map.put(announced, pid, member)}
    end
  end

  # An echo of what was announced, and old perhaps, or the death of a member.
  defp heard_here(%{announced: announced} = state, {pid, _value, _weight}) do
    if Process.alive?(pid), do: state, else: %{state | announced: Map.delete(announced, pid)}
  end

  # Many events come at once when a node comes or goes. They are collected until those that wait
  # already are heard, and listed in one step.
  defp heard_elsewhere(%{view: view, changed: changed} = state, event, {pid, _, _} = member) do
    if Enum.empty?(changed), do: send(self(), :flush)

    view =
      case event do
        :join -> View.join(view, member)
        :leave -> leave(state, view, member)
      end

    %{state | view: view, changed: MapSet.put(changed, pid)}
  end

  # When a node's scope is killed and started again, the new one can be heard before the end of the old
  # one is: then the member was there twice, and once it still is.
  defp leave(%{handle: %Handle{scope: scope}}, view, {pid, _value, _weight} = member) do
    if pid in :pg.get_members(scope, member), do: view, else: View.leave(view, member)
  end

  defp changed(state, pids) do
    %{state | changed: MapSet.union(state.changed, MapSet.new(pids))}
  end

  defp flush(%{handle: handle, view: view, changed: changed} = state) do
    {gone, here} = changed |> Enum.map(&{&1, View.current(view, &1)}) |> Enum.split_with(&gone?/1)

    if gone != [], do: Membership.remove_remote(handle, Enum.map(gone, &elem(&1, 0)))
    if here != [], do: Membership.add_remote(handle, Enum.map(here, &elem(&1, 1)))

    %{state | changed: MapSet.new()}
  end

  defp gone?({_pid, member}), do: member == nil

  # Only a member's own process makes its group: anybody can join a group of the scope.
  defp member?(group, pids), do: View.is_member(group) and elem(group, 0) in pids

  defp local?({pid, _value, _weight}), do: node(pid) == node()
end
