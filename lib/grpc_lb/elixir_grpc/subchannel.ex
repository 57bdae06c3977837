defmodule GrpcLb.ElixirGrpc.Subchannel do
  @moduledoc false
  # One address of a connection of elixir-grpc. Connects with the inner adapter, tells the holder, and
  # connects again when the connection is lost. elixir-grpc takes this process for the connection.

  use GenServer, restart: :temporary
  use GrpcLb.Redacted, show: [:holder, :adapter, :connection_pid]

  alias GrpcLb.Connection.Backoff
  alias GrpcLb.ElixirGrpc.{GunEvents, Holder}

  # A crash is logged with this, and there may be credentials in the channel and in the options.
  @derive {Inspect, only: [:holder, :adapter, :connection_pid]}
  @enforce_keys [:holder, :channel, :adapter, :opts, :backoff]
  defstruct @enforce_keys ++
              [
                :connection,
                :connection_pid,
                :monitor,
                :mark,
                :since,
                known?: false,
                draining?: false
              ]

  # What is refused at once, or lost, is tried again after a backoff of our own.
  @no_retry [retry: 0]

  @doc """
  Begins to connect. Ends with `{:shutdown, {:not_connected, reason}}` when the first attempt fails.
  """
  @spec start_link(holder :: pid(), channel :: map(), module(), keyword(), Backoff.t()) ::
          GenServer.on_start()
  def start_link(holder, channel, adapter, opts, backoff) do
    GenServer.start_link(__MODULE__, %__MODULE__{
      holder: holder,
      channel: channel,
      adapter: adapter,
      opts: opts,
      backoff: backoff
    })
  end

  @doc "Leaves the connection open for calls in flight, for so many milliseconds, and ends."
  @spec drain(pid(), timeout :: non_neg_integer()) :: :ok
  def drain(subchannel, timeout), do: GenServer.cast(subchannel, {:drain, timeout})

  @impl true
  def init(state) do
    Process.flag(:trap_exit, true)
    {:ok, state, {:continue, :connect}}
  end

  @impl true
  def handle_continue(:connect, state), do: connect(state)

  @impl true
  def handle_cast({:drain, _timeout}, %{connection: nil} = state), do: {:stop, :normal, state}

  def handle_cast({:drain, timeout}, state) do
    Process.send_after(self(), :drained, timeout)
    {:noreply, %{state | draining?: true}}
  end

  @impl true
  def handle_info(:connect, state), do: connect(state)
  def handle_info(:drained, state), do: {:stop, :normal, state}

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{monitor: monitor} = state),
    do: lost(state)

  # Mint's adapter tells who connected, and leaves the process as it is.
  def handle_info({:elixir_grpc, :connection_down, pid}, %{connection_pid: pid} = state),
    do: lost(state)

  def handle_info({:gun_disconnected, mark}, %{mark: mark} = state), do: lost(state)

  # Of earlier connections, and what adapters send to who connected.
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: disconnect(state)

  defp connect(%{draining?: true} = state), do: {:stop, :normal, state}

  defp connect(state) do
    mark = make_ref()

    case attempt(state, mark) do
      {:ok, connection} ->
        pid = pid(connection)
        up = %{fields: fields(connection, state.channel), owner: gun(mark) || pid, process: pid}
        Holder.up(state.holder, self(), up)

        {:noreply,
         %{
           state
           | connection: connection,
             connection_pid: pid,
             monitor: pid && Process.monitor(pid),
             mark: mark,
             since: now(),
             known?: true
         }}

      {:error, reason} when state.known? == false ->
        {:stop, {:shutdown, {:not_connected, reason}}, state}

      {:error, _reason} ->
        {:noreply, connect_later(state)}
    end
  end

  # Without its name: that is taken by a connection that is ending, and Gun's adapter makes a global
  # one of it.
  defp attempt(state, mark) do
    channel = %{state.channel | ref: nil, adapter: state.adapter}

    case state.adapter.connect(channel, opts(state.adapter, state.opts, mark)) do
      {:ok, connection} -> {:ok, connection}
      {:error, reason} -> {:error, reason}
    end
  catch
    kind, reason -> {:error, {kind, reason}}
  end

  defp opts(GRPC.Client.Adapters.Gun, opts, mark),
    do: @no_retry |> Keyword.merge(opts) |> GunEvents.put(mark)

  defp opts(_other, opts, _mark), do: opts

  # The process that Gun's adapter has of its own lives on without Gun.
  defp gun(mark) do
    receive do
      {:gun_started, ^mark, pid} -> pid
    after
      0 -> nil
    end
  end

  defp pid(%{adapter_payload: %{conn_pid: pid}}) when is_pid(pid) and node(pid) == node(), do: pid
  defp pid(_connection), do: nil

  # What a call has to know, without what is the same for all addresses: credentials may be large.
  defp fields(connection, channel) do
    for {field, value} <- Map.drop(connection, [:__struct__, :ref, :adapter]),
        field in [:host, :port] or value != Map.get(channel, field),
        into: %{},
        do: {field, value}
  end

  defp lost(%{draining?: true} = state), do: {:stop, :normal, state}

  defp lost(state) do
    Holder.down(state.holder, self())
    abandon(state)
    lasted = now() - state.since
    state = %{state | connection: nil, connection_pid: nil, monitor: nil, mark: nil}

    # Who accepts connections and drops them is not to be asked in a tight loop.
    if lasted >= state.backoff.initial do
      {:noreply, %{state | backoff: Backoff.reset(state.backoff)}, {:continue, :connect}}
    else
      {:noreply, connect_later(state)}
    end
  end

  defp connect_later(state) do
    {wait, backoff} = Backoff.next(state.backoff)
    Process.send_after(self(), :connect, wait)
    %{state | backoff: backoff}
  end

  # Calls that wait there, behind a Gun that is no more, hear of it when the process ends.
  defp abandon(%{connection_pid: nil} = state), do: disconnect(state)

  defp abandon(state) do
    Process.demonitor(state.monitor, [:flush])
    Process.exit(state.connection_pid, :shutdown)
  end

  defp disconnect(%{connection: nil}), do: :ok

  defp disconnect(state) do
    state.adapter.disconnect(state.connection)
    :ok
  catch
    _kind, _reason -> :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
