defmodule Demo.Callers.Client do
  @moduledoc false
  # One TCP connection, shared by many callers: each request carries an id, and an answer finds
  # its caller by that id, in whatever order answers come. When the server goes, every caller
  # that waits gets an error and the process ends, which is all the balancer needs to know.

  use GenServer

  alias Demo.Callers.Meter

  # On a machine that does much else besides an answer takes seconds.
  @request_ms 20_000

  @type failure :: :connection_lost | :not_connected | :timeout | :server_failed

  # `connected` runs in the new process, before it takes its first request; `leaving` when the server says
  # that it goes.
  @spec start_link(:inet.port_number(), Meter.t(), (() -> term()), (() -> term())) ::
          GenServer.on_start()
  def start_link(number, meter, connected \\ fn -> :ok end, leaving \\ fn -> :ok end) do
    GenServer.start_link(__MODULE__, {number, meter, connected, leaving})
  end

  # `:connection_lost`: the request was with the client, and its answer did not come.
  # `:not_connected`: the connection had gone before the request was sent.
  # `:server_failed`: the server answered that it had failed.
  @spec request(pid(), binary()) :: {:ok, binary()} | {:error, failure()}
  def request(client, payload), do: call(client, {:request, payload}, @request_ms)

  # Lets the requests in flight finish, asks the server how many it has answered, and closes.
  @spec drain(pid()) :: {:ok, non_neg_integer()} | {:error, failure()}
  def drain(client), do: call(client, :drain, @request_ms)

  defp call(client, message, timeout) do
    GenServer.call(client, message, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, {:killed, _call} -> {:error, :connection_lost}
    :exit, _gone -> {:error, :not_connected}
  end

  @impl true
  def init({number, meter, connected, leaving}) do
    options = [:binary, packet: 4, active: true, nodelay: true]

    case :gen_tcp.connect({127, 0, 0, 1}, number, options, @request_ms) do
      {:ok, socket} ->
        state = %{socket: socket, meter: meter, id: 0, newest: 0, waiting: %{}, drain: nil}
        {:ok, Map.put(state, :leaving, leaving), {:continue, connected}}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  @impl true
  def handle_continue(connected, state) do
    connected.()
    {:noreply, state}
  end

  @impl true
  def handle_call({:request, payload}, from, state) do
    id = state.id + 1

    case :gen_tcp.send(state.socket, <<?R, id::64, payload::binary>>) do
      :ok ->
        Meter.add(state.meter, :sent)
        {:noreply, %{state | id: id, waiting: Map.put(state.waiting, id, from)}}

      {:error, _reason} ->
        {:stop, :normal, {:error, :not_connected}, state}
    end
  end

  def handle_call(:drain, from, state), do: {:noreply, count_if_idle(%{state | drain: from})}

  @impl true
  def handle_info({:tcp, _socket, <<id::64, count::64, crc::binary-size(4)>>}, state) do
    {:noreply, answered(state, id, count, {:ok, crc})}
  end

  def handle_info({:tcp, _socket, <<id::64, count::64, ?F>>}, state) do
    {:noreply, answered(state, id, count, {:error, :server_failed})}
  end

  def handle_info({:tcp, _socket, <<?G>>}, state) do
    state.leaving.()
    {:noreply, state}
  end

  def handle_info({:tcp, _socket, <<_id::64, count::64>>}, state) do
    GenServer.reply(state.drain, {:ok, count})
    {:stop, :normal, state}
  end

  def handle_info({:tcp_closed, _socket}, state), do: {:stop, :normal, state}
  def handle_info({:tcp_error, _socket, _reason}, state), do: {:stop, :normal, state}

  # The reason is `:normal` for a lost server too: the loss is told to the callers here, and
  # the link must not take the demo down with it.
  @impl true
  def terminate(_reason, state) do
    for {_id, from} <- state.waiting, do: GenServer.reply(from, {:error, :connection_lost})
  end

  defp answered(state, id, count, answer) do
    {from, waiting} = Map.pop!(state.waiting, id)
    Meter.add(state.meter, :answered)
    Meter.put(state.meter, :served, count)
    if id < state.newest, do: Meter.add(state.meter, :overtaken)
    GenServer.reply(from, answer)
    count_if_idle(%{state | waiting: waiting, newest: max(id, state.newest)})
  end

  defp count_if_idle(%{drain: from, waiting: waiting} = state)
       when from != nil and waiting == %{} do
    # When the server is gone, the message comes that ends this process.
    _sent = :gen_tcp.send(state.socket, <<?C, 0::64>>)
    state
  end

  defp count_if_idle(state), do: state
end
