defmodule GrpcLb.Test.GracefulTransport do
  @moduledoc """
  A transport to a `GrpcLb.Test.GracefulServer`: a process that holds the socket, for any number of calls
  at a time. A pick gives its pid. `{GracefulTransport, :token}` says by the end of an owner what it says
  by `GrpcLb.Transport.draining/1` otherwise.
  """

  @behaviour GrpcLb.Transport
  use GenServer

  @impl GrpcLb.Transport
  def open(address, how) do
    case GenServer.start_link(__MODULE__, {address, self()}) do
      {:ok, pid} when how == :token -> {:ok, pid, GenServer.call(pid, :token)}
      {:ok, pid} -> {:ok, pid, pid}
      {:error, {:shutdown, reason}} -> {:error, reason}
    end
  end

  @impl GrpcLb.Transport
  def close(pid), do: GenServer.stop(pid)

  @doc "The number of its connection."
  def number(pid), do: GenServer.call(pid, :number)

  @doc "A call to the server."
  def call(pid) do
    GenServer.call(pid, :call, 30_000)
  catch
    :exit, {_reason, _call} -> {:error, :closed}
  end

  @impl GenServer
  def init({%GrpcLb.Address{ip: ip, port: port}, subchannel}) do
    with {:ok, socket} <- :gen_tcp.connect(ip, port, [:binary, packet: :line, active: false]),
         {:ok, number} <- :gen_tcp.recv(socket, 0),
         :ok <- :inet.setopts(socket, active: true) do
      number = number |> String.trim() |> String.to_integer()
      {:ok, %{socket: socket, number: number, subchannel: subchannel, token: nil, calls: %{}}}
    else
      {:error, reason} -> {:stop, {:shutdown, reason}}
    end
  end

  @impl GenServer
  def handle_call(:token, _from, state) do
    token = spawn(fn -> Process.sleep(:infinity) end)
    {:reply, token, %{state | token: token}}
  end

  def handle_call(:number, _from, state), do: {:reply, state.number, state}

  def handle_call(:call, from, %{calls: calls} = state) do
    id = System.unique_integer([:positive])

    case :gen_tcp.send(state.socket, "call #{id}\n") do
      :ok -> {:noreply, %{state | calls: Map.put(calls, "#{id}\n", from)}}
      {:error, reason} -> {:reply, {:error, reason}, state}
    end
  end

  @impl GenServer
  def handle_info({:tcp, _socket, "goaway\n"}, state) do
    if state.token,
      do: Process.exit(state.token, :kill),
      else: GrpcLb.Transport.draining(state.subchannel)

    {:noreply, state}
  end

  def handle_info({:tcp, _socket, "answer " <> id}, state) do
    {from, calls} = Map.pop!(state.calls, id)
    GenServer.reply(from, {:ok, state.number})
    {:noreply, %{state | calls: calls}}
  end

  def handle_info({:tcp_closed, _socket}, state), do: {:stop, {:shutdown, :hung_up}, state}
end
