defmodule GrpcLb.Janitor do
  @moduledoc false
  # Cleans up what killed processes have left: an open transport, the name of a pool. A process says
  # what before it makes it, and says when it has cleaned up itself.

  use GenServer

  alias GrpcLb.Connection.Callback

  @clean_up_ms 1_000
  @await_ms 30_000

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "Watches the calling process, as one of a group: any term."
  @spec watch(group :: term()) :: :ok
  def watch(group), do: GenServer.call(__MODULE__, {:watch, group}, :infinity)

  @doc "What to call when the calling process has ended; `nil` is nothing. Replaces what was said before."
  @spec clean_up_with({module(), function :: atom(), arguments :: [term()]} | nil) :: :ok
  def clean_up_with(mfa), do: GenServer.cast(__MODULE__, {:clean_up_with, self(), mfa})

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

  # `watched` has for each process its group, and what to call. A process that cleans up is there in
  # the place of the one that ended, its `subject`. `waiting` has who waits for which subjects.
  @impl true
  def init([]) do
    # Holders are linked to it, so that they do not outlive it. It outlives them.
    Process.flag(:trap_exit, true)
    {:ok, %{watched: %{}, waiting: []}}
  end

  @impl true
  def handle_call({:watch, group}, {pid, _tag}, state) do
    Process.monitor(pid)
    {:reply, :ok, put_in(state.watched[pid], %{subject: pid, group: group, clean_up: nil})}
  end

  def handle_call({:await, pid_or_group}, from, state) do
    subjects =
      for {_pid, %{subject: subject, group: group}} <- state.watched,
          pid_or_group in [subject, group],
          do: subject

    {:noreply, answer(%{state | waiting: [{from, subjects} | state.waiting]})}
  end

  @impl true
  def handle_cast({:clean_up_with, pid, mfa}, state) do
    case state.watched do
      %{^pid => _watched} -> {:noreply, put_in(state.watched[pid].clean_up, mfa)}
      # The janitor before this one watched it.
      _unknown -> {:noreply, state}
    end
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    case pop_in(state.watched[pid]) do
      # Watched twice, and done with.
      {nil, state} -> {:noreply, state}
      {%{clean_up: nil}, state} -> {:noreply, answer(state)}
      {watched, state} -> {:noreply, clean_up(watched, state)}
    end
  end

  def handle_info({:too_long, pid}, state) do
    if is_map_key(state.watched, pid), do: Process.exit(pid, :kill)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp clean_up(%{clean_up: {module, function, arguments}} = watched, state) do
    {pid, _monitor} = spawn_monitor(fn -> Callback.call(module, function, arguments) end)
    Process.send_after(self(), {:too_long, pid}, @clean_up_ms)
    put_in(state.watched[pid], %{watched | clean_up: nil})
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
