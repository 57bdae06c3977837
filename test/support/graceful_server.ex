defmodule GrpcLb.Test.GracefulServer do
  @moduledoc """
  A server on a real socket that goes as a good server does: it says so, serves what it has until its
  clients hang up, and ends. The client is `GrpcLb.Test.GracefulTransport`.

  It greets each connection with its number, and answers `call id` with `answer id`. `goaway` is what it
  says to a connection that is to be used for no new calls, of which it serves all that come.
  """

  @doc "Starts one on this port, which ends with the calling process. 0 is any."
  def start(port \\ 0) do
    test = self()
    server = spawn_link(fn -> listen(test, port) end)

    receive do
      {^server, :listens} -> server
    end
  end

  @doc "Its address."
  def address(server), do: %GrpcLb.Address{ip: {127, 0, 0, 1}, port: ask(server, :port)}

  def id(server), do: GrpcLb.Address.id(address(server))

  @doc "How many connections there have been, and how many there are."
  def connections(server), do: ask(server, :connections)

  @doc "Has all connections be used for no new calls, as when they have come of age."
  def go_away(server), do: ask(server, :go_away)

  @doc "Has it greet no connection more: whoever connects waits."
  def stall(server), do: ask(server, :stall)

  @doc "Greets those that wait, and those that come."
  def greet(server), do: ask(server, :greet)

  @doc "Accepts no more, has its connections be used for no new calls, and returns when it has ended."
  def stop(server) do
    monitor = Process.monitor(server)
    Process.unlink(server)
    :ok = ask(server, :stop)

    receive do
      {:DOWN, ^monitor, :process, ^server, :normal} -> :ok
    end
  end

  defp ask(server, question) do
    ref = make_ref()
    send(server, {self(), ref, question})

    receive do
      {^ref, answer} -> answer
    end
  end

  defp listen(test, port) do
    Process.flag(:trap_exit, true)
    opts = [:binary, packet: :line, active: false, reuseaddr: true, backlog: 1024]
    {:ok, listener} = :gen_tcp.listen(port, [ip: {127, 0, 0, 1}] ++ opts)
    server = self()
    spawn_link(fn -> accept(server, listener) end)
    send(test, {self(), :listens})

    loop(%{
      test: test,
      listener: listener,
      count: 0,
      clients: MapSet.new(),
      stalls?: false,
      stops?: false
    })
  end

  defp accept(server, listener) do
    with {:ok, socket} <- :gen_tcp.accept(listener) do
      client = spawn(fn -> wait(socket) end)
      :ok = :gen_tcp.controlling_process(socket, client)
      send(server, {:accepted, client})
      accept(server, listener)
    end
  end

  defp loop(%{stops?: true, clients: clients}) when map_size(clients.map) == 0, do: :ok

  defp loop(%{test: test} = state) do
    receive do
      {:accepted, client} ->
        Process.link(client)
        count = state.count + 1
        send(client, {:number, count})
        unless state.stalls?, do: send(client, :greet)
        if state.stops?, do: send(client, :go_away)
        loop(%{state | count: count, clients: MapSet.put(state.clients, client)})

      {:EXIT, ^test, _reason} ->
        Enum.each(state.clients, &Process.exit(&1, :kill))

      {:EXIT, pid, _reason} ->
        loop(%{state | clients: MapSet.delete(state.clients, pid)})

      {from, ref, question} ->
        {answer, state} = answer(question, state)
        send(from, {ref, answer})
        loop(state)
    end
  end

  defp answer(:port, state), do: {state.listener |> :inet.port() |> elem(1), state}

  defp answer(:connections, state), do: {{state.count, MapSet.size(state.clients)}, state}

  defp answer(:go_away, state) do
    Enum.each(state.clients, &send(&1, :go_away))
    {:ok, state}
  end

  defp answer(:stall, state), do: {:ok, %{state | stalls?: true}}

  defp answer(:greet, state) do
    Enum.each(state.clients, &send(&1, :greet))
    {:ok, %{state | stalls?: false}}
  end

  defp answer(:stop, state) do
    :gen_tcp.close(state.listener)
    {:ok, state} = answer(:go_away, state)
    {:ok, %{state | stops?: true}}
  end

  # One connection.

  defp wait(socket) do
    receive do
      {:number, number} -> :inet.setopts(socket, active: true) && serve(socket, number)
    end
  end

  defp serve(socket, number) do
    receive do
      :greet when is_integer(number) ->
        :gen_tcp.send(socket, "#{number}\n")
        serve(socket, :greeted)

      :greet ->
        serve(socket, number)

      :go_away ->
        :gen_tcp.send(socket, "goaway\n")
        serve(socket, number)

      {:tcp, _socket, "call " <> id} ->
        :gen_tcp.send(socket, ["answer ", id])
        serve(socket, number)

      {:tcp_closed, _socket} ->
        :ok
    end
  end
end
