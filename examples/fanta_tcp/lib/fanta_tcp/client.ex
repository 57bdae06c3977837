defmodule FantaTCP.Client do
  @moduledoc """
  One connection to the server, shared by many callers at once.

  The process is a member of its pool only while the server is at the other end of the socket. It
  joins when the server has greeted it, leaves when the connection is lost, and joins again when it
  is back: losing a connection is no reason to die. The pauses between attempts start at the first of
  `:retry_ms`, double up to the last, and vary at random, so that many clients do not come back in
  step.

  ## Options

    * `:pool` - the name of the pool to join
    * `:port` - where the server listens, on this machine
    * `:retry_ms` - the shortest and the longest pause, as a range, by default `100..5_000`
  """

  use GenServer

  @connect_ms 5_000
  @options [
    :binary,
    packet: 4,
    active: false,
    nodelay: true,
    send_timeout: 5_000,
    send_timeout_close: true
  ]

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @impl true
  def init(opts) do
    retry_ms = Keyword.get(opts, :retry_ms, 100..5_000)

    state = %{
      pool: Keyword.fetch!(opts, :pool),
      port: Keyword.fetch!(opts, :port),
      retry_ms: retry_ms,
      pause_ms: retry_ms.first,
      socket: nil,
      last_id: 0,
      waiting: %{}
    }

    # Connects later: a server that is down must not keep the pool, and all that starts after it,
    # from starting.
    {:ok, state, {:continue, :connect}}
  end

  @impl true
  def handle_continue(:connect, state), do: {:noreply, connect(state)}

  # Answers take their time and overtake each other. So the process notes the caller under the
  # request's id, and is free for the next one.
  @impl true
  def handle_call({:request, _text, _wait_ms}, _from, %{socket: nil} = state) do
    # The caller picked this process just before it left the pool.
    {:reply, {:error, :disconnected}, state}
  end

  def handle_call({:request, text, wait_ms}, from, state) do
    id = state.last_id + 1
    state = %{state | last_id: id, waiting: Map.put(state.waiting, id, from)}

    case :gen_tcp.send(state.socket, <<id::64, wait_ms::32, text::binary>>) do
      :ok -> {:noreply, state}
      {:error, _reason} -> {:noreply, disconnect(state)}
    end
  end

  @impl true
  def handle_info({:tcp, socket, <<id::64, number::32, text::binary>>}, %{socket: socket} = state) do
    {from, waiting} = Map.pop!(state.waiting, id)
    # If the caller has given up waiting, the answer goes nowhere.
    GenServer.reply(from, {:ok, {number, text}})
    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info({:tcp_closed, socket}, %{socket: socket} = state) do
    {:noreply, disconnect(state)}
  end

  def handle_info(:connect, state), do: {:noreply, connect(state)}

  # `:tcp_error`, which `:tcp_closed` follows, and what a socket had sent before it was given up.
  def handle_info(_other, state), do: {:noreply, state}

  # Blocks, and nobody waits for it: no pick chooses a process that is no member, and callers that
  # picked this one just before it left have their answer, because a pause came first.
  defp connect(state) do
    with {:ok, socket} <- :gen_tcp.connect({127, 0, 0, 1}, state.port, @options, @connect_ms),
         :ok <- greeting(socket) do
      # An error would say that the pool is stopping, and this process with it.
      GrpcLb.Pool.join(state.pool)
      %{state | socket: socket, pause_ms: state.retry_ms.first}
    else
      {:error, _reason} -> retry(state)
    end
  end

  # A connection that the kernel took is not yet one that somebody serves.
  defp greeting(socket) do
    with {:ok, "FANTA"} <- :gen_tcp.recv(socket, 0, @connect_ms),
         :ok <- :inet.setopts(socket, active: true) do
      :ok
    else
      _no_fanta ->
        :gen_tcp.close(socket)
        {:error, :no_greeting}
    end
  end

  # Leaves first: callers may ask again as soon as they are told, and must not come back here.
  defp disconnect(state) do
    GrpcLb.Pool.leave(state.pool)
    :gen_tcp.close(state.socket)
    for {_id, from} <- state.waiting, do: GenServer.reply(from, {:error, :disconnected})
    retry(%{state | socket: nil, waiting: %{}})
  end

  defp retry(state) do
    Process.send_after(self(), :connect, Enum.random(div(state.pause_ms, 2)..state.pause_ms))
    %{state | pause_ms: min(2 * state.pause_ms, state.retry_ms.last)}
  end
end
