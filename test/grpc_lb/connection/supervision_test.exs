defmodule GrpcLb.Connection.SupervisionTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, PushingResolver, ScriptedResolver, ScriptedTransport}

  @moduletag capture_log: true

  defp supervisor(children, opts \\ []) do
    opts = Keyword.merge([strategy: :one_for_one, max_restarts: 1_000], opts)
    {:ok, pid} = Supervisor.start_link(children, opts)
    # A test that kills it is not to die with it.
    Process.unlink(pid)
    on_exit(fn -> stop(pid) end)
    pid
  end

  defp stop(supervisor) do
    Supervisor.stop(supervisor)
  catch
    :exit, _it_was_killed -> :ok
  end

  # The pid of a connection under a supervisor: its own supervisor.
  defp child(supervisor) do
    [{_id, pid, _type, _modules}] = Supervisor.which_children(supervisor)
    pid
  end

  # Once that is another than `before`.
  defp child_after(supervisor, before) do
    eventually(fn -> is_pid(child(supervisor)) and child(supervisor) != before end)
    child(supervisor)
  end

  defp start(opts, supervisor_opts \\ []) do
    opts = opts([name: make_ref()] ++ opts)
    supervisor = supervisor([{Connection, opts}], supervisor_opts)
    {:ok, handle} = Connection.handle(opts[:name])
    %{supervisor: supervisor, pid: child(supervisor), handle: handle}
  end

  describe "in a supervision tree" do
    test "two connections have ids of their own" do
      spec = Connection.child_spec(opts(name: :a, target: "ipv4:127.0.0.1:1"))
      assert spec.id == {Connection, :a}
      servers = [one, other] = for _ <- 1..2, do: Loopback.start()
      names = [{:one, self()}, {:other, self()}]

      children =
        for {server, name} <- Enum.zip(servers, names) do
          {Connection, opts(name: name, target: static([server]))}
        end

      supervisor(children)
      assert Enum.map(names, &Connection.await_ready/1) == [:ok, :ok]
      handles = Enum.map(names, &Connection.handle!/1)
      assert Enum.map(handles, &picked(&1, 1)) == [[Loopback.id(one)], [Loopback.id(other)]]
    end

    test "one starts at once, and connects when the server is there" do
      server = Loopback.start(:refuse)
      %{handle: handle} = start(target: static([server]))
      assert Connection.pick(handle) == {:error, :no_backends}
      Loopback.become(server, :echo)
      assert Connection.await_ready(handle) == :ok
      assert {:ok, _} = echo(handle)
    end

    test "one starts at once while its resolver hangs, and while its server does" do
      names = ScriptedResolver.start(fn -> Process.sleep(:infinity) end)
      opts = [target: names, resolver: ScriptedResolver, connect_timeout: 500]
      %{handle: handle} = start(opts)
      assert Connection.pick(handle) == {:error, :no_backends}
      assert Connection.info(handle)
      %{handle: handle} = start(target: static([Loopback.start(:stall)]), connect_timeout: 500)
      assert Connection.pick(handle) == {:error, :no_backends}
      assert Connection.info(handle)
    end

    test "wrong options raise where they are given" do
      for opts <- [[], opts(), opts(target: "ipv4:127.0.0.1:1", backoff: 1), :no_list] do
        assert_raise ArgumentError, fn -> apply(Connection, :start_link, [opts]) end
      end
    end

    test "a name is given once" do
      %{handle: handle, pid: pid} = start(target: static([Loopback.start()]))
      opts = opts(name: handle.name, target: static([Loopback.start()]))
      assert Connection.start_link(opts) == {:error, {:already_started, pid}}
      assert Connection.await_ready(handle) == :ok
    end

    test "ended by its supervisor it leaves nothing, and starts anew" do
      server = Loopback.start()
      %{handle: old, supervisor: supervisor} = start(target: static([server]))
      assert Connection.await_ready(old) == :ok
      child = {Connection, old.name}
      :ok = Supervisor.terminate_child(supervisor, child)
      assert Connection.pick(old) == {:error, :closed}
      assert Connection.handle(old.name) == {:error, :not_found}
      await_clients([server], 0)
      {:ok, _pid} = Supervisor.restart_child(supervisor, child)
      new = Connection.handle!(old.name)
      assert new.balancer != old.balancer
      assert Connection.await_ready(new) == :ok
      assert {:ok, _} = echo(new)
      assert Connection.pick(old) == {:error, :closed}
    end

    test "ended by its supervisor it closes the balancer, and then the transports" do
      opts = [target: "ipv4:127.0.0.1:1", transport: {ScriptedTransport, self()}]
      %{handle: handle, supervisor: supervisor} = start(opts)
      ScriptedTransport.let_open("127.0.0.1:1")
      assert Connection.await_ready(handle) == :ok
      child = {Connection, handle.name}
      ending = Task.async(fn -> Supervisor.terminate_child(supervisor, child) end)
      closing = ScriptedTransport.closing("127.0.0.1:1")
      assert Connection.pick(handle) == {:error, :closed}
      assert Connection.handle(handle.name) == {:error, :not_found}
      assert Task.yield(ending, 50) == nil
      ScriptedTransport.answer(closing, fn -> :ok end)
      assert Task.await(ending) == :ok
    end

    test "disconnected it stays away" do
      server = Loopback.start()
      %{handle: handle, supervisor: supervisor} = start(target: static([server]))
      assert Connection.await_ready(handle) == :ok
      assert Connection.disconnect(handle) == :ok
      await_clients([server], 0)
      # Once that has seen its child's end.
      eventually(fn -> child(supervisor) == :undefined end)
      assert Connection.handle(handle.name) == {:error, :not_found}
    end
  end

  describe "its server is killed" do
    @tag :concurrency
    test "picks go on, and the new one takes over what is open" do
      servers = for _ <- 1..3, do: Loopback.start()
      %{handle: handle, supervisor: supervisor, pid: pid} = start(target: static(servers))
      await_ids(handle, servers)
      holder = holder(handle)

      seen =
        picking_during(
          4,
          fn -> elem(Connection.pick(handle), 0) end,
          fn ->
            for _ <- 1..5, reduce: server(handle) do
              server ->
                kill([server])
                restarted(handle, server)
            end
          end
        )

      assert Enum.uniq(seen) == [[before: :ok, after: :ok]]
      assert Connection.handle(handle.name) == {:ok, handle}
      assert Connection.await_ready(handle) == :ok
      await_ids(handle, servers)
      assert {:ok, _} = echo(handle)
      # Adopted, none opened again.
      assert Enum.map(servers, &Loopback.accepted/1) == [1, 1, 1]
      assert {child(supervisor), holder(handle)} == {pid, holder}
    end

    test "or crashed, the same" do
      server = Loopback.start()
      %{handle: handle} = start(target: static([server]))
      assert Connection.await_ready(handle) == :ok

      crashes = [
        fn pid -> :sys.terminate(pid, :boom) end,
        # A message of a kind that only a bug would send.
        fn pid -> GenServer.cast(pid, {:no, :such, :request}) end
      ]

      for crash <- crashes, reduce: server(handle) do
        pid ->
          monitor = Process.monitor(pid)
          crash.(pid)
          assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
          assert {:ok, _} = echo(handle)
          restarted(handle, pid)
      end

      assert Connection.handle(handle.name) == {:ok, handle}
      assert Connection.await_ready(handle) == :ok
      assert Loopback.accepted(server) == 1
    end

    test "the new one does all the old one did" do
      [a, b, c] = servers = for _ <- 1..3, do: Loopback.start()
      names = ScriptedResolver.start([a, b])
      %{handle: handle} = start(target: names, resolver: ScriptedResolver)
      await_ids(handle, [a, b])
      old = server(handle)
      kill([old])
      new = restarted(handle, old)
      # Resolves, opens what is new, closes what is gone.
      ScriptedResolver.set(names, [b, c])
      Connection.resolve_now(handle)
      await_ids(handle, [b, c])
      await_clients([a], 0)
      # Notices deaths.
      Loopback.become(b, :refuse)
      await_ids(handle, [c])
      Loopback.become(b, :echo)
      await_ids(handle, [b, c])
      # Ends.
      assert Connection.disconnect(handle) == :ok
      refute Process.alive?(new)
      assert Connection.pick(handle) == {:error, :closed}
      await_clients(servers, 0)
    end

    test "what went away meanwhile is seen by the new one" do
      [a, b, c] = for _ <- 1..3, do: Loopback.start()
      names = ScriptedResolver.start([a, b])

      %{handle: handle, pid: pid} = start(target: names, resolver: ScriptedResolver)
      await_ids(handle, [a, b])
      # Its supervisor can not start it again before it is let go on.
      :sys.suspend(pid)
      kill([server(handle)])
      ScriptedResolver.set(names, [a, c])
      Loopback.become(a, :refuse)
      await_ids(handle, [b])
      assert {:ok, _} = echo(handle)
      Loopback.become(a, :echo)
      :sys.resume(pid)
      await_ids(handle, [a, c])
      await_clients([b], 0)
    end

    test "until it is back its name is its own, and it can be disconnected" do
      server = Loopback.start()
      %{handle: handle, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(handle) == :ok
      :sys.suspend(pid)
      kill([server(handle)])
      assert Connection.handle(handle.name) == {:ok, handle}
      assert {:ok, _} = echo(handle)
      assert Connection.resolve_now(handle) == :ok
      assert Connection.await_ready(handle, 0) == :ok

      assert Connection.connect(static([server]), opts(name: handle.name)) ==
               {:error, {:already_started, pid}}

      asking = Task.async(fn -> Connection.info(handle) end)
      eventually(fn -> waiting?(asking.pid) end)
      :sys.resume(pid)
      assert %{ready: true} = Task.await(asking)

      :sys.suspend(pid)
      kill([server(handle)])
      # It need not be back for that.
      assert Connection.disconnect(handle) == :ok
      assert Connection.pick(handle) == {:error, :closed}
      await_clients([server], 0)
      assert Loopback.accepted(server) == 1
    end

    test "before it was ever ready it starts over" do
      server = Loopback.start(:refuse)

      %{handle: handle} = start(target: static([server]))
      old = server(handle)
      kill([old])
      restarted(handle, old)
      assert Connection.handle(handle.name) == {:ok, handle}
      Loopback.become(server, :echo)
      assert Connection.await_ready(handle) == :ok
      assert {:ok, _} = echo(handle)
    end

    test "while a dial is under way, no transport comes twice or is lost" do
      %{handle: handle} =
        start(target: "ipv4:127.0.0.1:1", transport: {ScriptedTransport, self()})

      first = ScriptedTransport.opening("127.0.0.1:1")
      old = server(handle)
      kill([old])
      restarted(handle, old)
      opening = open_until_ready(handle, [first])
      assert Connection.pick(handle) == {:ok, "127.0.0.1:1"}
      disconnecting = Task.async(fn -> Connection.disconnect(handle) end)
      ScriptedTransport.let_close("127.0.0.1:1")
      assert Task.await(disconnecting) == :ok
      eventually(fn -> not Enum.any?(opening, &Process.alive?/1) end)
    end

    # The one that was opening may be adopted, or another may take its place: both are right.
    defp open_until_ready(handle, [pid | _] = opening) do
      ScriptedTransport.answer(pid, fn -> {:ok, "127.0.0.1:1"} end)

      receive do
        {:asking, pid, {:open, _id}} -> open_until_ready(handle, [pid | opening])
      after
        10 ->
          case Connection.await_ready(handle, 0) do
            :ok -> opening
            {:error, :timeout} -> open_until_ready(handle, opening)
          end
      end
    end

    test "those who wait for it go on waiting" do
      server = Loopback.start(:refuse)

      %{handle: handle} = start(target: static([server]))
      old = server(handle)
      waiting = for _ <- 1..5, do: Task.async(fn -> Connection.await_ready(handle) end)
      eventually(fn -> Enum.all?(waiting, &waiting?(&1.pid)) end)
      kill([old])
      restarted(handle, old)
      Loopback.become(server, :echo)
      # A restart is nothing that somebody who waits has to know of.
      assert Enum.uniq(Task.await_many(waiting, 20_000)) == [:ok]
    end

    test "too often: the connection ends" do
      server = Loopback.start()
      %{handle: handle, supervisor: supervisor, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(handle) == :ok
      monitor = Process.monitor(pid)

      eventually(fn ->
        if server = server(handle), do: kill([server])
        not Process.alive?(pid)
      end)

      assert_receive {:DOWN, ^monitor, :process, ^pid, :shutdown}, 10_000
      assert Connection.pick(handle) == {:error, :closed}
      await_clients([server], 0)
      # In order, to a supervisor.
      eventually(fn -> child(supervisor) == :undefined end)
      assert Connection.handle(handle.name) == {:error, :not_found}
    end
  end

  describe "the supervisor of its subchannels is killed" do
    test "the transports are closed and opened again, and the handle stays" do
      servers = for _ <- 1..3, do: Loopback.start()
      %{handle: handle, pid: pid} = start(target: static(servers))
      await_ids(handle, servers)
      {:ok, _value} = Connection.pick(handle)

      for n <- 2..3 do
        kill([Connection.Subchannel.whereis_supervisor(handle.balancer)])
        eventually(fn -> Enum.map(servers, &Loopback.accepted/1) == [n, n, n] end)
        await_ids(handle, servers)
        await_clients(servers, 1)
      end

      assert Connection.handle(handle.name) == {:ok, handle}
      assert Enum.uniq(for _ <- 1..6, do: elem(echo(handle), 0)) == [:ok]
      assert Connection.disconnect(pid) == :ok
      await_clients(servers, 0)
    end
  end

  describe "the supervisor of its subchannels is killed, while transports are opened" do
    test "that hang, these are given up at once" do
      servers = for _ <- 1..3, do: Loopback.start(:stall)
      %{handle: handle, pid: pid} = start(target: static(servers))
      await_clients(servers, 1)
      openers = for {opener, _, _, _} <- Connection.Subchannel.all(handle.balancer), do: opener
      kill([Connection.Subchannel.whereis_supervisor(handle.balancer)])
      eventually(fn -> not Enum.any?(openers, &Process.alive?/1) end)
      eventually(fn -> Enum.map(servers, &Loopback.accepted/1) == [2, 2, 2] end)
      await_clients(servers, 1)
      Enum.each(servers, &Loopback.become(&1, :hang_up))
      assert Connection.disconnect(pid) == :ok
      await_clients(servers, 0)
    end
  end

  describe "its supervisor is killed" do
    test "the balancer is closed, and another is started under the name" do
      server = Loopback.start()
      %{handle: old, supervisor: supervisor, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(old) == :ok
      monitors = for pid <- [holder(old), server(old)], do: Process.monitor(pid)
      kill([pid])
      new_pid = child_after(supervisor, pid)
      assert Connection.pick(old) == {:error, :closed}
      assert Connection.await_ready(old) == {:error, :closed}
      new = Connection.handle!(old.name)
      assert Connection.handle(new_pid) == {:ok, new}
      assert new.balancer != old.balancer
      assert Connection.await_ready(new) == :ok
      assert {:ok, _} = echo(new)
      for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _}, 10_000)
      await_clients([server], 1)
      # What is left of the old one does not matter to the new one.
      assert Connection.disconnect(old) == :ok
      assert {:ok, _} = echo(new)
    end

    test "the new one waits for the end of the old one, and no longer" do
      opts = [target: "ipv4:127.0.0.1:1", transport: {ScriptedTransport, self()}]
      %{handle: old, supervisor: supervisor, pid: pid} = start(opts)
      ScriptedTransport.let_open("127.0.0.1:1")
      assert Connection.await_ready(old) == :ok
      kill([pid])
      closing = ScriptedTransport.closing("127.0.0.1:1")
      eventually(fn -> Connection.pick(old) == {:error, :closed} end)
      # The registry hears of its end at about the same time.
      eventually(fn -> Connection.handle(old.name) == {:error, :not_found} end)
      ScriptedTransport.answer(closing, fn -> :ok end)
      ScriptedTransport.let_open("127.0.0.1:1")
      child_after(supervisor, pid)
      assert Connection.await_ready(old.name) == :ok
      disconnecting = Task.async(fn -> Connection.disconnect(old.name) end)
      ScriptedTransport.let_close("127.0.0.1:1")
      assert Task.await(disconnecting) == :ok
    end

    test "the one above too: its own successor starts it again" do
      server = Loopback.start()
      opts = opts(name: make_ref(), target: static([server]))

      above = %{
        id: :above,
        start: {Supervisor, :start_link, [[{Connection, opts}], [strategy: :one_for_one]]},
        type: :supervisor
      }

      # Where nobody waits for an end, three attempts are used up at once.
      top = supervisor([above], max_restarts: 3)
      old = Connection.handle!(opts[:name])
      assert Connection.await_ready(old) == :ok
      before = child(top)
      kill([before])
      child_after(top, before)
      assert Connection.await_ready(opts[:name]) == :ok
      assert Connection.pick(old) == {:error, :closed}
      assert {:ok, _} = echo(Connection.handle!(opts[:name]))
      await_clients([server], 1)
    end

    test "with the server and the supervisor above: it leaves nothing" do
      server = Loopback.start()
      %{handle: handle, supervisor: supervisor, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(handle) == :ok
      kill([supervisor, pid, server(handle)])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      eventually(fn -> Connection.handle(handle.name) == {:error, :not_found} end)
      await_clients([server], 0)
    end

    test "more often than the supervisor above bears: it leaves nothing" do
      server = Loopback.start()

      %{handle: handle, supervisor: supervisor, pid: pid} =
        start([target: static([server])], max_restarts: 0)

      assert Connection.await_ready(handle) == :ok
      monitor = Process.monitor(supervisor)
      kill([pid])
      assert_receive {:DOWN, ^monitor, :process, _pid, :shutdown}, 10_000
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      await_clients([server], 0)
    end

    test "and not started again: it leaves nothing" do
      server = Loopback.start()
      opts = opts(name: make_ref(), target: static([server]))
      supervisor = supervisor([Supervisor.child_spec({Connection, opts}, restart: :temporary)])
      handle = Connection.handle!(opts[:name])
      assert Connection.await_ready(handle) == :ok
      kill([child(supervisor)])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      await_clients([server], 0)
      eventually(fn -> Connection.handle(handle.name) == {:error, :not_found} end)
    end
  end

  describe "its holder is killed" do
    test "all starts over, with another balancer under the same name" do
      server = Loopback.start()
      %{handle: old, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(old) == :ok
      kill([holder(old)])
      eventually(fn -> Connection.pick(old) == {:error, :closed} end)
      eventually(fn -> match?({:ok, new} when new != old, Connection.handle(old.name)) end)
      assert Connection.await_ready(old.name) == :ok
      new = Connection.handle!(old.name)
      assert {:ok, _} = echo(new)
      assert Connection.await_ready(old) == {:error, :closed}
      assert Connection.handle(pid) == {:ok, new}
      await_clients([server], 1)
    end

    test "after the server, which is not yet started again: the same" do
      server = Loopback.start()
      %{handle: old, pid: pid} = start(target: static([server]))
      assert Connection.await_ready(old) == :ok
      :sys.suspend(pid)
      kill([server(old), holder(old)])
      eventually(fn -> Connection.pick(old) == {:error, :closed} end)
      :sys.resume(pid)
      eventually(fn -> match?({:ok, new} when new != old, Connection.handle(old.name)) end)
      assert Connection.await_ready(old.name) == :ok
      assert {:ok, _} = echo(Connection.handle!(old.name))
      await_clients([server], 1)
    end
  end

  # Each by itself, each two in both orders, and all in some.
  describe "killed at once:" do
    @processes [:holder, :subchannels, :server, :supervisor]

    for one <- @processes, other <- @processes ++ [:none], one != other do
      test "#{one}, then #{other}: nothing leaks, and one is there under the name" do
        check_kills([unquote(one), unquote(other)])
      end
    end

    test "all, from the first to the last, and from the last to the first" do
      check_kills(@processes)
      check_kills(Enum.reverse(@processes))
    end

    defp check_kills(victims) do
      servers = for _ <- 1..2, do: Loopback.start()
      %{handle: old, supervisor: supervisor, pid: pid} = start(target: static(servers))
      await_ids(old, servers)

      pids = %{
        holder: holder(old),
        subchannels: Connection.Subchannel.whereis_supervisor(old.balancer),
        server: server(old),
        supervisor: pid
      }

      opened =
        for {pid, _id, _address, _state} <- Connection.Subchannel.all(old.balancer), do: pid

      for victim <- victims, pid = pids[victim], do: Process.exit(pid, :kill)
      # They are listed, and their servers have clients, until they hear of it.
      unless victims -- [:server, :none] == [],
        do: eventually(fn -> not Enum.any?(opened, &Process.alive?/1) end)

      for victim <- victims, pid = pids[victim], do: eventually(fn -> not Process.alive?(pid) end)
      if :supervisor in victims, do: child_after(supervisor, pid)

      eventually(fn ->
        Connection.await_ready(old.name) == :ok and
          match?({:ok, _handle}, Connection.handle(old.name))
      end)

      new = Connection.handle!(old.name)
      survives? = victims -- [:subchannels, :server, :none] == []
      assert survives? == (new == old)
      await_ids(new, servers)
      await_clients(servers, 1)
      assert {:ok, _} = echo(new)
      assert Connection.disconnect(new) == :ok
      await_clients(servers, 0)
      assert Connection.handle(old.name) == {:error, :not_found}
      # The old ones are gone, also from the registry.
      eventually(fn -> registered(old) == [] end)
      refute Enum.any?(Map.values(pids), &Process.alive?/1)
      stop(supervisor)
    end

    defp registered(%{name: name, balancer: balancer}) do
      for key <- [
            {Connection.Held, name},
            {Connection, name},
            {Connection.Server, balancer},
            {Connection.Subchannel, balancer}
          ],
          entry <- Registry.lookup(GrpcLb.Registry, key),
          do: entry
    end
  end

  describe "killed without a supervisor" do
    test "it leaves nothing" do
      servers = for _ <- 1..3, do: Loopback.start()
      test = self()

      starter =
        spawn(fn ->
          Process.flag(:trap_exit, true)
          {:ok, pid} = Connection.start_link(opts(name: test, target: static(servers)))
          send(test, {:pid, pid})
          Process.sleep(:infinity)
        end)

      assert_receive {:pid, pid}, 10_000
      handle = Connection.handle!(test)
      await_ids(handle, servers)
      kill([pid])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      eventually(fn -> Connection.handle(test) == {:error, :not_found} end)
      await_clients(servers, 0)
      kill([starter])
    end

    test "it ends with the process that started it" do
      server = Loopback.start()
      test = self()

      starter =
        spawn(fn ->
          {:ok, _pid} = Connection.start_link(opts(name: test, target: static([server])))
          send(test, :started)
          Process.sleep(:infinity)
        end)

      assert_receive :started, 10_000
      handle = Connection.handle!(test)
      assert Connection.await_ready(handle) == :ok
      kill([starter])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      await_clients([server], 0)
    end

    test "its name is free for another" do
      server = Loopback.start()
      Process.flag(:trap_exit, true)
      opts = opts(name: make_ref(), target: static([server]))
      {:ok, pid} = Connection.start_link(opts)
      old = Connection.handle!(opts[:name])
      assert Connection.await_ready(old) == :ok
      Process.exit(pid, :kill)
      assert_receive {:EXIT, ^pid, :killed}, 10_000
      eventually(fn -> Connection.handle(opts[:name]) == {:error, :not_found} end)
      {:ok, _pid} = Connection.start_link(opts)
      new = Connection.handle!(opts[:name])
      assert Connection.await_ready(new) == :ok
      assert Connection.pick(old) == {:error, :closed}
      assert Connection.disconnect(opts[:name]) == :ok
    end
  end

  describe "a connection made by connect/2" do
    test "has its server brought back when that is killed" do
      server = Loopback.start()
      handle = connect!([server])
      old = server(handle)
      kill([old])
      assert {:ok, _} = echo(handle)
      restarted(handle, old)
      assert Connection.await_ready(handle) == :ok
      assert {:ok, _} = echo(handle)
      assert Loopback.accepted(server) == 1
    end

    test "has ended when its supervisor is killed" do
      server = Loopback.start()
      handle = connect!([server])

      {:error, {:already_started, pid}} =
        Connection.connect(static([server]), opts(name: handle.name))

      assert pid == supervisor_of(handle)
      kill([pid])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      assert Connection.disconnect(handle) == :ok
      assert Connection.handle(handle.name) == {:error, :not_found}
      await_clients([server], 0)
      new = connect!([server], name: handle.name)
      assert {:ok, _} = echo(new)
    end

    for victim <- [:holder, :server, :supervisor_of] do
      test "has its #{victim} killed while it connects: it says so, or connects" do
        name = make_ref()
        opts = opts(name: name, transport: {ScriptedTransport, self()})
        connecting = Task.async(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
        opening = ScriptedTransport.opening("127.0.0.1:1")
        {_holder, %{held: held}} = GrpcLb.Holder.lookup({Connection.Held, name})
        handle = %Connection{name: name, balancer: held.balancer}
        kill([unquote(victim)(handle)])

        after_kill(unquote(victim), handle, connecting, opening)
        eventually(fn -> not Process.alive?(opening) end)
        assert Connection.handle(name) == {:error, :not_found}
      end
    end

    defp after_kill(:supervisor_of, _handle, connecting, _opening) do
      assert Task.await(connecting) == {:error, :closed}
    end

    # A new server does not know of one that was never resolved; nor does a new holder.
    defp after_kill(:server, handle, connecting, opening) do
      ScriptedTransport.answer(opening, fn -> {:ok, :open} end)
      assert Task.await(connecting) == {:ok, handle}
      disconnect_from(handle, :open)
    end

    defp after_kill(:holder, handle, connecting, _opening) do
      ScriptedTransport.let_open("127.0.0.1:1")
      assert {:ok, new} = Task.await(connecting)
      assert new != handle
      disconnect_from(new, "127.0.0.1:1")
    end

    defp disconnect_from(handle, value) do
      assert Connection.pick(handle) == {:ok, value}
      disconnecting = Task.async(fn -> Connection.disconnect(handle) end)
      ScriptedTransport.let_close(value)
      assert Task.await(disconnecting) == :ok
    end

    test "has its server or its holder killed while it is disconnected: it is gone all the same" do
      for victim <- [&server/1, &holder/1, &supervisor_of/1], by <- [& &1, & &1.name] do
        opts = opts(transport: {ScriptedTransport, self()}, name: make_ref())
        connecting = Task.async(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
        ScriptedTransport.let_open("127.0.0.1:1")
        {:ok, handle} = Task.await(connecting)
        victim = victim.(handle)
        ref = by.(handle)
        disconnecting = Task.async(fn -> Connection.disconnect(ref) end)
        closing = ScriptedTransport.closing("127.0.0.1:1")
        Process.exit(victim, :kill)
        ScriptedTransport.answer(closing, fn -> :ok end)
        assert Task.await(disconnecting) == :ok
        eventually(fn -> Connection.handle(handle.name) == {:error, :not_found} end)
        eventually(fn -> Connection.Supervisor.find(handle.name) == :error end)
        assert Connection.pick(handle) == {:error, :closed}
      end
    end

    test "leaves nothing when who connects is killed before it has its handle" do
      name = make_ref()
      opts = opts(name: name, transport: {ScriptedTransport, self()})
      caller = spawn(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
      opening = ScriptedTransport.opening("127.0.0.1:1")
      eventually(fn -> waiting?(caller) end)
      true = :erlang.suspend_process(caller)
      ScriptedTransport.answer(opening, fn -> {:ok, :open} end)
      # It has been told, and does not know yet.
      eventually(fn -> match?({:ok, _handle}, Connection.handle(name)) end)
      kill([caller])
      ScriptedTransport.let_close(:open)
      eventually(fn -> Connection.handle(name) == {:error, :not_found} end)
    end

    test "is gone for everybody who disconnects it, when that returns" do
      for by <- [& &1, & &1.name, &supervisor_of/1] do
        opts = opts(transport: {ScriptedTransport, self()}, name: make_ref())
        connecting = Task.async(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
        ScriptedTransport.let_open("127.0.0.1:1")
        {:ok, handle} = Task.await(connecting)
        ref = by.(handle)
        pid = supervisor_of(handle)
        first = Task.async(fn -> {Connection.disconnect(ref), Process.alive?(pid)} end)
        closing = ScriptedTransport.closing("127.0.0.1:1")

        second =
          Task.async(fn ->
            {Connection.disconnect(ref), Process.alive?(closing) or Process.alive?(pid)}
          end)

        eventually(fn -> waiting?(second.pid) end)
        ScriptedTransport.answer(closing, fn -> :ok end)
        assert Task.await_many([first, second]) == [ok: false, ok: false]
      end
    end

    test "is disconnected also when its holder has just been killed" do
      server = Loopback.start()

      for by <- [& &1.name, &supervisor_of/1] do
        handle = connect!([server])
        ref = by.(handle)
        supervisor = supervisor_of(handle)
        server = server(handle)
        :ok = :sys.suspend(supervisor)
        kill([holder(handle)])
        # Its supervisor has not heard of it.
        assert Connection.disconnect(ref) == :ok
        refute Process.alive?(supervisor)
        refute Process.alive?(server)
        assert Connection.handle(handle.name) == {:error, :not_found}
      end
    end

    test "is made anew when the holder is killed, also when who connected is gone" do
      server = Loopback.start()
      name = make_ref()
      target = static([server])

      {:ok, handle} =
        Task.await(Task.async(fn -> Connection.connect(target, opts(name: name)) end))

      on_exit(fn -> Connection.disconnect(name) end)
      kill([holder(handle)])

      eventually(fn ->
        match?({:ok, new} when new != handle, Connection.handle(name)) and
          Connection.await_ready(name) == :ok
      end)

      assert {:ok, _} = echo(Connection.handle!(name))
    end

    test "that is killed again and again takes no other with it" do
      server = Loopback.start()
      other = connect!([Loopback.start()])
      handle = connect!([server])
      target = static([server])

      eventually(fn ->
        case Connection.connect(target, opts(name: handle.name)) do
          {:error, {:already_started, pid}} -> kill([pid])
          {:ok, new} -> Connection.disconnect(new)
          {:error, _other} -> :ok
        end

        Connection.pick(handle) == {:error, :closed}
      end)

      assert {:ok, _} = echo(other)
      assert Process.whereis(GrpcLb.Registry)
      assert {:ok, _} = echo(connect!(target, name: handle.name))
    end
  end

  describe "resolver's process" do
    test "killed is started again" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      test = self()

      hold = fn ->
        send(test, {:held, self()})
        Process.sleep(:infinity)
      end

      {handle, names} = connect_scripted!([a])
      ScriptedResolver.set(names, hold)
      Connection.resolve_now(handle)
      assert_receive {:held, worker}, 10_000
      ScriptedResolver.set(names, [b])
      kill([worker])
      # Nobody asked for it again.
      await_ids(handle, [b])
      assert {:ok, _} = echo(handle)
    end

    test "killed again and again does not take the connection down" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a])

      pid = server(handle)
      ScriptedResolver.set(names, fn -> Process.exit(self(), :kill) end)

      for _ <- 1..20 do
        Connection.resolve_now(handle)
        assert_receive {:resolving, _worker}, 10_000
      end

      assert server(handle) == pid
      assert {:ok, _} = echo(handle)
      ScriptedResolver.set(names, [b])
      await_ids(handle, [b])
    end

    test "that watches is started again when it is killed" do
      [a, b, c] = for _ <- 1..3, do: Loopback.start()
      opts = [resolver: {PushingResolver, test: self()}]
      handle = connect!(ScriptedResolver.start([a]), opts)
      assert_receive {:watching, watcher}, 10_000
      PushingResolver.push(watcher, [b])
      await_ids(handle, [b])
      kill([watcher])
      assert_receive {:watching, new}, 10_000
      PushingResolver.push(new, [c])
      await_ids(handle, [c])
      assert Connection.disconnect(handle) == :ok
      eventually(fn -> not Process.alive?(new) end)
    end
  end
end
