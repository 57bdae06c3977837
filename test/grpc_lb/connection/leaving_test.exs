defmodule GrpcLb.Connection.LeavingTest do
  # Transports that take no new calls, and addresses that go, over real sockets.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Address, Connection, Secret}
  alias GrpcLb.Connection.Leaving
  alias GrpcLb.Test.{GracefulServer, GracefulTransport, ScriptedResolver, ScriptedTransport}

  @moduletag capture_log: true

  test "a transport leaves the list also where another one has the same value" do
    [old, new] = for _ <- 1..2, do: spawn(fn -> :ok end)
    value = Secret.hide("to 10.0.0.1:1")
    address = %Address{ip: {10, 0, 0, 1}, port: 1}
    one = %{key: "10.0.0.1:1", address: address, pid: old, value: value, owner: old}
    opts = [transport: GracefulTransport, drain_timeout: :infinity]
    options = Connection.Options.new!("ipv4:10.0.0.1:1", opts)
    leaving = options |> Leaving.new() |> Leaving.drain(one, :asked)
    assert Leaving.unlisted(leaving, [{"10.0.0.1:1", {:up, value, old}, []}]) == []
    assert Leaving.unlisted(leaving, [{"10.0.0.1:1", {:up, value, new}, []}]) == ["10.0.0.1:1"]
  end

  defp target(servers), do: {:static, Enum.map(servers, &GracefulServer.address/1)}

  defp connect_gracefully!(servers, opts \\ []) do
    defaults = [transport: GracefulTransport, drain_timeout: :infinity]
    handle = connect!(target(servers), Keyword.merge(defaults, opts))
    await_ids(handle, Enum.map(servers, &GracefulServer.id/1))
    handle
  end

  # A call that has its transport, and speaks to the server when it is told to. Gives the number of the
  # connection that has answered.
  defp call(handle) do
    test = self()

    task =
      Task.async(fn ->
        Connection.run(handle, fn transport ->
          send(test, {:in_flight, self()})

          receive do
            :go_on -> GracefulTransport.call(transport)
          end
        end)
      end)

    assert_receive {:in_flight, _pid}, 10_000
    task
  end

  defp go_on(task) do
    send(task.pid, :go_on)
    Task.await(task, 10_000)
  end

  defp number(handle) do
    with {:ok, transport} <- Connection.pick(handle), do: GracefulTransport.number(transport)
  end

  defp states(handle), do: for(one <- Connection.info(handle).backends, do: one.state)
  defp await_states(handle, states), do: eventually(fn -> states(handle) == states end)

  defp await_connections(server, connections) do
    eventually(fn -> GracefulServer.connections(server) == connections end, fn ->
      inspect(GracefulServer.connections(server))
    end)
  end

  for how <- [:message, :token] do
    test "a #{how}: a new connection is opened at once, and the old one ends with its calls" do
      server = GracefulServer.start()
      handle = connect_gracefully!([server], transport: {GracefulTransport, unquote(how)})
      [first, second] = [call(handle), call(handle)]
      GracefulServer.go_away(server)
      await_connections(server, {2, 2})
      eventually(fn -> number(handle) == 2 end)
      third = call(handle)

      assert go_on(first) == {:ok, 1}
      assert GracefulServer.connections(server) == {2, 2}
      assert go_on(second) == {:ok, 1}
      # The third is none of its calls.
      await_connections(server, {2, 1})
      assert go_on(third) == {:ok, 2}

      assert %{backends: [%{successes: 3, failures: 0, in_flight: 0}]} =
               GrpcLb.info(handle.balancer)

      await_states(handle, [:up])
    end
  end

  test "one of several leaves the rotation before there is a new one" do
    [one, other] = servers = for _ <- 1..2, do: GracefulServer.start()
    handle = connect_gracefully!(servers)
    call = call(handle)
    for server <- servers, do: GracefulServer.stall(server)
    GracefulServer.go_away(one)
    await_ids(handle, [GracefulServer.id(other)])
    GracefulServer.greet(one)
    await_ids(handle, Enum.map(servers, &GracefulServer.id/1))
    assert go_on(call) == {:ok, 1}
  end

  test "the only one is picked until there is a new one" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server])
    GracefulServer.stall(server)
    call = call(handle)
    GracefulServer.go_away(server)
    await_connections(server, {2, 2})
    assert number(handle) == 1
    assert Connection.run(handle, &GracefulTransport.call/1) == {:ok, 1}
    assert Connection.state(handle) == :ready
    GracefulServer.greet(server)
    eventually(fn -> number(handle) == 2 end)
    assert go_on(call) == {:ok, 1}
    await_connections(server, {2, 1})
  end

  test "the last of several is picked until one is up" do
    servers = for _ <- 1..2, do: GracefulServer.start()
    handle = connect_gracefully!(servers)
    for server <- servers, do: GracefulServer.stall(server)
    calls = for _ <- servers, do: call(handle)
    for server <- servers, do: GracefulServer.go_away(server)
    for server <- servers, do: await_connections(server, {2, 2})
    assert Connection.run(handle, &GracefulTransport.call/1) == {:ok, 1}
    for server <- servers, do: GracefulServer.greet(server)
    eventually(fn -> length(ids(handle)) == 2 and number(handle) == 2 and number(handle) == 2 end)
    for call <- calls, do: assert(go_on(call) == {:ok, 1})
  end

  test "without its owner it is not picked, also when it is the only one" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server], transport: {GracefulTransport, :token})
    GracefulServer.stall(server)
    call = call(handle)
    GracefulServer.go_away(server)
    await_connections(server, {2, 2})
    assert Connection.pick(handle) == {:error, :no_backends}
    GracefulServer.greet(server)
    assert Connection.await_ready(handle) == :ok
    assert go_on(call) == {:ok, 1}
  end

  test "one that is refused its successor is picked until that is there" do
    server = GracefulServer.start()
    %{port: port} = GracefulServer.address(server)
    handle = connect_gracefully!([server])
    # One that is not counted: it is closed when all of the time is over.
    stop = Task.async(fn -> GracefulServer.stop(server) end)
    await_states(handle, [:backoff, :draining])
    assert Connection.run(handle, &GracefulTransport.call/1) == {:ok, 1}
    next = GracefulServer.start(port)
    await_connections(next, {1, 1})
    Task.await(stop, 10_000)
    assert Connection.run(handle, &GracefulTransport.call/1) == {:ok, 1}
  end

  test "it has drain_timeout at most" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server], drain_timeout: 20)
    call = call(handle)
    GracefulServer.go_away(server)
    await_connections(server, {2, 1})
    assert go_on(call) == {:error, :closed}
  end

  test "where no call ever was counted it stays open for all of that" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server])
    assert number(handle) == 1
    GracefulServer.go_away(server)
    eventually(fn -> number(handle) == 2 end)
    assert states(handle) == [:up, :draining]
    # Calls are counted from now on.
    assert Connection.run(handle, &GracefulTransport.call/1) == {:ok, 2}
    GracefulServer.go_away(server)
    await_connections(server, {3, 2})
    await_states(handle, [:up, :draining])
  end

  test "one goes away again and again" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server])

    calls =
      for n <- 1..20 do
        eventually(fn -> number(handle) == n end)
        call = call(handle)
        GracefulServer.go_away(server)
        call
      end

    for {call, n} <- Enum.with_index(calls, 1), do: assert(go_on(call) == {:ok, n})
    await_connections(server, {21, 1})
  end

  test "a server that was killed meanwhile leaves it to the next, and opens no third" do
    server = GracefulServer.start()
    handle = connect_gracefully!([server])
    call = call(handle)
    GracefulServer.go_away(server)
    eventually(fn -> number(handle) == 2 end)
    before = server(handle)
    Process.exit(before, :kill)
    restarted(handle, before)
    assert Enum.sort(states(handle)) == [:draining, :up]
    assert number(handle) == 2
    assert go_on(call) == {:ok, 1}
    assert GracefulServer.connections(server) == {2, 2}
  end

  describe "an address that is gone:" do
    defp resolving!(servers) do
      names = ScriptedResolver.start(Enum.map(servers, &GracefulServer.address/1))
      opts = [resolver: ScriptedResolver, transport: GracefulTransport, drain_timeout: :infinity]
      handle = connect!(names, opts)
      await_ids(handle, Enum.map(servers, &GracefulServer.id/1))
      {handle, names}
    end

    defp resolve_to(handle, names, servers) do
      ScriptedResolver.set(names, Enum.map(servers, &GracefulServer.address/1))
      Connection.resolve_now(handle)
      await_ids(handle, Enum.map(servers, &GracefulServer.id/1))
    end

    test "its transport is closed when the last of its calls has ended" do
      [one, other] = servers = for _ <- 1..2, do: GracefulServer.start()
      {handle, names} = resolving!(servers)
      calls = for _ <- 1..4, do: call(handle)
      resolve_to(handle, names, [other])
      assert GracefulServer.connections(one) == {1, 1}
      for call <- calls, do: assert(go_on(call) == {:ok, 1})
      await_connections(one, {1, 0})
      await_states(handle, [:up])
    end

    test "it is at once where all of its calls have ended" do
      [one, other] = servers = for _ <- 1..2, do: GracefulServer.start()
      {handle, names} = resolving!(servers)
      for _ <- servers, do: assert(go_on(call(handle)) == {:ok, 1})
      assert Enum.all?(GrpcLb.info(handle.balancer).backends, &(&1.successes == 1))
      resolve_to(handle, names, [other])
      await_connections(one, {1, 0})
    end

    test "it comes back with its calls in flight, if it has not said that it takes no more" do
      [one, other] = servers = for _ <- 1..2, do: GracefulServer.start()
      {handle, names} = resolving!(servers)
      calls = for _ <- 1..2, do: call(handle)
      resolve_to(handle, names, [other])
      resolve_to(handle, names, servers)
      assert GracefulServer.connections(one) == {1, 1}

      resolve_to(handle, names, [other])
      GracefulServer.go_away(one)
      eventually(fn -> refused?(handle) end)
      resolve_to(handle, names, servers)
      assert GracefulServer.connections(one) == {2, 2}
      for call <- calls, do: assert(go_on(call) == {:ok, 1})
      await_connections(one, {2, 1})
    end

    # Whether one drains that has said that it takes no more calls, and has told so.
    defp refused?(handle) do
      Enum.any?(Connection.Subchannel.all(handle.balancer), fn {pid, _key, _address, state} ->
        match?({:draining, _value, _owner}, state) and :sys.get_state(pid).draining?
      end)
    end
  end

  defmodule Closing do
    @behaviour GrpcLb.Transport

    @impl true
    def open(address, test), do: {:ok, {address.port, test}}

    @impl true
    def close({port, test}, drain_timeout), do: send(test, {:closed, port, drain_timeout})
  end

  test "close/2 is told how much of drain_timeout is left" do
    names = ScriptedResolver.start([address(1)])
    opts = [resolver: ScriptedResolver, transport: {Closing, self()}, drain_timeout: 60_000]
    handle = connect!(names, opts)
    assert Connection.run(handle, &elem(&1, 0)) == 1
    ScriptedResolver.set(names, [address(2)])
    Connection.resolve_now(handle)
    assert_receive {:closed, 1, left}, 10_000
    assert left in 1..60_000
    eventually(fn -> Connection.pick(handle) == {:ok, {2, self()}} end)
    Connection.disconnect(handle)
    assert_receive {:closed, 2, 0}, 10_000
  end

  defp address(port), do: %GrpcLb.Address{ip: {127, 0, 0, 1}, port: port}

  test "a close may take what is left of drain_timeout, and the next is not waited for" do
    opts = [transport: {ScriptedTransport, self()}, drain_timeout: :infinity]
    connect = Task.async(fn -> Connection.connect({:static, [address(1)]}, opts(opts)) end)
    # The task is no test: who opens asks this process.
    owner = spawn(fn -> Process.sleep(:infinity) end)

    ScriptedTransport.answer(ScriptedTransport.opening("127.0.0.1:1"), fn ->
      {:ok, :first, owner}
    end)

    {:ok, handle} = Task.await(connect, 10_000)
    Process.exit(owner, :kill)
    closing = ScriptedTransport.closing(:first)
    ScriptedTransport.let_open("127.0.0.1:1")
    eventually(fn -> Connection.pick(handle) == {:ok, "127.0.0.1:1"} end)
    assert %{backends: [%{state: :up}, %{state: :closing}]} = Connection.info(handle)
    ScriptedTransport.answer(closing, fn -> :ok end)
    await_states(handle, [:up])
    disconnect = Task.async(fn -> Connection.disconnect(handle) end)
    ScriptedTransport.let_close("127.0.0.1:1")
    Task.await(disconnect, 10_000)
  end
end
