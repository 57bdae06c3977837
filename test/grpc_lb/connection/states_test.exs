defmodule GrpcLb.Connection.StatesTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Connection
  alias GrpcLb.Connection.{Connectivity, States}
  alias GrpcLb.Test.{Loopback, ScriptedResolver, ScriptedTransport}

  doctest Connectivity

  @moduletag :capture_log

  @id "127.0.0.1:1"

  defp subscribers(handle) do
    {_holder, %{held: held}} = GrpcLb.Holder.lookup({Connection.Held, handle.name})
    :sys.get_state(held.states.pid).subscribers
  end

  # It is opened again at once, and has failed when that has. Where both are heard together it is one
  # change.
  defp assert_fails(name) do
    assert_receive {:grpc_lb_connection, ^name, state}
    if state == :connecting, do: assert_receive({:grpc_lb_connection, ^name, :transient_failure})
  end

  # Each change is told here.
  defp assert_told(name, states) do
    for state <- states do
      assert_receive {:grpc_lb_connection, ^name, told}
      assert told == state
    end

    refute_received {:grpc_lb_connection, ^name, _state}
  end

  test "the state of the whole is that of its best backend, as gRFC A61 has it" do
    of = fn states ->
      states |> Enum.with_index() |> Map.new(fn {s, i} -> {i, s} end) |> Connectivity.of(:ok)
    end

    assert of.([:transient_failure, :idle, :connecting, :ready]) == :ready
    assert of.([:transient_failure, :idle, :connecting]) == :connecting
    assert of.([:transient_failure, :idle]) == :idle
    assert of.([:transient_failure, :transient_failure]) == :transient_failure
    assert Connectivity.of(%{}, :pending) == :connecting
    assert Connectivity.of(%{}, {:error, :no_addresses}) == :transient_failure
  end

  test "a backend that failed has failed until it is up" do
    known = Connectivity.update(%{}, [{"a", :opening}])
    assert known == %{"a" => :connecting}
    known = Connectivity.update(known, [{"a", :backoff}])
    assert known == %{"a" => :transient_failure}

    for state <- [:opening, :closing, :backoff, :opening] do
      assert Connectivity.update(known, [{"a", state}]) == known
    end

    known = Connectivity.update(known, [{"a", :up}])
    assert known == %{"a" => :ready}
    # Lost, and on its way again.
    assert Connectivity.update(known, [{"a", :closing}]) == %{"a" => :connecting}
    assert Connectivity.update(known, []) == %{}
  end

  test "with pick_first it has failed until any is up" do
    known = Connectivity.update(%{}, [{"a", :backoff}, {"b", :opening}, {"c", :idle}])
    assert known == %{"a" => :transient_failure, "b" => :connecting, "c" => :idle}
    assert Connectivity.of(known, :ok) == :connecting
    # Its backoff is over, and it has no turn.
    assert Connectivity.update(known, [{"a", :idle}, {"b", :opening}, {"c", :idle}]) == known
    known = Connectivity.update(known, [{"a", :idle}, {"b", :up}, {"c", :idle}])
    assert known == %{"a" => :idle, "b" => :ready, "c" => :idle}
  end

  test "of a connection over real sockets, told to who subscribes" do
    server = Loopback.start(:refuse)

    # The process that starts it sees each state: nothing is missed between the answer and the messages.
    names = ScriptedResolver.start(fn -> {:error, :nxdomain} end)

    opts = [
      target: names,
      resolver: ScriptedResolver,
      name: :states,
      backoff: [initial: 5, max: 20]
    ]

    {handle, _pid} = supervised!(opts)
    {:ok, first} = Connection.subscribe(:states)
    assert first in [:connecting, :transient_failure]

    if first == :connecting,
      do: assert_receive({:grpc_lb_connection, :states, :transient_failure})

    assert Connection.state(handle) == :transient_failure

    ScriptedResolver.set(names, [server])
    assert_receive {:grpc_lb_connection, :states, :connecting}
    # It stays so over the attempts.
    assert_receive {:grpc_lb_connection, :states, :transient_failure}

    Loopback.become(server, :echo)
    assert_told(:states, [:ready])
    assert Connection.state(:states) == :ready

    # It has worked.
    assert {:ok, _} = echo(handle)
    Loopback.become(server, :refuse)
    assert_fails(:states)
    Loopback.become(server, :echo)
    assert_told(:states, [:ready])
  end

  test "what fails again and again is told once" do
    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})
    assert Connection.subscribe(handle) == {:ok, :connecting}
    name = handle.name
    ScriptedTransport.let_fail(@id)
    # What comes together is told as one.
    assert_receive {:grpc_lb_connection, ^name, :transient_failure}
    for _ <- 1..5, do: ScriptedTransport.let_fail(@id)
    ScriptedTransport.let_open(@id)
    assert_receive {:grpc_lb_connection, ^name, _state} = told
    assert told == {:grpc_lb_connection, name, :ready}
    assert flush() == []
  end

  defp flush do
    receive do
      {:grpc_lb_connection, _name, _state} = message -> [message | flush()]
    after
      0 -> []
    end
  end

  test "subscriptions outlive the server, end with the subscriber, and are one for each" do
    server = Loopback.start()
    {handle, _pid} = supervised!(target: static([server]))
    name = handle.name
    subscribe_ready!(handle)
    assert Connection.subscribe(handle) == {:ok, :ready}
    assert Connection.subscribe(name) == {:ok, :ready}
    assert map_size(subscribers(handle)) == 1

    test = self()
    other = spawn(fn -> send(test, Connection.subscribe(handle)) && Process.sleep(:infinity) end)
    assert_receive {:ok, :ready}
    assert map_size(subscribers(handle)) == 2
    kill([other])
    eventually(fn -> map_size(subscribers(handle)) == 1 end)

    before = server(handle)
    kill([before])
    restarted(handle, before)
    assert {:ok, _} = echo(handle)
    Loopback.become(server, :refuse)
    assert_fails(name)
    assert Connection.unsubscribe(handle) == :ok
    assert subscribers(handle) == %{}
    flush()
    Loopback.become(server, :echo)
    :ok = Connection.await_ready(handle)
    refute_received {:grpc_lb_connection, ^name, _state}
  end

  for {how, ending} <- [
        "is disconnected": quote(do: fn handle -> Connection.disconnect(handle) end),
        "loses its holder": quote(do: fn handle -> kill([holder(handle)]) end),
        "loses its supervisor": quote(do: fn handle -> kill([supervisor_of(handle)]) end)
      ] do
    test "the last that is told of one that #{how} is that it ended" do
      handle = connect!([Loopback.start()])
      name = handle.name
      assert Connection.subscribe(handle) == {:ok, :ready}
      {_holder, %{held: held}} = GrpcLb.Holder.lookup({Connection.Held, name})
      unquote(ending).(handle)
      assert_receive {:grpc_lb_connection, ^name, :shutdown}
      eventually(fn -> not Process.alive?(held.states.pid) end)
      eventually(fn -> not Process.alive?(held.waiters) end)
      refute_received {:grpc_lb_connection, ^name, _state}
      eventually(fn -> Connection.state(handle) == :shutdown end)
    end
  end

  test "nobody is nobody" do
    assert Connection.state(:nobody) == :shutdown
    assert Connection.subscribe(:nobody) == {:error, :closed}
    assert Connection.unsubscribe(:nobody) == :ok
  end

  test "nothing comes after the end" do
    states = States.start(:here)
    assert States.subscribe(states) == {:ok, :connecting}
    assert {:changed, :connecting, _} = States.put(states, :shutdown)
    assert States.put(states, :ready) == :same
    assert States.get(states) == :shutdown
    assert_receive {:grpc_lb_connection, :here, :shutdown}
    refute_received {:grpc_lb_connection, :here, _}
  end

  test "no process is asked for the state" do
    {handle, _pid} = supervised!(target: "ipv4:#{@id}", transport: {ScriptedTransport, self()})

    opening = ScriptedTransport.opening(@id)
    for pid <- [server(handle), holder(handle)], do: :sys.suspend(pid)
    assert Connection.state(handle) == :connecting
    for pid <- [server(handle), holder(handle)], do: :sys.resume(pid)
    ScriptedTransport.answer(opening, fn -> {:ok, @id} end)
    :ok = Connection.await_ready(handle)
    assert Connection.state(handle) == :ready
  end
end
