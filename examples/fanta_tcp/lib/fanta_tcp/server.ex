defmodule FantaTCP.Server do
  @moduledoc """
  Serves the other end: puts text into upper case.

  FantaTCP is a made-up protocol of the kind that a routing pool is for: one connection carries many
  requests at the same time, and answers come when they are ready, not in the order of the requests.
  A frame is four bytes of length and then

      greeting   "FANTA"                                       from the server, once
      request    <<id::64, wait_ms::32, text::binary>>
      answer     <<id::64, connection::32, text::binary>>

  The server waits for `wait_ms` before it answers, as if it worked, and serves other requests
  meanwhile. It numbers its connections from 1, and every answer carries the number, so that demos and
  tests see where a request went.
  """

  use GenServer

  @options [:binary, packet: 4, active: false, nodelay: true, reuseaddr: true, ip: {127, 0, 0, 1}]

  @doc "Listens on `port`, or with 0 on any that is free."
  @spec start_link(:inet.port_number()) :: GenServer.on_start()
  def start_link(port), do: GenServer.start_link(__MODULE__, port)

  @doc "The port on which it listens."
  @spec port(GenServer.server()) :: :inet.port_number()
  def port(server), do: GenServer.call(server, :port)

  @doc "Closes every connection, and goes on listening."
  @spec hang_up(GenServer.server()) :: :ok
  def hang_up(server), do: GenServer.call(server, :hang_up)

  @doc "Closes every connection and the port, which is free when this returns."
  @spec stop(GenServer.server()) :: :ok
  def stop(server), do: GenServer.stop(server)

  @impl true
  def init(port) do
    with {:ok, listener} <- :gen_tcp.listen(port, @options),
         {:ok, sessions} <- Task.Supervisor.start_link() do
      {:ok, accept(%{listener: listener, sessions: sessions, acceptor: nil, number: 0})}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl true
  def handle_call(:port, _from, state) do
    {:ok, port} = :inet.port(state.listener)
    {:reply, port, state}
  end

  def handle_call(:hang_up, _from, state) do
    for session <- Task.Supervisor.children(state.sessions) do
      Task.Supervisor.terminate_child(state.sessions, session)
    end

    {:reply, :ok, accept(state)}
  end

  @impl true
  def handle_info({:accepted, acceptor}, %{acceptor: acceptor} = state) do
    {:noreply, accept(state)}
  end

  # By one that was hung up on, and has a successor already.
  def handle_info({:accepted, _other}, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Supervisor.stop(state.sessions)
    :gen_tcp.close(state.listener)
  end

  # A session accepts its own client, so it owns the socket from the beginning.
  defp accept(state) do
    number = state.number + 1
    args = [self(), state.listener, number]
    {:ok, acceptor} = Task.Supervisor.start_child(state.sessions, __MODULE__, :session, args)
    %{state | acceptor: acceptor, number: number}
  end

  @doc false
  def session(server, listener, number) do
    with {:ok, socket} <- :gen_tcp.accept(listener),
         {:accepted, _self} <- send(server, {:accepted, self()}),
         :ok <- :gen_tcp.send(socket, "FANTA"),
         :ok <- :inet.setopts(socket, active: true) do
      serve(socket, number)
    end
  end

  defp serve(socket, number) do
    receive do
      {:tcp, ^socket, <<id::64, 0::32, text::binary>>} ->
        answer(socket, id, number, text)

      {:tcp, ^socket, <<id::64, wait_ms::32, text::binary>>} ->
        Process.send_after(self(), {:done, id, text}, wait_ms)
        serve(socket, number)

      {:done, id, text} ->
        answer(socket, id, number, text)

      {:tcp_closed, ^socket} ->
        :ok
    end
  end

  # A send that fails is followed by the message that ends the session.
  defp answer(socket, id, number, text) do
    _ = :gen_tcp.send(socket, <<id::64, number::32, String.upcase(text)::binary>>)
    serve(socket, number)
  end
end
