defmodule GrpcLb.Test.TcpTransport do
  @moduledoc """
  A transport over a real socket to a `GrpcLb.Test.Loopback`, as a client library would write one:
  a process that holds the socket, is open once the server has greeted, and dies when the server
  hangs up. A pick gives `{name, pid}`: the name with which the server greeted, and the process.
  """

  @behaviour GrpcLb.Transport
  use GenServer

  @impl GrpcLb.Transport
  def open(address, _opts) do
    case GenServer.start_link(__MODULE__, address) do
      {:ok, pid} -> {:ok, {GenServer.call(pid, :name), pid}, pid}
      {:error, {:shutdown, reason}} -> {:error, reason}
    end
  end

  @impl GrpcLb.Transport
  def close({_name, pid}), do: GenServer.stop(pid)

  @impl GrpcLb.Transport
  def check(value) do
    case call(value, "are you there?", 500) do
      {:ok, _answer} -> :ok
      error -> error
    end
  end

  @doc "Sends a line to the server and waits for what it says to it."
  def call({_name, pid}, line, timeout \\ 5_000) do
    GenServer.call(pid, {:call, line}, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, {_reason, _call} -> {:error, :closed}
  end

  @impl GenServer
  def init(%GrpcLb.Address{ip: ip, port: port}) do
    with {:ok, socket} <- :gen_tcp.connect(ip, port, [:binary, packet: :line, active: false]),
         {:ok, greeting} <- :gen_tcp.recv(socket, 0),
         :ok <- :inet.setopts(socket, active: true) do
      {:ok, %{socket: socket, name: String.trim(greeting), waiting: :queue.new()}}
    else
      {:error, reason} -> {:stop, {:shutdown, reason}}
    end
  end

  @impl GenServer
  def handle_call(:name, _from, state), do: {:reply, state.name, state}

  def handle_call({:call, line}, from, state) do
    case :gen_tcp.send(state.socket, [line, ?\n]) do
      :ok -> {:noreply, %{state | waiting: :queue.in(from, state.waiting)}}
      {:error, reason} -> {:reply, {:error, reason}, state}
    end
  end

  @impl GenServer
  def handle_info({:tcp, socket, line}, %{socket: socket} = state) do
    {{:value, from}, waiting} = :queue.out(state.waiting)
    GenServer.reply(from, {:ok, String.trim_trailing(line, "\n")})
    {:noreply, %{state | waiting: waiting}}
  end

  def handle_info({:tcp_closed, socket}, %{socket: socket} = state) do
    {:stop, {:shutdown, :hung_up}, state}
  end

  def handle_info({:tcp_error, socket, reason}, %{socket: socket} = state) do
    {:stop, {:shutdown, reason}, state}
  end
end
