defmodule GrpcLb.Janitor do
  @moduledoc false
  # Cleans up what killed processes have left: an open transport, the name of a pool. A process says
  # what before it makes it, and says when it has cleaned up itself. When a supervisor was killed its
  # children are to end by themselves, and one that cannot, because it is in a user's callback, is
  # killed here.

  use GenServer
  use GrpcLb.Redacted, show: []

  alias GrpcLb.Connection.Callback
  alias GrpcLb.Secret

  @clean_up_ms 1_000
  # As a supervisor gives its children.
  @shutdown_ms 3_000
  @await_ms 30_000

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc """
  Watches the calling process, as one of a group: any term. With its supervisor, it does not outlive
  that: it is killed at once if it has nothing to clean up, and soon if it does not end.
  """
  @spec watch(group :: term(), supervisor :: pid() | nil) :: :ok
  def watch(group, supervisor \\ nil),
    do: GenServer.call(__MODULE__, {:watch, group, supervisor}, :infinity)

  @doc """
  What to call when the calling process has ended; `nil` is nothing. Replaces what was said before. It has so many
  milliseconds from when it begins: what is a user's may never end.
  """
  @spec clean_up_with({module(), function :: atom(), arguments :: [term()]} | nil, timeout()) ::
          :ok
  def clean_up_with(mfa, ms \\ @clean_up_ms),
    do: GenServer.cast(__MODULE__, {:clean_up_with, self(), hidden(mfa), ms})

  defp hidden(nil), do: nil
  defp hidden({module, function, arguments}), do: {module, function, Secret.hide(arguments)}

  @doc """
  Waits until a process that is watched, or all that are in a group now, have ended and nothing of
  theirs is left. Gives up after half a minute.
  """
  @spec await(pid() | (group :: term())) :: :ok
  def await(pid_or_group) do
    GenServer.call(__MODULE__, {:await, pid_or_group}, @await_ms)
  catch
    :exit, _no_janitor_or_timeout -> :ok
  end

  # `watched` has for each process its group, its supervisor, and what to call. A process that cleans up
  # is there in the place of the one that ended, its `subject`. `supervisors` are those of them all that
  # live. `waiting` has who waits for which subjects.
  @impl true
  def init([]) do
    # Holders are linked to it, so that they do not outlive it. It outlives them.
    Process.flag(:trap_exit, true)
    {:ok, %{watched: %{}, supervisors: MapSet.new(), waiting: []}}
  end

  @impl true
  def handle_call({:watch, group, supervisor}, {pid, _tag}, state) do
    Process.monitor(pid)
    watched = %{subject: pid, group: group, supervisor: supervisor, clean_up: nil}
    {:reply, :ok, state |> watch_supervisor(supervisor) |> put_in([:watched, pid], watched)}
  end

  def handle_call({:await, pid_or_group}, from, state) do
    subjects =
      for {_pid, %{subject: subject, group: group}} <- state.watched,
          pid_or_group in [subject, group],
          do: subject

    {:noreply, answer(%{state | waiting: [{from, subjects} | state.waiting]})}
  end

  @impl true
  def handle_cast({:clean_up_with, pid, mfa, ms}, state) do
    case state.watched do
      %{^pid => watched} ->
        {:noreply, put_in(state.watched[pid], Map.merge(watched, %{clean_up: mfa, ms: ms}))}

      # The janitor before this one watched it.
      _unknown ->
        {:noreply, state}
    end
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    if pid in state.supervisors, do: {:noreply, orphaned(pid, state)}, else: ended(pid, state)
  end

  # Where there is much to run it may begin late.
  def handle_info({:cleaning_up, pid, ms}, state) do
    if ms != :infinity, do: Process.send_after(self(), {:too_long, pid}, ms)
    {:noreply, state}
  end

  def handle_info({:too_long, pid}, state) do
    if is_map_key(state.watched, pid), do: Process.exit(pid, :kill)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp watch_supervisor(state, nil), do: state

  defp watch_supervisor(state, supervisor) do
    unless supervisor in state.supervisors, do: Process.monitor(supervisor)
    update_in(state.supervisors, &MapSet.put(&1, supervisor))
  end

  defp orphaned(supervisor, state) do
    for {pid, %{supervisor: ^supervisor} = watched} <- state.watched do
      if watched.clean_up,
        do: Process.send_after(self(), {:too_long, pid}, @shutdown_ms),
        else: Process.exit(pid, :kill)
    end

    update_in(state.supervisors, &MapSet.delete(&1, supervisor))
  end

  defp ended(pid, state) do
    case pop_in(state.watched[pid]) do
      # Watched twice, and done with.
      {nil, state} -> {:noreply, state}
      {%{clean_up: nil}, state} -> {:noreply, answer(state)}
      {watched, state} -> {:noreply, clean_up(watched, state)}
    end
  end

  defp clean_up(%{clean_up: {module, function, arguments}} = watched, state) do
    janitor = self()
    # What was said before a hot upgrade has no time.
    ms = Map.get(watched, :ms, @clean_up_ms)

    {pid, _monitor} =
      spawn_monitor(fn ->
        send(janitor, {:cleaning_up, self(), ms})
        Callback.call(module, function, Secret.reveal(arguments))
      end)

    put_in(state.watched[pid], %{watched | clean_up: nil, supervisor: nil})
  end

  defp answer(state) do
    left = MapSet.new(state.watched, fn {_pid, %{subject: subject}} -> subject end)

    {waiting, done} =
      Enum.split_with(state.waiting, fn {_from, subjects} ->
        Enum.any?(subjects, &(&1 in left))
      end)

    for {from, _subjects} <- done, do: GenServer.reply(from, :ok)
    %{state | waiting: waiting}
  end
end
