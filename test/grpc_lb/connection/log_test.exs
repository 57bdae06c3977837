defmodule GrpcLb.Connection.LogTest do
  # What is logged is seen by all handlers.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Connection
  alias GrpcLb.Connection.Log
  alias GrpcLb.Test.{Logs, Loopback, ScriptedResolver, ScriptedTransport, TcpTransport}

  doctest Log

  @moduletag :capture_log

  @id "127.0.0.1:1"

  setup do
    handler = Logs.attach()
    on_exit(fn -> Logs.detach(handler) end)
  end

  # The next event of this connection.
  defp logged(name) do
    assert_receive {:log, %{meta: %{domain: [:grpc_lb], name: ^name}} = event}
    {event.level, Map.take(event.meta, [:backend, :reason]), text(event)}
  end

  defp text(%{msg: {:string, text}}), do: IO.chardata_to_string(text)

  # Nothing else has been logged, by the connection or about its processes.
  defp silent(but \\ fn _event -> false end) do
    assert [] =
             for(
               %{level: level} = event when level not in [:info, :debug] <- Logs.flush(),
               not of_balancer?(event) and not but.(event),
               do: event
             )
  end

  # What balancers decide may be of other tests, which have ended.
  defp of_balancer?(event), do: match?(%{meta: %{mfa: {GrpcLb.Log, _, _}}}, event)

  test "a server that is refused and comes back: one warning, one notice" do
    server = Loopback.start(:refuse)
    id = Loopback.id(server)
    {handle, _pid} = supervised!(target: static([server]), name: :logged)

    assert {:warning, %{backend: ^id, reason: :econnrefused}, text} = logged(:logged)
    assert text == "connection :logged: backend #{id} fails: :econnrefused"
    # Over many attempts.
    dialled(server(handle), 5)
    silent()

    Loopback.become(server, :echo)
    assert {:notice, metadata, text} = logged(:logged)
    assert metadata == %{backend: id}
    assert text == "connection :logged: backend #{id} is well again"
    assert {:ok, _} = echo(handle)

    Loopback.become(server, :refuse)
    assert {:warning, %{backend: ^id}, _text} = logged(:logged)
    Loopback.become(server, :echo)
    assert {:notice, %{backend: ^id}, _text} = logged(:logged)
    silent()
  end

  # Sees that so many subchannels were started.
  defp dialled(server, n) do
    pid = fn -> for {_id, %{pid: pid}} <- :sys.get_state(server).backends.entries, do: pid end

    Enum.reduce(1..n, pid.(), fn _i, before ->
      eventually(fn -> pid.() not in [before, [nil]] end)
      pid.()
    end)
  end

  test "a server that does not answer in time is no error of a supervisor" do
    server = Loopback.start(:stall)
    id = Loopback.id(server)
    {handle, _pid} = supervised!(target: static([server]), connect_timeout: 100)
    assert {:warning, %{backend: ^id, reason: :timeout}, _text} = logged_of_backend(handle.name)
    eventually(fn -> Loopback.accepted(server) > 5 end)
    silent(&of_resolution?/1)
    Loopback.become(server, :echo)
    assert {:notice, %{backend: ^id}, _text} = logged_of_backend(handle.name)
  end

  # On a busy machine the time of a transport may be too short for the resolver, too.
  defp of_resolution?(%{meta: meta}), do: meta[:domain] == [:grpc_lb] and meta[:backend] == nil

  defp logged_of_backend(name) do
    case logged(name) do
      {_level, %{backend: _id}, _text} = logged -> logged
      _of_resolution -> logged_of_backend(name)
    end
  end

  test "an address that goes while it is connected to is no error either, and not logged" do
    [server, stalled] = [Loopback.start(), Loopback.start(:stall)]
    {handle, names} = connect_scripted!([server, stalled])
    ScriptedResolver.set(names, [server])
    Connection.resolve_now(handle)
    eventually(fn -> length(Connection.info(handle).backends) == 1 end)
    silent()
  end

  test "a connection that is lost and opened again at once does not fail" do
    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})
    first = ScriptedTransport.let_open(@id)
    :ok = Connection.await_ready(handle)
    Connection.run(handle, fn _value -> :ok end)
    subscribe_ready!(handle)
    send(first, {:EXIT, spawn(fn -> :ok end), :hung_up})
    ScriptedTransport.let_close(@id)
    name = handle.name
    # Before it is opened again: what comes together is told as one, and would be no change.
    assert_receive {:grpc_lb_connection, ^name, :connecting}
    ScriptedTransport.let_open(@id)
    assert_receive {:grpc_lb_connection, ^name, :ready}
    silent()
  end

  test "a check that fails is told, also where the connection is opened again at once" do
    opts = [transport: {ScriptedTransport, self()}, check_interval: 1]
    {handle, _pid} = supervised!([target: "ipv4:#{@id}"] ++ opts)
    ScriptedTransport.let_open(@id)
    :ok = Connection.await_ready(handle)
    # It has worked.
    Connection.run(handle, fn _value -> :ok end)
    ScriptedTransport.answer(ScriptedTransport.checking(@id), fn -> {:error, :timeout} end)
    opening = ScriptedTransport.opening(@id)
    assert {:warning, %{backend: @id, reason: {:check, :timeout}}, _text} = logged(handle.name)
    ScriptedTransport.answer(opening, fn -> {:ok, @id} end)
    assert {:notice, %{backend: @id}, _text} = logged(handle.name)
  end

  test "a resolution: one warning, one notice" do
    server = Loopback.start()
    {handle, names} = connect_scripted!([server])
    ScriptedResolver.set(names, fn -> {:error, :nxdomain} end)
    flush_resolving()
    Connection.resolve_now(handle)
    assert {:warning, metadata, text} = logged(handle.name)
    assert metadata == %{reason: :nxdomain}
    assert text =~ ~r/the resolution of .* fails: :nxdomain$/
    for _ <- 1..3, do: assert_receive({:resolving, _worker})
    ScriptedResolver.set(names, [])
    flush_resolving()
    for _ <- 1..3, do: assert_receive({:resolving, _worker})
    ScriptedResolver.set(names, [server])
    assert {:notice, %{}, text} = logged(handle.name)
    assert text =~ ~r/the resolution of .* is well again$/
    silent()
  end

  defp flush_resolving do
    receive do
      {:resolving, _pid} -> flush_resolving()
    after
      0 -> :ok
    end
  end

  test "reasons are told without what modules were given" do
    for {fun, reason} <- [
          {fn -> Keyword.fetch!([token: "hunter2"], :tokn) end, {:raised, KeyError}},
          {fn -> throw("hunter2") end, :thrown},
          {fn -> {:rubbish, "hunter2"} end, :bad_return},
          {fn -> GenServer.call(:nobody, "hunter2") end,
           {:exited, {:noproc, {GenServer, :call, 3}}}},
          {fn -> {:error, :no} end, :no}
        ] do
      # Not tried again: that would take the answer to the next.
      opts = [transport: {ScriptedTransport, self()}, backoff: [initial: 3_600_000]]
      {handle, _pid} = supervised!([target: "ipv4:#{@id}"] ++ opts)
      ScriptedTransport.answer(ScriptedTransport.opening(@id), fun)
      assert {:warning, %{reason: ^reason}, text} = logged(handle.name)
      refute text =~ "hunter2"
    end
  end

  test "levels of the module and of the application count" do
    Logger.put_module_level(Log, :error)
    on_exit(fn -> Logger.delete_module_level(Log) end)
    {handle, _pid} = supervised!(target: static([Loopback.start(:refuse)]))
    eventually(fn -> Connection.state(handle) == :transient_failure end)
    silent()
  end

  test "a handler of Elixir's sees the text and the metadata" do
    log =
      ExUnit.CaptureLog.capture_log(
        [metadata: [:backend], format: "$level $metadata$message\n"],
        fn ->
          server = Loopback.start(:refuse)
          {handle, _pid} = supervised!(target: static([server]), name: :captured)
          logged(:captured)
          # It answers when all handlers have seen it, and not only that of the test.
          Connection.info(handle)
        end
      )

    assert log =~
             ~r/warning backend=127\.0\.0\.1:\d+ connection :captured: backend .* fails: :econnrefused/
  end

  test "one that is killed under way says nothing of what it was doing" do
    {handle, _pid} = supervised!(target: static([Loopback.start()]))
    :ok = Connection.await_ready(handle)
    before = server(handle)
    kill([before])
    restarted(handle, before)
    assert {:ok, _} = Connection.run(handle, &TcpTransport.call(&1, "hello"))

    assert [] =
             for(
               %{meta: %{domain: [:grpc_lb]}} = event <- Logs.flush(),
               not of_balancer?(event),
               do: event
             )
  end
end
