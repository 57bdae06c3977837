defmodule GrpcLb.ConnectionTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Address, Connection}
  alias GrpcLb.Test.{Loopback, ScriptedResolver, ScriptedTransport, TcpTransport}

  doctest GrpcLb.Connection

  describe "connect/2" do
    test "picks every server in turn, and calls arrive there" do
      servers = for _ <- 1..3, do: Loopback.start()
      ids = Enum.map(servers, &Loopback.id/1)
      handle = connect!(servers)
      await_ids(handle, servers)
      assert Enum.frequencies(picked(handle, 300)) == Map.new(ids, &{&1, 100})
      assert handle |> picked(3) |> Enum.sort() == Enum.sort(ids)
      assert echo(handle, "over a socket") == {:ok, "over a socket"}
      assert Enum.map(servers, &Loopback.clients/1) == [1, 1, 1]
    end

    test "returns when a pick succeeds" do
      for _ <- 1..20 do
        handle = connect!([Loopback.start(), Loopback.start()])
        assert {:ok, {_name, _pid}} = Connection.pick(handle)
        assert Connection.await_ready(handle) == :ok
      end
    end

    test "needs one server that is there; the others join when they are" do
      [here, refusing, stalled] = for kind <- [:echo, :refuse, :stall], do: Loopback.start(kind)
      handle = connect!([refusing, stalled, here])
      assert ids(handle) == [Loopback.id(here)]
      Loopback.become(refusing, :echo)
      await_ids(handle, [refusing, here])
      # Who waits for it is not greeted any more.
      Loopback.become(stalled, :hang_up)
      Loopback.become(stalled, :echo)
      await_ids(handle, [refusing, stalled, here])
    end

    test "takes targets in gRPC's syntax" do
      %Address{port: port} = Loopback.address(server = Loopback.start())
      id = Loopback.id(server)

      for target <- ["ipv4:127.0.0.1:#{port}", "static:127.0.0.1:#{port}", "127.0.0.1:#{port}"] do
        handle = connect!(target)
        assert picked(handle, 1) == [id]
      end

      assert {:static, ["127.0.0.1:#{port}"]} |> connect!() |> picked(1) == [id]
      assert {:static, [{{127, 0, 0, 1}, port}]} |> connect!() |> picked(1) == [id]
    end

    test "takes a Unix socket" do
      # The path of a socket is a hundred bytes at most.
      file = "grpc_lb.#{System.pid()}.#{System.unique_integer([:positive])}"
      path = Path.join(System.tmp_dir!(), file)
      server = Loopback.start(:echo, path: path)
      handle = connect!("unix://" <> path)
      assert picked(handle, 1) == ["unix:" <> path]
      assert echo(handle) == {:ok, "hello"}
      assert Loopback.clients(server) == 1
      Loopback.become(server, :refuse)
      await_ids(handle, [])
      Loopback.become(server, :echo)
      await_ids(handle, [server])
    end

    test "names what is wrong with its arguments, in the caller" do
      good = opts()

      for {target, opts, says} <- [
            {"nope:1:2:3", good, "nope:1:2:3"},
            {:no_target, good, "target"},
            {{:static, :a}, good, ":a"},
            {"ipv4:127.0.0.1:1", :no_list, ":no_list"},
            {"ipv4:127.0.0.1:1", [{:transport, TcpTransport} | :improper], "options"},
            {"ipv4:127.0.0.1:1", Keyword.delete(good, :transport), ":transport"},
            {"ipv4:127.0.0.1:1", [transport: "no module"], ":transport"},
            {"ipv4:127.0.0.1:1", [transport: NoSuchModule], "NoSuchModule"},
            {"ipv4:127.0.0.1:1", [transport: Enum], ":transport"},
            {"ipv4:127.0.0.1:1", [nothing: 1] ++ good, ":nothing"},
            {"ipv4:127.0.0.1:1", [target: "ipv4:127.0.0.1:2"] ++ good, ":target"},
            {"ipv4:127.0.0.1:1", [resolver: Enum] ++ good, ":resolver"},
            {"ipv4:127.0.0.1:1", [resolver: {ScriptedResolver, 1}] ++ good, "ScriptedResolver"},
            {"ipv4:127.0.0.1:1", [policy: :fastest] ++ good, ":fastest"},
            {"ipv4:127.0.0.1:1", opts(backoff: 5), ":backoff"},
            {"ipv4:127.0.0.1:1", opts(backoff: [initial: 0]), ":initial"},
            {"ipv4:127.0.0.1:1", opts(backoff: [multiplier: 0.5]), ":multiplier"},
            {"ipv4:127.0.0.1:1", opts(backoff: [jitter: 2]), ":jitter"},
            {"ipv4:127.0.0.1:1", opts(backoff: [later: 2]), ":later"},
            {"ipv4:127.0.0.1:1", opts(connect_timeout: -1), ":connect_timeout"},
            {"ipv4:127.0.0.1:1", opts(connect_timeout: 0xFFFFFFFF + 1), ":connect_timeout"},
            {"ipv4:127.0.0.1:1", opts(ready_timeout: -1), ":ready_timeout"},
            {"ipv4:127.0.0.1:1", opts(drain_timeout: :soon), ":drain_timeout"},
            {"ipv4:127.0.0.1:1", opts(resolve_interval: 1.5), ":resolve_interval"},
            {"ipv4:127.0.0.1:1", opts(min_resolve_interval: "1"), ":min_resolve_interval"},
            {"ipv4:127.0.0.1:1", opts(check_interval: 0), ":check_interval"}
          ] do
        error = assert_raise ArgumentError, fn -> apply(Connection, :connect, [target, opts]) end
        assert error.message =~ says
      end
    end

    test "takes any term as a name" do
      server = Loopback.start()

      for name <- [nil, 0, "", {}, %{a: 1}, self(), Connection, {Connection, :a}, make_ref()] do
        handle = connect!([server], name: name)
        assert handle.name == name
        assert Connection.handle(name) == {:ok, handle}
        assert Connection.await_ready(name) == :ok
        assert Connection.info(name).name == name
        assert GrpcLb.info(handle.balancer).name == name
        assert Connection.disconnect(name) == :ok
        assert Connection.handle(name) == {:error, :not_found}
      end
    end

    test "does not give a name twice" do
      server = Loopback.start()
      handle = connect!([server], name: {:one, self()})

      assert {:error, {:already_started, pid}} =
               Connection.connect(static([server]), opts(name: {:one, self()}))

      assert is_pid(pid)
      assert {:ok, _} = Connection.pick(handle)
      assert Loopback.clients(server) == 1
      assert :ok = Connection.disconnect(handle)
      again = connect!([server], name: {:one, self()})
      assert {:ok, _} = Connection.pick(again)
      assert Connection.pick(handle) == {:error, :closed}
    end

    test "only one of many at once gets a name" do
      server = Loopback.start()
      target = static([server])
      name = {:race, self()}

      results =
        GrpcLb.Test.Workers.together(20, fn _ -> Connection.connect(target, opts(name: name)) end)

      assert [{:ok, handle}] = Enum.filter(results, &match?({:ok, _}, &1))
      on_exit(fn -> Connection.disconnect(handle) end)
      assert Enum.count(results, &match?({:error, {:already_started, _}}, &1)) == 19
      assert Connection.handle(name) == {:ok, handle}
      await_clients([server], 1)
    end

    test "publishes the name last" do
      name = make_ref()
      opts = opts(name: name, transport: {ScriptedTransport, self()})
      connecting = Task.async(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
      opening = ScriptedTransport.opening("127.0.0.1:1")
      assert Connection.handle(name) == {:error, :not_found}
      ScriptedTransport.answer(opening, fn -> {:ok, "127.0.0.1:1"} end)
      assert {:ok, handle} = Task.await(connecting)
      on_exit(fn -> Connection.disconnect(handle) end)
      assert Connection.handle(name) == {:ok, handle}
    end

    test "is given up when the caller dies" do
      name = make_ref()
      opts = opts(name: name, transport: {ScriptedTransport, self()})
      caller = spawn(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
      opening = ScriptedTransport.opening("127.0.0.1:1")
      GrpcLb.Test.Workers.kill([caller])
      eventually(fn -> not Process.alive?(opening) end)
      # The name is free.
      opts = Keyword.replace!(opts, :transport, TcpTransport)
      handle = eventually_connect(static([Loopback.start()]), opts)
      assert {:ok, _} = echo(handle)
    end

    # The last thing that goes is the name, and nobody is told.
    defp eventually_connect(target, opts) do
      case Connection.connect(target, opts) do
        {:ok, handle} ->
          on_exit(fn -> Connection.disconnect(handle) end)
          handle

        {:error, {:already_started, _pid}} ->
          eventually_connect(target, opts)
      end
    end

    test "outlives the process that connected" do
      target = static([Loopback.start()])
      {:ok, handle} = Task.await(Task.async(fn -> Connection.connect(target, opts()) end))
      on_exit(fn -> Connection.disconnect(handle) end)
      assert {:ok, _} = echo(handle)
    end
  end

  describe "a connect that fails" do
    test "says why, and leaves nothing" do
      server = Loopback.start(:refuse)
      id = Loopback.id(server)
      name = {:refused, self()}
      target = static([server])
      assert Connection.connect(target, opts(name: name)) == {:error, {:open, id, :econnrefused}}
      assert Connection.handle(name) == {:error, :not_found}
      Loopback.become(server, :echo)
      handle = connect!(target, name: name)
      assert {:ok, _} = echo(handle)
      # One: no attempt of the connection that failed was left to retry.
      assert Loopback.accepted(server) == 1
    end

    test "gives up a server that says nothing after connect_timeout" do
      server = Loopback.start(:stall)

      assert Connection.connect(static([server]), opts(connect_timeout: 500)) ==
               {:error, {:open, Loopback.id(server), :timeout}}

      await_clients([server], 0)
    end

    test "gives up a resolver that does not answer after connect_timeout" do
      names = ScriptedResolver.start(fn -> Process.sleep(:infinity) end)
      opts = opts(resolver: ScriptedResolver, connect_timeout: 500)
      assert Connection.connect(names, opts) == {:error, {:resolve, :timeout}}
      assert_receive {:resolving, worker}, 10_000
      refute Process.alive?(worker)
    end

    test "gives up altogether after ready_timeout" do
      server = Loopback.start(:stall)
      assert Connection.connect(static([server]), opts(ready_timeout: 50)) == {:error, :timeout}
      await_clients([server], 0)
    end

    test "gives up a server that hangs up" do
      server = Loopback.start(:hang_up)

      assert Connection.connect(static([server]), opts()) ==
               {:error, {:open, Loopback.id(server), :closed}}
    end

    test "has been refused by all, and says what the first said" do
      [stalled, refusing] = servers = [Loopback.start(:stall), Loopback.start(:refuse)]

      assert Connection.connect(static(servers), opts(connect_timeout: 1_000)) ==
               {:error, {:open, Loopback.id(refusing), :econnrefused}}

      await_clients([stalled], 0)
    end

    test "passes on what the resolver says" do
      names = ScriptedResolver.start(fn -> {:error, :nxdomain} end)
      opts = opts(resolver: ScriptedResolver)
      assert Connection.connect(names, opts) == {:error, {:resolve, :nxdomain}}
      ScriptedResolver.set(names, [])
      assert Connection.connect(names, opts) == {:error, :no_addresses}
    end
  end

  describe "a handle" do
    test "is a small struct with the balancer in it" do
      handle = connect!([Loopback.start()], name: {:small, self()})
      assert %Connection{name: {:small, _}, balancer: balancer} = handle
      assert is_reference(balancer)
      assert map_size(Map.from_struct(handle)) == 2
      assert GrpcLb.pick(balancer) == Connection.pick(handle)
    end

    test "is found by name and by process, until it is disconnected" do
      name = {:found, self()}
      assert Connection.handle(name) == {:error, :not_found}
      error = assert_raise ArgumentError, fn -> Connection.handle!(name) end
      assert error.message =~ ":found"
      {handle, pid} = supervised!(name: name, target: static([Loopback.start()]))
      assert Connection.handle(name) == {:ok, handle}
      assert Connection.handle!(name) == handle
      assert Connection.handle(pid) == {:ok, handle}
      assert Connection.handle(self()) == {:error, :not_found}
      assert Connection.await_ready(name) == :ok
      assert Connection.disconnect(name) == :ok
      assert Connection.handle(name) == {:error, :not_found}
      assert Connection.handle(pid) == {:error, :not_found}
    end

    test "picks without a message, a table or another process" do
      handle = connect!([Loopback.start()])
      test = self()
      patterns = for m <- [:ets, :persistent_term, Registry, GenServer, :gen], do: {m, :_, :_}
      Enum.each(patterns, &:erlang.trace_pattern(&1, true, [:local]))
      on_exit(fn -> Enum.each(patterns, &:erlang.trace_pattern(&1, false, [:local])) end)

      traced = fn fun ->
        {pid, monitor} =
          spawn_monitor(fn ->
            receive do
              :go -> fun.()
            end
          end)

        1 = :erlang.trace(pid, true, [:send, :receive, :call, {:tracer, test}])
        send(pid, :go)
        assert_receive {:trace, ^pid, :receive, :go}, 10_000
        assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 10_000
        delivered = :erlang.trace_delivered(pid)
        assert_receive {:trace_delivered, ^pid, ^delivered}, 10_000
        pid
      end

      picks = fn ->
        for _ <- 1..10, do: {:ok, _} = Connection.pick(handle)
        for _ <- 1..10, do: {:ok, _} = Connection.pick(handle, "a key")
      end

      # Asks for the code that is not loaded yet.
      picks.()
      pid = traced.(picks)

      refute_received {:trace, ^pid, _, _}
      refute_received {:trace, ^pid, _, _, _}
      # So that the trace is known to work.
      pid = traced.(fn -> Connection.handle(handle.name) end)
      assert_received {:trace, ^pid, :call, _}
    end

    test "picks while the connection's process does nothing" do
      {handle, _supervisor} = supervised!(target: static([Loopback.start()]))
      assert Connection.await_ready(handle) == :ok
      pid = server(handle)
      :ok = :sys.suspend(pid)
      assert {:ok, _} = echo(handle)
      assert Connection.handle(handle.name) == {:ok, handle}
      :ok = :sys.resume(pid)
    end

    test "that is none is refused" do
      for none <- [
            %{balancer: make_ref()},
            :a,
            nil,
            make_ref(),
            self(),
            %{__struct__: Connection}
          ] do
        assert_raise ArgumentError, fn -> apply(Connection, :pick, [none]) end
        assert_raise ArgumentError, fn -> apply(Connection, :pick, [none, "a key"]) end
        assert_raise ArgumentError, fn -> apply(Connection, :run, [none, & &1]) end
        assert_raise ArgumentError, fn -> apply(Connection, :run, [none, "a key", & &1]) end
      end

      handle = connect!([Loopback.start()])
      assert_raise ArgumentError, fn -> apply(Connection, :run, [handle, :no_function]) end
      assert_raise ArgumentError, fn -> apply(Connection, :await_ready, [handle, :soon]) end
    end
  end

  describe "run/2 and run/3" do
    setup do
      %{handle: connect!([Loopback.start()])}
    end

    test "return what the function returns", %{handle: handle} do
      assert Connection.run(handle, fn {_name, pid} -> is_pid(pid) end) == true
      assert Connection.run(handle, fn _value -> {:error, :mine} end, key: 1) == {:error, :mine}
    end

    test "let out what the function raises, throws and exits with", %{handle: handle} do
      assert_raise RuntimeError, "mine", fn ->
        Connection.run(handle, fn _ -> raise "mine" end)
      end

      assert catch_throw(Connection.run(handle, fn _ -> throw(:mine) end)) == :mine
      assert catch_exit(Connection.run(handle, fn _ -> exit(:mine) end)) == :mine
      assert {:ok, _} = echo(handle)
    end

    test "do not call the function without a pick", %{handle: handle} do
      Connection.disconnect(handle)
      assert Connection.run(handle, fn _ -> flunk("called") end) == {:error, :closed}
      assert Connection.run(handle, fn _ -> flunk("called") end, key: 1) == {:error, :closed}
    end
  end

  describe "await_ready/2" do
    test "times out, and the connection goes on" do
      server = Loopback.start(:refuse)
      {handle, _pid} = supervised!(target: static([server]))
      assert Connection.await_ready(handle, 20) == {:error, :timeout}
      assert Connection.await_ready(handle.name, 0) == {:error, :timeout}
      Loopback.become(server, :echo)
      assert Connection.await_ready(handle.name) == :ok
      assert Connection.await_ready(handle, 0) == :ok
      assert {:ok, _} = echo(handle)
    end

    test "leaves no message behind when it times out" do
      server = Loopback.start(:refuse)
      {handle, _pid} = supervised!(target: static([server]))
      for _ <- 1..20, do: assert(Connection.await_ready(handle, 1) == {:error, :timeout})
      Loopback.become(server, :echo)
      assert Connection.await_ready(handle) == :ok
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "is over when the state is ready, which it is a moment after a pick succeeds" do
      test = self()
      name = make_ref()

      hold = fn _event, _measurements, metadata, _config ->
        if metadata.name == name do
          send(test, {:listed, self()})
          receive(do: (:go_on -> :ok))
        end
      end

      event = [:grpc_lb, :connection, :reconciled]
      :ok = apply(:telemetry, :attach, [{__MODULE__, name}, event, hold, nil])
      on_exit(fn -> apply(:telemetry, :detach, [{__MODULE__, name}]) end)
      {handle, _pid} = supervised!(name: name, target: static([Loopback.start()]))
      assert_receive {:listed, server}
      assert {:ok, _value} = Connection.pick(handle)
      assert Connection.state(handle) == :connecting
      assert Connection.await_ready(handle, 0) == {:error, :timeout}
      # Once: what it does later, and when it ends, nobody would let go on.
      :ok = apply(:telemetry, :detach, [{__MODULE__, name}])
      send(server, :go_on)
      assert Connection.await_ready(handle) == :ok
      assert Connection.state(handle) == :ready
    end

    test "wakes all who wait" do
      server = Loopback.start(:refuse)
      {handle, pid} = supervised!(target: static([server]))
      waiting = for _ <- 1..50, do: Task.async(fn -> Connection.await_ready(handle) end)
      gone = spawn(fn -> Connection.await_ready(handle) end)
      eventually(fn -> not is_nil(Process.info(gone)) and waiting?(gone) end)
      Process.exit(gone, :kill)
      eventually(fn -> Enum.all?(waiting, &waiting?(&1.pid)) end)
      Loopback.become(server, :echo)
      assert Enum.uniq(Task.await_many(waiting, 20_000)) == [:ok]
      assert Process.alive?(pid)
    end

    test "ends when the connection is disconnected" do
      {handle, pid} = supervised!(target: static([Loopback.start(:refuse)]))

      waiting =
        for who <- [handle, handle.name, pid] do
          Task.async(fn -> Connection.await_ready(who) end)
        end

      eventually(fn -> Enum.all?(waiting, &waiting?(&1.pid)) end)
      Connection.disconnect(handle)
      assert Task.await_many(waiting) == List.duplicate({:error, :closed}, 3)
      assert Connection.await_ready(handle) == {:error, :closed}
      assert Connection.await_ready(handle.name) == {:error, :closed}
    end
  end

  describe "resolve_now/1" do
    test "resolves at once, and no more often than min_resolve_interval" do
      {handle, _names} = connect_scripted!([Loopback.start()], min_resolve_interval: 60_000)
      assert_receive {:resolving, _pid}, 10_000
      for _ <- 1..100, do: assert(Connection.resolve_now(handle) == :ok)
      assert Connection.resolve_now(handle.name) == :ok
      refute_receive {:resolving, _pid}, 50
    end

    test "asked during the interval is served after it" do
      {handle, _names} = connect_scripted!([Loopback.start()], min_resolve_interval: 1_000)
      assert_receive {:resolving, _pid}, 10_000
      for _ <- 1..100, do: Connection.resolve_now(handle)
      assert_receive {:resolving, _pid}, 10_000
      Connection.info(handle)
      refute_received {:resolving, _pid}
    end

    test "during a resolution does not start another beside it" do
      test = self()

      {handle, names} = connect_scripted!([server = Loopback.start()])
      assert_receive {:resolving, _pid}, 10_000

      ScriptedResolver.set(names, fn ->
        send(test, {:held, self()})

        receive do
          :go_on -> {:ok, ScriptedResolver.resolution([server])}
        end
      end)

      Connection.resolve_now(handle)
      assert_receive {:held, held}, 10_000
      for _ <- 1..10, do: Connection.resolve_now(handle)
      Connection.info(handle)
      refute_received {:held, _pid}
      send(held, :go_on)
      assert {:ok, _} = echo(handle)
    end

    test "takes known options alone" do
      assert_raise ArgumentError, ~r/:reset_backoff must be/, fn ->
        Connection.resolve_now(:nobody, reset_backoff: 1)
      end

      assert_raise ArgumentError, ~r/unknown option :reset/, fn ->
        Connection.resolve_now(:nobody, reset: true)
      end
    end

    test "of a connection that is gone does nothing" do
      handle = connect!([Loopback.start()])
      Connection.disconnect(handle)
      assert Connection.resolve_now(handle) == :ok
      assert Connection.resolve_now(handle.name) == :ok
    end
  end

  describe "disconnect/1" do
    test "closes the sockets, and picks say so" do
      servers = for _ <- 1..3, do: Loopback.start()
      handle = connect!(servers)
      await_ids(handle, servers)
      {:ok, {_name, transport}} = Connection.pick(handle)
      assert Connection.disconnect(handle) == :ok
      assert Connection.pick(handle) == {:error, :closed}
      assert Connection.pick(handle, "a key") == {:error, :closed}
      assert GrpcLb.info(handle.balancer).closed
      refute Process.alive?(transport)
      await_clients(servers, 0)
    end

    test "can be repeated, by handle and by name, by many at once" do
      {handle, _pid} = supervised!(target: static([Loopback.start()]))
      results = GrpcLb.Test.Workers.together(20, fn _ -> Connection.disconnect(handle) end)
      assert Enum.uniq(results) == [:ok]
      assert Connection.disconnect(handle) == :ok
      assert Connection.disconnect(handle.name) == :ok
    end

    test "of a name does not touch the next one that bears it" do
      server = Loopback.start()
      name = make_ref()
      old = connect!([server], name: name)
      Connection.disconnect(old)
      new = connect!([server], name: name)
      assert Connection.disconnect(old) == :ok
      assert {:ok, _} = echo(new)
    end

    test "closes the balancer, then the transports, and then returns" do
      {handle, _pid} =
        supervised!(
          target: "ipv4:127.0.0.1:1",
          transport: {ScriptedTransport, self()}
        )

      ScriptedTransport.let_open("127.0.0.1:1")
      assert Connection.await_ready(handle) == :ok
      disconnecting = Task.async(fn -> Connection.disconnect(handle) end)
      closing = ScriptedTransport.closing("127.0.0.1:1")
      assert Connection.pick(handle) == {:error, :closed}
      refute Task.yield(disconnecting, 50)
      ScriptedTransport.answer(closing, fn -> :ok end)
      assert Task.await(disconnecting) == :ok
      refute Process.alive?(closing)
    end

    test "kills a transport that does not close" do
      {handle, _pid} =
        supervised!(
          target: "ipv4:127.0.0.1:1",
          transport: {ScriptedTransport, self()}
        )

      ScriptedTransport.let_open("127.0.0.1:1")
      assert Connection.await_ready(handle) == :ok
      disconnecting = Task.async(fn -> Connection.disconnect(handle) end)
      closing = ScriptedTransport.closing("127.0.0.1:1")
      assert Task.await(disconnecting, 20_000) == :ok
      eventually(fn -> not Process.alive?(closing) end)
    end

    defmodule AskedToEnd do
      @behaviour GrpcLb.Transport

      @impl true
      def open(_address, test) do
        send(test, :opening)

        receive do
          {:EXIT, _supervisor, _reason} -> send(test, :asked_to_end)
        end
      end

      @impl true
      def close(_value), do: :ok
    end

    test "does not wait for a transport that is being opened" do
      {handle, _pid} = supervised!(target: "ipv4:127.0.0.1:1", transport: {AskedToEnd, self()})
      assert_receive :opening, 10_000
      assert Connection.disconnect(handle) == :ok
      refute_received :asked_to_end
    end

    test "ends dials and resolutions that are under way" do
      stalled = Loopback.start(:stall)
      {handle, _pid} = supervised!(target: static([stalled]))
      await_clients([stalled], 1)
      assert Connection.disconnect(handle) == :ok
      await_clients([stalled], 0)

      names = ScriptedResolver.start(fn -> Process.sleep(:infinity) end)
      opts = [name: make_ref(), target: names, resolver: ScriptedResolver]
      pid = start_supervised!({Connection, opts(opts)}, id: :resolving)
      assert_receive {:resolving, worker}, 10_000
      assert Connection.disconnect(pid) == :ok
      eventually(fn -> not Process.alive?(worker) end)
    end
  end

  describe "info/1" do
    test "describes the connection" do
      servers = for _ <- 1..2, do: Loopback.start()
      handle = connect!(servers, name: {:described, self()})
      await_ids(handle, servers)
      info = Connection.info(handle)
      assert info.name == handle.name
      assert Connection.info(handle.name) == info
      assert inspect(info, limit: :infinity) =~ Loopback.id(hd(servers))
    end
  end
end
