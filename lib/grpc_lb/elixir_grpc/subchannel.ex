defmodule GrpcLb.ElixirGrpc.Subchannel do
  @moduledoc false
  # One address of a connection of elixir-grpc. Connects with the inner adapter, tells the holder, and
  # connects again when the connection is lost, or when it goes away: then the old one stays open for the
  # calls that it has. elixir-grpc takes this process for the connection.

  use GenServer, restart: :temporary
  use GrpcLb.Redacted, show: [:holder]

  alias GrpcLb.Connection.Backoff
  alias GrpcLb.ElixirGrpc.{GunEvents, Holder}

  # A crash is logged with this, and there may be credentials in the channel and in the options.
  @derive {Inspect, only: [:holder]}
  @enforce_keys [:holder, :channel, :opts, :options, :backoff, :known?]
  defstruct @enforce_keys ++ [connection: nil, leaving: [], draining?: false]

  # What is refused at once, or lost, is tried again after a backoff of our own.
  @no_retry [retry: 0]

  # How the process of a connection ends that is gone, when, and how long that may take. Until then its
  # callers read what was answered.
  @gone {:shutdown, :gone}
  @linger_ms 1_000
  @stop_ms 5_000

  @doc """
  Begins to connect, as `:first` with an attempt that ends this process with
  `{:shutdown, {:not_connected, reason}}` when it fails, or `:again` after a wait.
  """
  @spec start_link(
          holder :: pid(),
          channel :: map(),
          opts :: keyword(),
          options :: map(),
          :first | :again
        ) :: GenServer.on_start()
  def start_link(holder, channel, opts, options, how) do
    GenServer.start_link(__MODULE__, %__MODULE__{
      holder: holder,
      channel: channel,
      opts: opts,
      options: Map.take(options, [:adapter, :reports?]),
      backoff: options.backoff,
      known?: how == :again
    })
  end

  @doc """
  Whether a call to a connection's process that exited with this was certainly not handled: it was behind
  the order to end.
  """
  @spec unsent?(reason :: term()) :: boolean()
  def unsent?({reason, {GenServer, :call, _arguments}}), do: reason in [:noproc, @gone]
  def unsent?(_other), do: false

  @doc "Has it connect anew, and leave the connection of this process open for the calls that it has."
  @spec replace(pid(), process :: pid()) :: :ok
  def replace(subchannel, process), do: GenServer.cast(subchannel, {:replace, process})

  @doc "Leaves the connection open for calls in flight, for so many milliseconds, and ends."
  @spec drain(pid(), timeout :: non_neg_integer()) :: :ok
  def drain(subchannel, timeout), do: GenServer.cast(subchannel, {:drain, timeout})

  @impl true
  def init(state) do
    Process.flag(:trap_exit, true)
    if state.known?, do: {:ok, connect_later(state)}, else: {:ok, state, {:continue, :connect}}
  end

  @impl true
  def handle_continue(:connect, state), do: connect(state)

  @impl true
  def handle_cast({:replace, pid}, %{connection: %{pid: pid} = connection} = state)
      when not state.draining? do
    connect_again(connection, %{state | connection: nil, leaving: [connection | state.leaving]})
  end

  def handle_cast({:replace, _lost}, state), do: {:noreply, state}

  def handle_cast({:drain, timeout}, state) do
    Process.send_after(self(), :drained, timeout)
    go_on(%{state | draining?: true})
  end

  @impl true
  def handle_info(:connect, state), do: connect(state)
  def handle_info(:drained, state), do: {:stop, :normal, state}

  def handle_info({:EXIT, pid, _reason}, state), do: ended(&(&1.pid == pid), state)

  # Gun has crashed.
  def handle_info({:DOWN, monitor, :process, _gun, _reason}, state),
    do: ended(&(&1.monitor == monitor), state)

  # Mint's adapter tells who connected, and leaves the process as it is.
  def handle_info({:elixir_grpc, :connection_down, pid}, state),
    do: ended(&(&1.pid == pid), state)

  def handle_info({:gun_disconnected, mark}, state), do: ended(&(&1.mark == mark), state)

  def handle_info({:gun_report, mark, report}, %{connection: %{mark: mark}} = state) do
    Holder.report(state.holder, self(), report)
    {:noreply, state}
  end

  # Of earlier connections, and what adapters send to who connected.
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for connection <- List.wrap(state.connection) ++ state.leaving,
        do: disconnect(connection, state)
  end

  defp connect(%{draining?: true} = state), do: {:noreply, state}

  defp connect(state) do
    mark = make_ref()

    case attempt(state, mark) do
      {:ok, channel} ->
        pid = pid(channel)
        # One that is killed does not disconnect.
        if pid, do: Process.link(pid)
        gun = gun(mark)
        up = %{fields: fields(channel, state.channel), owner: gun || pid, process: pid}
        Holder.up(state.holder, self(), up)
        monitor = gun && Process.monitor(gun)
        connection = %{channel: channel, pid: pid, mark: mark, monitor: monitor, since: now()}
        {:noreply, %{state | connection: connection, known?: true}}

      {:error, reason} when state.known? == false ->
        {:stop, {:shutdown, {:not_connected, reason}}, state}

      {:error, _reason} ->
        {:noreply, connect_later(state)}
    end
  end

  # Without its name: that is taken by a connection that is ending, and Gun's adapter makes a global
  # one of it.
  defp attempt(state, mark) do
    adapter = state.options.adapter
    channel = %{state.channel | ref: nil, adapter: adapter}

    case adapter.connect(channel, opts(adapter, state, mark)) do
      {:ok, connection} -> {:ok, connection}
      {:error, reason} -> {:error, reason}
    end
  catch
    kind, reason -> {:error, {kind, reason}}
  end

  defp opts(GRPC.Client.Adapters.Gun, state, mark),
    do: @no_retry |> Keyword.merge(state.opts) |> GunEvents.put(mark, state.options.reports?)

  defp opts(_other, state, _mark), do: state.opts

  # The process that Gun's adapter has of its own lives on without Gun.
  defp gun(mark) do
    receive do
      {:gun_started, ^mark, pid} -> pid
    after
      0 -> nil
    end
  end

  defp pid(%{adapter_payload: %{conn_pid: pid}}) when is_pid(pid) and node(pid) == node(), do: pid
  defp pid(_channel), do: nil

  # What a call has to know, without what is the same for all addresses: credentials may be large.
  defp fields(connected, channel) do
    for {field, value} <- Map.drop(connected, [:__struct__, :ref, :adapter]),
        field in [:host, :port] or value != Map.get(channel, field),
        into: %{},
        do: {field, value}
  end

  defp ended(that?, %{connection: connection} = state) do
    cond do
      connection != nil and that?.(connection) ->
        abandon(connection, state)
        connect_again(connection, %{state | connection: nil})

      left = Enum.find(state.leaving, that?) ->
        abandon(left, state)
        go_on(%{state | leaving: List.delete(state.leaving, left)})

      # Of an earlier connection.
      true ->
        {:noreply, state}
    end
  end

  # Who accepts connections and drops them is not to be asked in a tight loop.
  defp connect_again(_connection, %{draining?: true} = state), do: go_on(state)

  defp connect_again(connection, state) do
    outlasted? = Backoff.outlasted?(state.backoff, now() - connection.since)
    backoff = if outlasted?, do: Backoff.reset(state.backoff), else: state.backoff

    case Backoff.lost(backoff) do
      {0, backoff} ->
        Holder.down(state.holder, self(), :connecting)
        {:noreply, %{state | backoff: backoff}, {:continue, :connect}}

      {wait, backoff} ->
        {:noreply, connect_later(state, {wait, backoff})}
    end
  end

  defp connect_later(state), do: connect_later(state, Backoff.next(state.backoff))

  defp connect_later(state, {wait, backoff}) do
    Holder.down(state.holder, self(), :transient_failure)
    Process.send_after(self(), :connect, wait)
    %{state | backoff: backoff}
  end

  defp go_on(%{draining?: true, connection: nil, leaving: []} = state),
    do: {:stop, :normal, state}

  defp go_on(state), do: {:noreply, state}

  defp abandon(%{pid: nil} = connection, state), do: disconnect(connection, state)

  defp abandon(%{pid: pid}, _state) do
    Process.unlink(pid)
    spawn(fn -> stop_later(pid) end)
  end

  # Calls that came too late for Gun wait for an answer, and hear of the end of the process alone. It ends
  # in the order of its messages, see `unsent?/1`.
  defp stop_later(pid) do
    Process.sleep(@linger_ms)
    GenServer.stop(pid, @gone, @stop_ms)
  catch
    :exit, _gone_or_late -> Process.exit(pid, :kill)
  end

  defp disconnect(connection, state) do
    state.options.adapter.disconnect(connection.channel)
    :ok
  catch
    _kind, _reason -> :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
