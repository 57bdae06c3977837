defmodule GrpcLb.Connection.HealthTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Connection, Transport}
  alias GrpcLb.Connection.Health
  alias GrpcLb.Test.ScriptedTransport

  doctest Health
  doctest Transport

  test "whoever is told of has to be a process" do
    for other <- [nil, :subchannel, make_ref()],
        tell <- [&Transport.draining/1, &Transport.healthy/1, &Transport.unhealthy(&1, :reason)] do
      assert_raise ArgumentError, ~r/^subchannel must be the pid of the process/, fn ->
        tell.(other)
      end
    end
  end

  @moduletag :capture_log

  @id "127.0.0.1:1"

  # A line over a real socket. Checks ask for "health"; what the server answers a test decides.
  defmodule Line do
    @behaviour Transport

    @impl true
    def open(address, test) do
      opts = [:binary, packet: :line, active: false]

      with {:ok, socket} <- :gen_tcp.connect(address.ip, address.port, opts) do
        send(test, {:opened, GrpcLb.Address.id(address), self()})
        {:ok, socket}
      end
    end

    @impl true
    def close(socket), do: :gen_tcp.close(socket)

    @impl true
    def check(socket) do
      with :ok <- :gen_tcp.send(socket, "health\n"), do: read(:gen_tcp.recv(socket, 0))
    end

    defp read({:ok, "serving\n"}), do: :ok
    defp read({:ok, line}), do: {:unhealthy, String.trim(line)}
    defp read({:error, reason}), do: {:error, reason}
  end

  # Answers each check when the test says what.
  defp server do
    test = self()

    {:ok, listener} =
      :gen_tcp.listen(0, [:binary, packet: :line, active: false, ip: {127, 0, 0, 1}])

    {:ok, port} = :inet.port(listener)
    start_supervised!({Task, fn -> accept(listener, test) end}, id: port)
    "127.0.0.1:#{port}"
  end

  defp accept(listener, test) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn_link(fn -> receive(do: (:go -> serve(socket, test))) end)
    :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
    accept(listener, test)
  end

  defp serve(socket, test) do
    with {:ok, "health\n"} <- :gen_tcp.recv(socket, 0) do
      send(test, {:asked, self()})

      receive do
        {:answer, :hang_up} ->
          :gen_tcp.close(socket)

        {:answer, line} ->
          :gen_tcp.send(socket, [line, ?\n])
          serve(socket, test)
      end
    end
  end

  defp answer(line) do
    assert_receive {:asked, server}
    send(server, {:answer, line})
  end

  defp checked!(id, opts) do
    opts = [target: "ipv4:" <> id, transport: {Line, self()}, check_interval: 1] ++ opts
    {handle, _pid} = supervised!(opts)
    subscribe_ready!(handle)
    assert_receive {:opened, ^id, _subchannel}
    handle
  end

  defp assert_state(%{name: name}, state) do
    assert_receive {:grpc_lb_connection, ^name, told}
    assert told == state
  end

  test "a server that does not want calls is out of the rotation, and its connection stays open" do
    id = server()
    handle = checked!(id, unhealthy_threshold: 3, healthy_threshold: 2)
    # Two in a row are not three, and one that is well begins the count anew.
    for line <- ["warming", "warming", "serving", "warming", "warming"], do: answer(line)
    # The next is asked when these have been counted.
    assert_receive {:asked, server}
    assert ids(handle) == [id]
    send(server, {:answer, "warming"})
    assert_state(handle, :transient_failure)
    assert ids(handle) == []
    assert [%{state: :unhealthy, error: "warming"}] = Connection.info(handle).backends

    assert Connection.pick(handle) == {:error, :no_backends}
    waiting = Task.async(fn -> Connection.pick(handle, nil, wait_for_ready: :infinity) end)

    # Back after two in a row.
    for line <- ["serving", "warming", "serving"], do: answer(line)
    assert_receive {:asked, server}
    assert ids(handle) == []
    send(server, {:answer, "serving"})
    assert_state(handle, :ready)
    assert {:ok, socket} = Task.await(waiting)
    assert is_port(socket)
    assert [%{state: :up, error: nil}] = Connection.info(handle).backends
    # All of that over one connection.
    refute_received {:opened, ^id, _subchannel}
  end

  test "a check that fails three times in a row has the transport opened anew, and not before" do
    :ok = GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
    id = server()
    handle = checked!(id, unhealthy_threshold: 3)
    # A connection that has worked is opened anew at once.
    Connection.run(handle, fn _socket -> :ok end)
    {:ok, first} = Connection.pick(handle)
    answer(:hang_up)
    # The second and the third find it closed.
    assert_receive {:opened, ^id, _subchannel}
    # The first may be listed for a moment more.
    eventually(fn -> match?({:ok, second} when second != first, Connection.pick(handle)) end)
    name = handle.name

    assert_receive {:event, [:grpc_lb, :backend, :down], _,
                    %{name: ^name, id: ^id, reason: {:check, _reason}}}
  end

  test "one that is unhealthy and does not work is opened anew at once" do
    id = server()
    handle = checked!(id, unhealthy_threshold: 2)
    for _ <- 1..2, do: answer("warming")
    assert_state(handle, :transient_failure)
    answer(:hang_up)
    assert_receive {:opened, ^id, _subchannel}
    assert_state(handle, :ready)
  end

  test "a check that takes longer than check_timeout has failed, whatever the threshold" do
    opts = [check_interval: 1, check_timeout: 200, unhealthy_threshold: 100]
    transport = {ScriptedTransport, self()}
    {handle, _pid} = supervised!([target: "ipv4:#{@id}", transport: transport] ++ opts)
    {:ok, :connecting} = Connection.subscribe(handle)
    ScriptedTransport.let_open(@id)
    assert_state(handle, :ready)
    # It is not answered.
    checking = ScriptedTransport.checking(@id)
    assert_state(handle, :transient_failure)
    refute Process.alive?(checking)
    ScriptedTransport.let_open(@id)
    assert_state(handle, :ready)
  end

  test "a transport that says that it is unhealthy is, until it says that it is healthy" do
    :ok = GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)

    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})
    {:ok, :connecting} = Connection.subscribe(handle)
    name = handle.name
    subchannel = ScriptedTransport.let_open(@id)
    assert_state(handle, :ready)

    Transport.unhealthy(subchannel, :not_serving)
    assert_state(handle, :transient_failure)
    assert [%{state: :unhealthy, error: :not_serving}] = Connection.info(handle).backends

    assert_receive {:event, [:grpc_lb, :backend, :unhealthy], %{duration: _},
                    %{name: ^name, id: @id, reason: :not_serving}}

    Transport.healthy(subchannel)
    assert_state(handle, :ready)

    assert_receive {:event, [:grpc_lb, :backend, :healthy], %{duration: _},
                    %{name: ^name, id: @id}}

    # To say so again changes nothing.
    Transport.healthy(subchannel)
    :sys.get_state(subchannel)
    Connection.info(handle)

    refute_received {:event, [:grpc_lb, :backend, _health], _measured,
                     %{name: ^name, id: @id, reason: _}}

    assert Connection.state(handle) == :ready
  end

  test "no check that passes undoes what it says, and one that fails has it opened anew" do
    id = server()
    handle = checked!(id, unhealthy_threshold: 100)
    [{_id, subchannel, _type, _modules}] = subchannels(handle)
    Transport.unhealthy(subchannel, :not_serving)
    serving_until(handle, :transient_failure)
    # The third is asked when two have been counted.
    for _ <- 1..2, do: answer("serving")
    assert_receive {:asked, server}
    assert [%{state: :unhealthy, error: :not_serving}] = Connection.info(handle).backends
    Transport.healthy(subchannel)
    send(server, {:answer, "serving"})
    serving_until(handle, :ready)

    Transport.unhealthy(subchannel, :not_serving)
    serving_until(handle, :transient_failure)
    answer(:hang_up)
    assert_receive {:opened, ^id, _subchannel}
    assert_state(handle, :ready)
  end

  # A subchannel that waits for the answer to a check hears of nothing else.
  defp serving_until(%{name: name} = handle, state) do
    receive do
      {:grpc_lb_connection, ^name, told} ->
        assert told == state

      {:asked, server} ->
        send(server, {:answer, "serving"})
        serving_until(handle, state)
    after
      10_000 -> flunk("it is not #{state}")
    end
  end

  defp subchannels(%{balancer: balancer}),
    do: balancer |> Connection.Subchannel.whereis_supervisor() |> Supervisor.which_children()

  test "one that says so while it is opened is never picked before it is healthy" do
    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})
    {:ok, :connecting} = Connection.subscribe(handle)
    subchannel = ScriptedTransport.opening(@id)

    ScriptedTransport.answer(subchannel, fn ->
      Transport.unhealthy(self(), :warming)
      {:ok, @id}
    end)

    assert_state(handle, :transient_failure)
    assert ids(handle) == []
    Transport.healthy(subchannel)
    assert_state(handle, :ready)
  end

  test "what it said outlives the server, also what it says while there is none" do
    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})
    {:ok, :connecting} = Connection.subscribe(handle)
    subchannel = ScriptedTransport.let_open(@id)
    assert_state(handle, :ready)
    Transport.unhealthy(subchannel, :not_serving)
    assert_state(handle, :transient_failure)

    before = server(handle)
    kill([before])
    restarted(handle, before)
    assert [%{state: :unhealthy, error: :not_serving}] = Connection.info(handle).backends
    assert ids(handle) == []

    before = server(handle)
    supervisor = supervisor_of(handle)
    :sys.suspend(supervisor)
    kill([before])
    Transport.healthy(subchannel)
    :sys.get_state(subchannel)
    :sys.resume(supervisor)
    restarted(handle, before)
    eventually(fn -> Connection.pick(handle) == {:ok, @id} end)
  end

  test "with a panic threshold the unhealthy are picked when nobody else can be" do
    opts = [transport: {ScriptedTransport, self()}, panic_threshold: 50]
    {handle, _pid} = supervised!([target: "ipv4:#{@id}"] ++ opts)
    {:ok, :connecting} = Connection.subscribe(handle)
    subchannel = ScriptedTransport.let_open(@id)
    assert_state(handle, :ready)
    Transport.unhealthy(subchannel, :not_serving)
    assert_state(handle, :transient_failure)
    assert Connection.pick(handle) == {:ok, @id}
  end
end
