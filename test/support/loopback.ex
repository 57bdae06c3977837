defmodule GrpcLb.Test.Loopback do
  @moduledoc """
  A server on a real socket of this machine, TCP or Unix, that behaves as it is told:

    * `:echo` - greets with its backend id in a line, and sends back what it is sent
    * `:hang_up` - closes every connection as soon as it has accepted it
    * `:stall` - accepts, reads, and says nothing
    * `:refuse` - nobody listens; the port stays reserved

  It may change its ways while it runs. The port is its own until it ends, and for a while after that.
  """

  use GenServer

  @linger_ms 5_000

  @type kind :: :echo | :hang_up | :stall | :refuse

  @doc """
  Starts a server that ends with the calling process. `:ip` is 127.0.0.1 if not given; with `:path`
  it listens on a Unix socket.
  """
  @spec start(kind(), keyword()) :: pid()
  def start(kind \\ :echo, opts \\ []) do
    {:ok, server} = GenServer.start_link(__MODULE__, {kind, opts})
    server
  end

  @spec address(pid()) :: GrpcLb.Address.t()
  def address(server), do: GenServer.call(server, :address)

  @doc "The id that a backend at this server has."
  @spec id(pid()) :: String.t()
  def id(server), do: GrpcLb.Address.id(address(server))

  @doc """
  Changes what the server does. `:refuse` and `:hang_up` end the connections it has; `:stall` and
  `:echo` keep them.
  """
  @spec become(pid(), kind()) :: :ok
  def become(server, kind), do: GenServer.call(server, {:become, kind})

  @doc "How many connections are open, as the server sees it."
  @spec clients(pid()) :: non_neg_integer()
  def clients(server), do: GenServer.call(server, :clients)

  @doc "How many connections there have been."
  @spec accepted(pid()) :: non_neg_integer()
  def accepted(server), do: GenServer.call(server, :accepted)

  @impl true
  def init({kind, opts}) do
    Process.flag(:trap_exit, true)
    sockaddr = sockaddr(Map.new(opts))
    socket = bound(sockaddr)
    state = %{kind: kind, socket: socket, sockaddr: named(socket, sockaddr), accepted: 0}
    {:ok, serve(Map.put(state, :clients, MapSet.new()))}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, to_address(state.sockaddr), state}
  def handle_call(:kind, _from, state), do: {:reply, state.kind, state}
  def handle_call(:clients, _from, state), do: {:reply, MapSet.size(state.clients), state}
  def handle_call(:accepted, _from, state), do: {:reply, state.accepted, state}

  def handle_call(:accepted_one, {acceptor, _tag}, state) do
    server = self()
    greeting = [GrpcLb.Address.id(to_address(state.sockaddr)), ?\n]
    client = spawn_link(fn -> wait_for_socket(server, greeting, acceptor) end)
    clients = MapSet.put(state.clients, client)
    {:reply, client, %{state | clients: clients, accepted: state.accepted + 1}}
  end

  def handle_call({:become, :refuse}, _from, state), do: {:reply, :ok, refuse(state)}

  def handle_call({:become, kind}, _from, state) do
    if kind == :hang_up, do: end_clients(state)
    was = state.kind
    state = %{state | kind: kind}
    {:reply, :ok, if(was == :refuse, do: serve(state), else: state)}
  end

  @impl true
  def handle_info({:EXIT, pid, _reason}, state) do
    {:noreply, %{state | clients: MapSet.delete(state.clients, pid)}}
  end

  @impl true
  def terminate(_reason, state) do
    if state.sockaddr.family == :local do
      end_clients(state)
      File.rm(state.sockaddr.path)
    else
      # Whoever is connected to it may dial again before it ends, too, and is not to reach another's server.
      refuse(state)
      Process.sleep(@linger_ms)
    end
  end

  defp refuse(%{kind: :refuse} = state), do: state

  defp refuse(state) do
    # Bound before the old one is closed, so that nobody else gets the port.
    socket = bound(state.sockaddr)
    :socket.close(state.socket)
    end_clients(state)
    %{state | kind: :refuse, socket: socket}
  end

  # A socket ends with the process that owns it.
  defp end_clients(state), do: Enum.each(state.clients, &Process.exit(&1, :kill))

  defp serve(%{kind: :refuse} = state), do: state

  defp serve(state) do
    :ok = :socket.listen(state.socket, 1024)
    server = self()
    socket = state.socket
    spawn_link(fn -> accept(server, socket) end)
    state
  end

  # When a select message has been sent while it accepts, OTP 27 raises a CaseClauseError, and OTP 29 says so.
  defp try_accept(listener) do
    with {:error, {:invalid, :select_sent}} <- :socket.accept(listener), do: try_accept(listener)
  rescue
    CaseClauseError -> try_accept(listener)
  end

  defp accept(server, listener) do
    case try_accept(listener) do
      {:ok, socket} ->
        client = GenServer.call(server, :accepted_one)

        case :socket.setopt(socket, {:otp, :controlling_process}, client) do
          :ok -> send(client, {:socket, self(), socket})
          {:error, _ended_meanwhile} -> :socket.close(socket)
        end

        accept(server, listener)

      {:error, :closed} ->
        :ok
    end
  end

  defp wait_for_socket(server, greeting, acceptor) do
    receive do
      {:socket, ^acceptor, socket} ->
        case kind(server) do
          :echo ->
            :socket.send(socket, greeting)
            talk(server, socket)

          :stall ->
            talk(server, socket)

          _closing ->
            :socket.close(socket)
        end
    end
  end

  defp talk(server, socket) do
    with kind when kind not in [:hang_up, :refuse] <- kind(server),
         {:ok, text} <- :socket.recv(socket, 0),
         :ok <- if(kind(server) == :echo, do: :socket.send(socket, text), else: :ok) do
      talk(server, socket)
    else
      _hung_up -> :socket.close(socket)
    end
  end

  defp kind(server), do: GenServer.call(server, :kind)

  defp sockaddr(%{path: path}), do: %{family: :local, path: path}

  defp sockaddr(opts) do
    ip = Map.get(opts, :ip, {127, 0, 0, 1})
    family = if tuple_size(ip) == 4, do: :inet, else: :inet6
    %{family: family, addr: ip, port: Map.get(opts, :port, 0)}
  end

  defp bound(%{family: :local, path: path} = sockaddr) do
    File.rm(path)
    {:ok, socket} = :socket.open(:local, :stream)
    :ok = :socket.bind(socket, sockaddr)
    socket
  end

  defp bound(sockaddr) do
    {:ok, socket} = :socket.open(sockaddr.family, :stream, :tcp)
    :ok = :socket.setopt(socket, {:socket, :reuseport}, true)
    :ok = :socket.bind(socket, sockaddr)
    socket
  end

  defp named(_socket, %{family: :local} = sockaddr), do: sockaddr

  defp named(socket, sockaddr) do
    {:ok, %{port: port}} = :socket.sockname(socket)
    %{sockaddr | port: port}
  end

  defp to_address(%{family: :local, path: path}) do
    %GrpcLb.Address{ip: {:local, path}, port: 0}
  end

  defp to_address(sockaddr), do: %GrpcLb.Address{ip: sockaddr.addr, port: sockaddr.port}
end
