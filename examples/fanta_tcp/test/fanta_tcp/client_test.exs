defmodule FantaTCP.ClientTest do
  # Against a server that the test plays by itself, a step at a time.
  use ExUnit.Case, async: true

  alias GrpcLb.Pool

  @options [:binary, packet: 4, active: false, reuseaddr: true, ip: {127, 0, 0, 1}]
  @await_ms 10_000

  setup %{test: pool} = context do
    {:ok, listener} = :gen_tcp.listen(0, @options)
    {:ok, port} = :inet.port(listener)

    retry_ms = Map.get(context, :retry_ms, 1..20)
    start_supervised!({FantaTCP, name: pool, port: port, size: 1, retry_ms: retry_ms})
    %{pool: pool, listener: listener}
  end

  test "joins when it has been greeted, not when it is connected", context do
    greet_wrongly(accept(context))
    assert members(context) == []
    assert FantaTCP.request(context.pool, "orange") == {:error, :no_backends}

    greet(accept(context))
    assert Pool.await_members(context.pool, 1, @await_ms) == :ok
  end

  test "gives each answer to its caller, in whatever order answers come", context do
    socket = up(context)
    # The server is told how long it should take; this one does as it likes.
    [one, two, three] = for text <- ~w(one two three), do: ask(context, socket, text, 70)

    for {_task, id, text} <- [two, three, one] do
      answer(socket, id, text)
    end

    for {task, _id, text} <- [one, two, three] do
      assert Task.await(task) == {:ok, {1, text}}
    end
  end

  # It does not come back while the test goes on.
  @tag retry_ms: 60_000..60_000
  test "tells every caller that waits when the connection is lost, and has left by then",
       context do
    socket = up(context)
    [client] = members(context)
    asked = for text <- ~w(one two three), do: ask(context, socket, text)
    :gen_tcp.close(socket)

    for {task, _id, _text} <- asked do
      assert Task.await(task) == {:error, :disconnected}
    end

    assert members(context) == []
    assert FantaTCP.request(context.pool, "four") == {:error, :no_backends}
    # Whoever picked it before that is not kept waiting either.
    assert GenServer.call(client, {:request, "five", 0}) == {:error, :disconnected}
    assert :sys.get_state(client).socket == nil
  end

  test "leaves before it tells anybody", context do
    socket = up(context)
    [client] = members(context)
    {task, _id, _text} = ask(context, socket, "lost")

    :erlang.trace_pattern({Pool, :leave, 1}, true, [])
    :erlang.trace(client, true, [:call, :send])
    :gen_tcp.close(socket)
    assert Task.await(task) == {:error, :disconnected}

    # What a process did first is told first.
    first =
      receive do
        {:trace, ^client, :call, {Pool, :leave, _args}} -> :left
        {:trace, ^client, :send, {_tag, {:error, :disconnected}}, _caller} -> :told
      end

    assert first == :left
  end

  test "connects again and is a member again, the same process", context do
    socket = up(context)
    [client] = members(context)
    {task, _id, _text} = ask(context, socket, "lost")
    :gen_tcp.close(socket)
    assert Task.await(task) == {:error, :disconnected}

    socket = up(context)
    assert members(context) == [client]
    assert :sys.get_state(client).waiting == %{}
    {task, id, _text} = ask(context, socket, "found", 100_000)
    answer(socket, id, "FOUND")
    assert Task.await(task) == {:ok, {1, "FOUND"}}
  end

  test "waits longer from attempt to attempt, and begins anew when it was connected", context do
    socket = up(context)
    [client] = members(context)
    :erlang.trace_pattern({:erlang, :send_after, :_}, true, [])
    :erlang.trace(client, true, [:call])
    :gen_tcp.close(socket)

    for most <- [1, 2, 4, 8, 16, 20, 20, 20, 20] do
      assert pause_ms(client) in div(most, 2)..most
      greet_wrongly(accept(context))
    end

    assert pause_ms(client) in 10..20
    :gen_tcp.close(up(context))
    assert pause_ms(client) in 0..1
  end

  test "goes on after an answer that came too late", context do
    socket = up(context)
    pool = context.pool
    {:error, {:exit, reason}} = FantaTCP.request(pool, "late", timeout: 1)
    assert {:timeout, {GenServer, :call, [_client, _request, 1]}} = reason

    late = receive_request(socket, "late")
    {task, id, _text} = ask(context, socket, "next")
    answer(socket, late, "LATE")
    answer(socket, id, "NEXT")
    assert Task.await(task) == {:ok, {1, "NEXT"}}
  end

  @tag :capture_log
  test "is started again when it is killed, and joins", context do
    up(context)
    [client] = members(context)
    Process.exit(client, :kill)

    up(context)
    assert [other] = members(context)
    assert other != client
  end

  defp members(%{pool: pool}) do
    {:ok, members} = Pool.members(pool)
    for member <- members, do: member.pid
  end

  defp up(context) do
    socket = accept(context)
    greet(socket)
    assert Pool.await_members(context.pool, 1, @await_ms) == :ok
    socket
  end

  defp accept(%{listener: listener}) do
    {:ok, socket} = :gen_tcp.accept(listener, @await_ms)
    socket
  end

  defp greet(socket), do: :ok = :gen_tcp.send(socket, "FANTA")

  defp greet_wrongly(socket) do
    :ok = :gen_tcp.send(socket, "HELLO")
    assert :gen_tcp.recv(socket, 0, @await_ms) == {:error, :closed}
  end

  defp pause_ms(client) do
    assert_receive {:trace, ^client, :call, {:erlang, :send_after, [ms, ^client, :connect | _]}},
                   @await_ms

    ms
  end

  # Returns when the request has come in.
  defp ask(%{pool: pool}, socket, text, wait_ms \\ 0) do
    task = Task.async(fn -> FantaTCP.request(pool, text, wait_ms: wait_ms) end)
    {task, receive_request(socket, text, wait_ms), text}
  end

  defp receive_request(socket, text, wait_ms \\ 0) do
    assert {:ok, <<id::64, ^wait_ms::32, ^text::binary>>} = :gen_tcp.recv(socket, 0, @await_ms)
    id
  end

  defp answer(socket, id, text), do: :ok = :gen_tcp.send(socket, <<id::64, 1::32, text::binary>>)
end
