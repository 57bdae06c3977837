defmodule GrpcLb.Connection.Closer do
  @moduledoc false
  # Closes what subchannels have left open when they were killed, whoever killed them. A subchannel
  # tells it what it has opened, before anybody else, and that it has closed that: what was told last
  # is known here before its death is.

  use GenServer

  alias GrpcLb.Connection.Callback

  @close_ms 1_000

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "Watches the calling process, a subchannel under this supervisor."
  @spec watch(supervisor :: pid()) :: :ok
  def watch(supervisor), do: GenServer.call(__MODULE__, {:watch, supervisor}, :infinity)

  @doc "The calling process has opened this transport."
  @spec opened(module(), value :: term()) :: :ok
  def opened(module, value), do: GenServer.cast(__MODULE__, {:opened, self(), {module, value}})

  @doc "The calling process has closed its transport."
  @spec closed() :: :ok
  def closed, do: GenServer.cast(__MODULE__, {:opened, self(), nil})

  @doc "Waits until all subchannels under this supervisor have ended, and nothing of theirs is open."
  @spec await(supervisor :: pid()) :: :ok
  def await(supervisor), do: GenServer.call(__MODULE__, {:await, supervisor}, :infinity)

  # Its state: who is watched, under which supervisor, and what it has open; and who waits for one.

  @impl true
  def init([]), do: {:ok, %{watched: %{}, waiting: []}}

  @impl true
  def handle_call({:watch, supervisor}, {pid, _tag}, state) do
    Process.monitor(pid)
    {:reply, :ok, put_in(state.watched[pid], {supervisor, nil})}
  end

  def handle_call({:await, supervisor}, from, state) do
    {:noreply, answer(%{state | waiting: [{from, supervisor} | state.waiting]})}
  end

  @impl true
  def handle_cast({:opened, pid, open}, state) do
    case state.watched do
      %{^pid => {supervisor, _before}} ->
        {:noreply, put_in(state.watched[pid], {supervisor, open})}

      # It was watched by the closer before this one.
      _unknown ->
        {:noreply, state}
    end
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    case pop_in(state.watched[pid]) do
      {{_supervisor, nil}, state} -> {:noreply, answer(state)}
      {{supervisor, open}, state} -> {:noreply, close(state, supervisor, open)}
    end
  end

  def handle_info({:too_long, pid}, state) do
    if is_map_key(state.watched, pid), do: Process.exit(pid, :kill)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # The process that closes is watched in place of the subchannel, and leaves nothing.
  defp close(state, supervisor, {module, value}) do
    {pid, _monitor} = spawn_monitor(fn -> Callback.call(module, :close, [value]) end)
    Process.send_after(self(), {:too_long, pid}, @close_ms)
    put_in(state.watched[pid], {supervisor, nil})
  end

  defp answer(state) do
    busy = MapSet.new(state.watched, fn {_pid, {supervisor, _open}} -> supervisor end)
    {waiting, done} = Enum.split_with(state.waiting, fn {_from, of} -> of in busy end)
    for {from, _supervisor} <- done, do: GenServer.reply(from, :ok)
    %{state | waiting: waiting}
  end
end
