defmodule GrpcLb.Connection.TelemetryTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Connection, Telemetry, Transport}
  alias GrpcLb.Test.{Loopback, Peer, ScriptedResolver}

  @moduletag capture_log: true

  setup do
    :ok = GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
  end

  # The next event of this kind of the connection with this name.
  defp await_event(connection, event) do
    assert_receive {:event, [:grpc_lb | ^event], measurements, %{name: ^connection} = metadata},
                   10_000

    {measurements, metadata}
  end

  defp received do
    receive do
      {:event, name, measurements, metadata} -> [{name, measurements, metadata} | received()]
    after
      0 -> []
    end
  end

  defp keys(fields), do: fields |> Enum.map(&elem(&1, 0)) |> Enum.sort()

  test "every event is documented as it is emitted, and every documented event is emitted" do
    [a, b] = for _ <- 1..2, do: Loopback.start()
    last = [:grpc_lb, :connection, :disconnected]
    documented = Map.new(Telemetry.events(), &{&1.name, &1})
    handle = connect!([a, b])
    await_ids(handle, [a, b])

    for {subchannel, _key, _address, _state} <- Connection.Subchannel.all(handle.balancer) do
      Transport.unhealthy(subchannel, :not_serving)
      Transport.healthy(subchannel)
    end

    Loopback.become(a, :refuse)
    Loopback.become(b, :refuse)

    of_connections =
      for {name, %{metadata: [{:name, _}, {:target, _} | _]}} <- documented, do: name

    events = collect(of_connections -- [last], handle.name)
    Connection.disconnect(handle)
    events = events ++ collect([last], handle.name)

    # Those of other tests' connections and balancers among them.
    for {name, measurements, metadata} <- events do
      assert %{^name => event} = documented
      assert {name, keys(measurements)} == {name, keys(event.measurements)}
      assert {name, keys(metadata)} == {name, keys(event.metadata)}
      assert Enum.all?(Map.values(measurements), &(is_number(&1) and &1 >= 0))
    end
  end

  # All events until the connection has emitted each of these.
  defp collect([], _connection), do: received()

  defp collect(awaited, connection) do
    assert_receive {:event, name, measurements, metadata}, 10_000, "no #{inspect(awaited)}"
    mine? = metadata[:name] == connection
    awaited = if mine?, do: List.delete(awaited, name), else: awaited
    [{name, measurements, metadata} | collect(awaited, connection)]
  end

  test "a connection that comes and goes" do
    target = static([server = Loopback.start()])
    name = make_ref()
    handle = connect!(target, name: name)
    id = Loopback.id(server)
    address = Loopback.address(server)

    assert {%{addresses: 1}, %{result: :ok, target: ^target}} =
             await_event(name, [:resolver, :resolved])

    assert {_, %{id: ^id, address: ^address}} = await_event(name, [:backend, :up])

    assert {%{added: 1, removed: 0, kept: 0}, %{target: ^target}} =
             await_event(name, [:connection, :reconciled])

    assert {_, %{state: :ready, previous: :connecting, target: ^target}} =
             await_event(name, [:connection, :state])

    assert {_, %{target: ^target}} = await_event(name, [:connection, :connected])
    Connection.disconnect(handle)
    assert {_, %{state: :shutdown, previous: :ready}} = await_event(name, [:connection, :state])
    assert {_, %{reason: :normal}} = await_event(name, [:connection, :disconnected])
    # On purpose is not down.
    refute_received {:event, [:grpc_lb, :backend, :down], _, %{name: ^name}}
    refute_received {:event, _, _, %{name: ^name}}
  end

  test "what a reconcile did" do
    [a, b, c] = for _ <- 1..3, do: Loopback.start()
    name = make_ref()
    {handle, names} = connect_scripted!([a], name: name)
    assert {%{added: 1, removed: 0, kept: 0}, _} = await_event(name, [:connection, :reconciled])
    # Before it is resolved anew, for a transport that is open is one reconcile.
    ScriptedResolver.set(names, [a, b])
    Connection.resolve_now(handle)
    assert {%{added: 1, removed: 0, kept: 1}, _} = await_event(name, [:connection, :reconciled])
    ScriptedResolver.set(names, [b])
    Connection.resolve_now(handle)
    assert {%{added: 0, removed: 1, kept: 1}, _} = await_event(name, [:connection, :reconciled])
    ScriptedResolver.set(names, [c])
    Connection.resolve_now(handle)
    await_ids(handle, [c])
    # The last one left may stay until the first of the new ones is open.
    changes = for _ <- 1..2, do: elem(await_event(name, [:connection, :reconciled]), 0)
    assert Enum.sum(Enum.map(changes, & &1.added)) == 1
    assert Enum.sum(Enum.map(changes, & &1.removed)) == 1
  end

  test "a resolution that is empty or fails says that the last known backends were kept" do
    name = make_ref()
    {handle, names} = connect_scripted!([Loopback.start()], name: name)
    assert {%{addresses: 1}, %{result: :ok}} = await_event(name, [:resolver, :resolved])

    for {answer, reason} <- [
          {[], :no_addresses},
          {fn -> {:error, :nxdomain} end, :nxdomain},
          {fn -> Process.exit(self(), :kill) end, nil},
          {fn -> raise "no" end, nil}
        ] do
      ScriptedResolver.set(names, answer)
      Connection.resolve_now(handle)
      said = await_result(name, &match?({:kept, _}, &1), reason)
      assert {:kept, _reason} = said
      # Those that repeat it.
      received()
    end
  end

  # A result with this reason, after those that are still of the answer before.
  defp await_result(name, wanted?, reason) do
    {_measurements, %{result: result}} = await_event(name, [:resolver, :resolved])

    if wanted?.(result) and (reason == nil or elem(result, 1) == reason),
      do: result,
      else: await_result(name, wanted?, reason)
  end

  test "a resolution that fails at the start says that there is nothing to keep" do
    name = make_ref()
    names = ScriptedResolver.start(fn -> {:error, :nxdomain} end)
    opts = opts(name: name, resolver: ScriptedResolver)
    {:error, reason} = Connection.connect(names, opts)

    assert {%{addresses: 0}, %{result: {:failed, :nxdomain}}} =
             await_event(name, [:resolver, :resolved])

    assert {_, %{reason: ^reason}} = await_event(name, [:connection, :connect_error])

    assert {_, %{reason: {:shutdown, :connect_error}}} =
             await_event(name, [:connection, :disconnected])
  end

  test "a backend that goes down and comes back" do
    server = Loopback.start()
    id = Loopback.id(server)
    name = make_ref()
    handle = connect!([server], name: name)
    assert {_, %{id: ^id}} = await_event(name, [:backend, :up])
    assert {_, _} = await_event(name, [:connection, :connected])
    {:ok, {_name, transport}} = Connection.pick(handle)
    kill([transport])
    assert {_, %{id: ^id, reason: {:down, :killed}}} = await_event(name, [:backend, :down])
    assert {_, %{id: ^id}} = await_event(name, [:backend, :up])
    Loopback.become(server, :refuse)
    assert {_, %{id: ^id}} = await_event(name, [:backend, :down])

    assert {_, %{reason: {:open, ^id, :econnrefused}}} =
             await_event(name, [:connection, :connect_error])

    # It has none to pick now.
    eventually(fn -> not Connection.info(handle).ready end)
    told = for {event, _measurements, %{name: ^name}} <- received(), do: event
    assert [:grpc_lb, :connection, :lost] in told
    Loopback.become(server, :echo)
    assert {_, _} = await_event(name, [:connection, :connected])
  end

  test "a connection that is killed and has no supervisor" do
    name = make_ref()
    Process.flag(:trap_exit, true)
    {:ok, pid} = Connection.start_link(opts(name: name, target: static([Loopback.start()])))
    assert {_, _} = await_event(name, [:connection, :connected])
    kill([pid])
    assert {_, %{reason: :killed}} = await_event(name, [:connection, :disconnected])
  end

  test "a connection whose server is killed goes on; killed, it is another connection" do
    name = make_ref()
    child = {Connection, opts(name: name, target: static([Loopback.start()]))}
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    assert {_, _} = await_event(name, [:connection, :connected])
    handle = Connection.handle!(name)
    old = server(handle)
    kill([old])
    restarted(handle, old)
    assert Connection.info(handle).ready
    refute_received {:event, [:grpc_lb, :connection, :disconnected], _, %{name: ^name}}
    [{_id, pid, _type, _modules}] = Supervisor.which_children(supervisor)
    kill([pid])
    assert {_, %{reason: :killed}} = await_event(name, [:connection, :disconnected])
    assert {_, _} = await_event(name, [:connection, :connected])
    Supervisor.stop(supervisor)
    assert {_, %{reason: :shutdown}} = await_event(name, [:connection, :disconnected])
  end

  test "a handler of the last event finds no such connection" do
    test = self()
    name = make_ref()

    last = fn _event, _measurements, metadata, _config ->
      if metadata.name == name do
        answers =
          {Connection.handle(name), Connection.disconnect(name), Connection.await_ready(name),
           Connection.resolve_now(name), catch_error(Connection.info(name))}

        send(test, {:answers, answers})
      end
    end

    event = [:grpc_lb, :connection, :disconnected]
    :ok = apply(:telemetry, :attach, [{__MODULE__, name}, event, last, nil])
    on_exit(fn -> apply(:telemetry, :detach, [{__MODULE__, name}]) end)
    connect!([Loopback.start()], name: name)
    Connection.disconnect(name)
    assert_received {:answers, answers}
    assert {{:error, :not_found}, :ok, {:error, :closed}, :ok, %ArgumentError{}} = answers
  end

  test "a VM without :telemetry works, and one where it comes later emits from then on" do
    peer = Peer.start()
    events = Peer.run(peer, GrpcLb.Test.Peer.ConnectionTelemetry, :without_and_with)

    for event <- [[:connection, :connected], [:backend, :up], [:backend, :down]] do
      assert [:grpc_lb | event] in events
    end

    assert Enum.count(events, &(&1 == [:grpc_lb, :connection, :disconnected])) == 1
  end
end
