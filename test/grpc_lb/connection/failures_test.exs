defmodule GrpcLb.Connection.FailuresTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1]

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver, ScriptedTransport}

  @moduletag capture_log: true

  # One backend, every step of which the test decides.
  defp scripted(opts \\ []) do
    transport = {ScriptedTransport, self()}
    {handle, _pid} = supervised!([target: "ipv4:127.0.0.1:1", transport: transport] ++ opts)
    handle
  end

  # Takes a connection that was accepted for one that works.
  defmodule OpenAtOnce do
    @behaviour GrpcLb.Transport
    use GenServer

    @impl GrpcLb.Transport
    def open(address, _opts) do
      with {:ok, pid} <- GenServer.start_link(__MODULE__, address), do: {:ok, pid, pid}
    end

    @impl GrpcLb.Transport
    def close(pid), do: GenServer.stop(pid)

    @impl GenServer
    def init(%{ip: ip, port: port}), do: :gen_tcp.connect(ip, port, [:binary, active: true])

    @impl GenServer
    def handle_info({:tcp, socket, _greeting}, socket), do: {:noreply, socket}
    def handle_info({:tcp_closed, socket}, socket), do: {:stop, {:shutdown, :hung_up}, socket}
  end

  @id "127.0.0.1:1"

  describe "a server" do
    test "that dies is out of the rotation, and back when it is back" do
      servers = [a, b, c] = for _ <- 1..3, do: Loopback.start()
      handle = connect!(servers)
      await_ids(handle, servers)

      for _ <- 1..3 do
        Loopback.become(b, :refuse)
        await_ids(handle, [a, c])
        assert Loopback.id(b) not in picked(handle, 30)
        Loopback.become(b, :echo)
        await_ids(handle, servers)
        assert Loopback.id(b) in picked(handle, 3)
      end

      assert {Loopback.accepted(a), Loopback.accepted(c)} == {1, 1}
    end

    test "that hangs up once is dialled again" do
      server = Loopback.start()
      handle = connect!([server])
      Loopback.become(server, :hang_up)
      eventually(fn -> Loopback.accepted(server) > 2 end)
      Loopback.become(server, :echo)
      eventually(fn -> match?({:ok, {:ok, "back"}}, {:ok, echo(handle, "back")}) end)
    end

    test "that is restarted is dialled at once" do
      server = Loopback.start()
      {handle, _pid} = supervised!(target: static([server]), backoff: [initial: 3_600_000])
      assert Connection.await_ready(handle) == :ok

      for n <- 1..5 do
        {:ok, {_name, transport}} = Connection.pick(handle)
        # The next is opened without a wait only if this one has worked.
        assert {:ok, _} = echo(handle)
        kill([transport])
        eventually(fn -> Loopback.accepted(server) == n + 1 and ids(handle) != [] end)
      end
    end

    test "that accepts and hangs up is dialled at once, and then waited for" do
      server = Loopback.start(:stall)
      opts = [transport: OpenAtOnce, backoff: [initial: 3_600_000]]
      {handle, _pid} = supervised!([target: static([server])] ++ opts)
      assert Connection.await_ready(handle) == :ok
      Loopback.become(server, :hang_up)
      waits? = fn -> match?(%{backends: [%{state: :backoff}]}, Connection.info(handle)) end
      eventually(fn -> Loopback.accepted(server) == 2 and waits?.() end)
    end

    test "that hangs up is waited for also when its address comes back, until somebody says not to" do
      [flapping, server] = [Loopback.start(:stall), Loopback.start()]
      opts = [transport: OpenAtOnce, backoff: [initial: 3_600_000]]
      {handle, names} = connect_scripted!([flapping, server], opts)
      [id, other] = Enum.map([flapping, server], &Loopback.id/1)

      states = fn ->
        for %{id: id, state: it} <- Connection.info(handle).backends, do: {id, it}
      end

      waits? = fn n -> Loopback.accepted(flapping) == n and {id, :backoff} in states.() end
      # The next attempt fails, or opens and is lost at once.
      hang_up = fn ->
        eventually(fn -> {id, :up} in states.() end)
        Loopback.become(flapping, :hang_up)
      end

      hang_up.()
      eventually(fn -> waits?.(2) end)

      for answer <- [[server], [flapping, server]] do
        ScriptedResolver.set(names, answer)
        Connection.resolve_now(handle)
        eventually(fn -> length(states.()) == length(answer) end)
      end

      assert waits?.(2)
      Loopback.become(flapping, :stall)
      assert Connection.reconnect(handle) == :ok
      hang_up.()
      # Its waits have begun anew.
      eventually(fn -> waits?.(4) end)
      Loopback.become(flapping, :stall)
      assert Connection.resolve_now(handle.name, reset_backoff: true) == :ok
      eventually(fn -> states.() == [{id, :up}, {other, :up}] end)
      # It is open for the client before it is accepted.
      eventually(fn -> Enum.map([flapping, server], &Loopback.accepted/1) == [5, 1] end)
    end

    test "that stalls is given up after connect_timeout, again and again" do
      stalled = Loopback.start(:stall)
      server = Loopback.start()

      {handle, _pid} = supervised!(target: static([stalled, server]), connect_timeout: 200)

      await_ids(handle, [server])
      eventually(fn -> Loopback.accepted(stalled) > 2 end)
      Loopback.become(stalled, :echo)
      await_ids(handle, [stalled, server])
      await_clients([stalled, server], 1)
    end
  end

  describe "all servers down" do
    test "picks say so, and the connection recovers by itself" do
      servers = for _ <- 1..3, do: Loopback.start()
      handle = connect!(servers)
      await_ids(handle, servers)

      for _ <- 1..3 do
        Enum.each(servers, &Loopback.become(&1, :refuse))
        await_ids(handle, [])
        assert Connection.pick(handle) == {:error, :no_backends}
        assert Connection.run(handle, fn _ -> flunk("called") end) == {:error, :no_backends}
        Enum.each(servers, &Loopback.become(&1, :echo))
        await_ids(handle, servers)
        assert Connection.await_ready(handle) == :ok
        assert {:ok, _} = echo(handle)
      end

      await_clients(servers, 1)
    end

    test "await_ready waits for the first to be back" do
      server = Loopback.start()
      handle = connect!([server])
      Loopback.become(server, :refuse)
      await_ids(handle, [])
      waiting = Task.async(fn -> Connection.await_ready(handle) end)
      assert Connection.await_ready(handle, 10) == {:error, :timeout}
      Loopback.become(server, :echo)
      assert Task.await(waiting) == :ok
      assert {:ok, _} = Connection.pick(handle)
    end

    test "moved elsewhere they are found, for a failure resolves again" do
      [old, new] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([old])
      ScriptedResolver.set(names, [new])
      Loopback.become(old, :refuse)
      await_ids(handle, [new])
      assert {:ok, _} = echo(handle)
    end
  end

  describe "a transport's process" do
    test "that is killed is out of the rotation at once, and comes back" do
      servers = [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, _supervisor} = supervised!(target: static(servers))
      await_ids(handle, servers)
      # No process of the connection need help.
      server = server(handle)
      :sys.suspend(server)
      {_name, transport} = transport_to(handle, a)
      kill([transport])
      await_ids(handle, [b])
      assert Enum.uniq(picked(handle, 20)) == [Loopback.id(b)]
      :sys.resume(server)
      await_ids(handle, servers)
      assert {_name, another} = transport_to(handle, a)
      assert another != transport
      await_clients(servers, 1)
    end

    test "killed again and again always comes back, and leaves no sockets" do
      servers = for _ <- 1..3, do: Loopback.start()
      handle = connect!(servers)
      await_ids(handle, servers)

      for _ <- 1..20 do
        {:ok, {_name, transport}} = Connection.pick(handle)
        kill([transport])
        await_ids(handle, servers)
      end

      await_clients(servers, 1)
    end

    test "that is not linked to anybody is watched all the same" do
      handle = scripted()
      owner = idle()
      ScriptedTransport.answer(ScriptedTransport.opening(@id), fn -> {:ok, :value, owner} end)
      assert Connection.await_ready(handle) == :ok
      assert Connection.pick(handle) == {:ok, :value}
      kill([owner])
      await_ids(handle, [])
      # What the owner leaves behind is closed first.
      ScriptedTransport.let_close(:value)
      ScriptedTransport.let_open(@id)
      assert Connection.await_ready(handle) == :ok
      assert Connection.pick(handle) == {:ok, @id}
    end

    test "that is dead when it is handed over counts for nothing" do
      handle = scripted()
      owner = idle()
      kill([owner])
      ScriptedTransport.answer(ScriptedTransport.opening(@id), fn -> {:ok, :dead, owner} end)
      ScriptedTransport.let_close(:dead)
      ScriptedTransport.let_open(@id)
      eventually(fn -> Connection.pick(handle) == {:ok, @id} end)
    end

    test "that failed inside of open, before another was started, does not matter" do
      handle = scripted(check_interval: 1)

      ScriptedTransport.answer(ScriptedTransport.opening(@id), fn ->
        first = spawn_link(fn -> exit(:first_attempt) end)
        monitor = Process.monitor(first)

        receive do
          {:DOWN, ^monitor, :process, ^first, _reason} -> {:ok, @id}
        end
      end)

      # A transport that is checked again is up.
      for _ <- 1..2 do
        ScriptedTransport.answer(ScriptedTransport.checking(@id), fn -> :ok end)
      end

      await_ids(handle, [@id])
    end

    test "that is linked to the transport takes it along" do
      handle = scripted()
      test = self()

      ScriptedTransport.answer(ScriptedTransport.opening(@id), fn ->
        send(test, {:linked, spawn_link(fn -> Process.sleep(:infinity) end)})
        {:ok, @id}
      end)

      assert_receive {:linked, linked}, 10_000
      assert Connection.await_ready(handle) == :ok
      kill([linked])
      ScriptedTransport.let_close(@id)
      ScriptedTransport.let_open(@id)
      await_ids(handle, [@id])
    end

    test "without an owner, the process that opened it is the owner" do
      handle = scripted()
      holder = ScriptedTransport.let_open(@id)
      assert Connection.await_ready(handle) == :ok
      kill([holder])
      await_ids(handle, [])
      ScriptedTransport.let_open(@id)
      await_ids(handle, [@id])
    end
  end

  describe "a transport whose open" do
    for {what, fun} <- [
          raises: quote(do: fn -> raise "no" end),
          throws: quote(do: fn -> throw(:no) end),
          exits: quote(do: fn -> exit(:no) end),
          "is killed": quote(do: fn -> Process.exit(self(), :kill) end),
          "returns rubbish": quote(do: fn -> :rubbish end),
          "returns no pid": quote(do: fn -> {:ok, :value, :no_pid} end),
          "returns an error": quote(do: fn -> {:error, :no} end)
        ] do
      test "#{what} makes connect fail, and leaves nothing" do
        name = make_ref()
        opts = opts(name: name, transport: {ScriptedTransport, self()})
        connecting = Task.async(fn -> Connection.connect("ipv4:127.0.0.1:1", opts) end)
        pid = ScriptedTransport.opening(@id)
        ScriptedTransport.answer(pid, unquote(fun))
        assert {:error, reason} = Task.await(connecting)
        assert inspect(reason) =~ unquote(if(what == :"is killed", do: "kill", else: ""))
        assert Connection.handle(name) == {:error, :not_found}
        eventually(fn -> not Process.alive?(pid) end)
        refute_received {:asking, _pid, _question}
      end

      test "#{what} is tried again by a supervised connection" do
        handle = scripted()

        for _ <- 1..3 do
          ScriptedTransport.answer(ScriptedTransport.opening(@id), unquote(fun))
        end

        assert Connection.pick(handle) == {:error, :no_backends}
        ScriptedTransport.let_open(@id)
        assert Connection.await_ready(handle) == :ok
        assert Connection.pick(handle) == {:ok, @id}
      end
    end
  end

  defmodule FailsAtOnce do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, reason), do: {:error, reason}

    @impl true
    def close(_value), do: :ok
  end

  test "a transport that fails at once says why" do
    transport = {FailsAtOnce, :because}

    for _ <- 1..50 do
      assert Connection.connect("ipv4:127.0.0.1:1", opts(transport: transport)) ==
               {:error, {:open, @id, :because}}
    end
  end

  describe "a transport whose close" do
    for {what, fun} <- [
          raises: quote(do: fn -> raise "no" end),
          exits: quote(do: fn -> exit(:no) end),
          "is killed": quote(do: fn -> Process.exit(self(), :kill) end)
        ] do
      test "#{what} disturbs nobody" do
        handle = scripted()
        ScriptedTransport.let_open(@id)
        assert Connection.await_ready(handle) == :ok
        disconnecting = Task.async(fn -> Connection.disconnect(handle) end)
        closing = ScriptedTransport.closing(@id)
        ScriptedTransport.answer(closing, unquote(fun))
        assert Task.await(disconnecting, 20_000) == :ok
        refute Process.alive?(closing)
      end
    end
  end

  defmodule UnlinkedOwner do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, test) do
      owner = idle()
      send(test, {:opened, owner})
      {:ok, owner, owner}
    end

    @impl true
    def check(_owner), do: Process.sleep(:infinity)

    @impl true
    def close(owner), do: Process.exit(owner, :kill)
  end

  describe "a health check" do
    test "that fails takes the backend out, and it is opened again" do
      server = Loopback.start()
      other = Loopback.start()
      handle = connect!([server, other], check_interval: 10, connect_timeout: 1_000)
      await_ids(handle, [server, other])
      # The socket stays open, and nothing comes back.
      Loopback.become(server, :stall)
      await_ids(handle, [other])
      Loopback.become(server, :echo)
      await_ids(handle, [server, other])
      await_clients([server, other], 1)
    end

    test "is repeated as long as it succeeds" do
      handle = scripted(check_interval: 1)
      ScriptedTransport.let_open(@id)

      for _ <- 1..5 do
        ScriptedTransport.answer(ScriptedTransport.checking(@id), fn -> :ok end)
      end

      assert Connection.pick(handle) == {:ok, @id}
    end

    for {what, fun} <- [
          raises: quote(do: fn -> raise "no" end),
          exits: quote(do: fn -> exit(:no) end),
          "says rubbish": quote(do: fn -> :rubbish end),
          "says no": quote(do: fn -> {:error, :no} end)
        ] do
      test "that #{what} fails" do
        handle = scripted(check_interval: 1)
        ScriptedTransport.let_open(@id)
        ScriptedTransport.answer(ScriptedTransport.checking(@id), unquote(fun))
        await_ids(handle, [])
        # Out of the rotation first, then closed, then opened again.
        ScriptedTransport.let_close(@id)
        ScriptedTransport.let_open(@id)
        assert Connection.await_ready(handle) == :ok
      end
    end

    test "that hangs is ended after connect_timeout and has failed" do
      handle = scripted(check_interval: 1, connect_timeout: 1_000)
      checking = open_until_checked()
      await_ids(handle, [])
      eventually(fn -> not Process.alive?(checking) end)
      # It is up again.
      assert open_until_checked() != checking
    end

    # That of an open may be over on a busy machine, too.
    defp open_until_checked do
      receive do
        {:asking, pid, {:open, @id}} ->
          ScriptedTransport.answer(pid, fn -> {:ok, @id} end)
          open_until_checked()

        {:asking, pid, {:check, @id}} ->
          pid
      after
        10_000 -> flunk("nothing is checked")
      end
    end

    test "that hangs leaves nothing open, also when nothing is linked" do
      transport = {UnlinkedOwner, self()}
      opts = [transport: transport, check_interval: 1, check_timeout: 500]
      handle = connect!("ipv4:127.0.0.1:1", opts)

      monitors =
        for _ <- 1..3 do
          assert_receive {:opened, owner}, 10_000
          {owner, Process.monitor(owner)}
        end

      assert Connection.disconnect(handle) == :ok

      for {owner, monitor} <- monitors do
        assert_receive {:DOWN, ^monitor, :process, ^owner, _reason}, 10_000
      end
    end

    test "that hangs does not hang the connection" do
      handle = scripted(check_interval: 1)
      ScriptedTransport.let_open(@id)
      ScriptedTransport.checking(@id)
      assert Connection.pick(handle) == {:ok, @id}
      assert Connection.info(handle)
      assert Connection.disconnect(handle) == :ok
      assert Connection.pick(handle) == {:error, :closed}
    end
  end

  describe "a resolver that fails at the start" do
    for {what, fun} <- [
          raises: quote(do: fn -> raise "no" end),
          throws: quote(do: fn -> throw(:no) end),
          exits: quote(do: fn -> exit(:no) end),
          "is killed": quote(do: fn -> Process.exit(self(), :kill) end),
          "returns rubbish": quote(do: fn -> :rubbish end),
          "returns an error": quote(do: fn -> {:error, :no} end),
          "finds nothing": []
        ] do
      test "because it #{what} makes connect fail, and leaves nothing" do
        name = make_ref()
        names = ScriptedResolver.start(unquote(fun))
        opts = opts(name: name, resolver: ScriptedResolver)
        assert {:error, _reason} = Connection.connect(names, opts)
        assert_receive {:resolving, worker}, 10_000
        assert Connection.handle(name) == {:error, :not_found}
        eventually(fn -> not Process.alive?(worker) end)
        refute_received {:resolving, _worker}
      end

      test "because it #{what} is asked again by a supervised connection" do
        server = Loopback.start()
        names = ScriptedResolver.start(unquote(fun))
        {handle, pid} = supervised!(target: names, resolver: ScriptedResolver)
        for _ <- 1..3, do: assert_receive({:resolving, _worker}, 10_000)
        assert Connection.pick(handle) == {:error, :no_backends}
        ScriptedResolver.set(names, [server])
        assert Connection.await_ready(handle) == :ok
        assert {:ok, _} = echo(handle)
        assert Process.alive?(pid)
      end
    end
  end

  describe "strange messages" do
    test "disturb no process of a connection" do
      backend = Loopback.start()
      {handle, pid} = supervised!(target: static([backend]))
      assert Connection.await_ready(handle) == :ok
      server = server(handle)

      for message <- [
            :hello,
            {:EXIT, idle(), :normal},
            {:EXIT, idle(), :boom},
            {:DOWN, make_ref(), :process, idle(), :boom},
            {make_ref(), :late_reply},
            {:tcp_closed, :no_port}
          ] do
        for process <- [pid, server], do: send(process, message)
      end

      assert Connection.info(handle)
      assert Process.alive?(pid) and server(handle) == server
      assert {:ok, _} = echo(handle)
      assert Loopback.accepted(backend) == 1
    end
  end

  defp transport_to(handle, server) do
    id = Loopback.id(server)
    {:ok, {name, pid}} = Connection.pick(handle)
    if name == id, do: {name, pid}, else: transport_to(handle, server)
  end

  test "values are handed out as the transport gave them" do
    handle = scripted()
    value = %{deep: [1, {2, "three"}], pid: self()}
    ScriptedTransport.answer(ScriptedTransport.opening(@id), fn -> {:ok, value} end)
    assert Connection.await_ready(handle) == :ok
    assert Connection.pick(handle) == {:ok, value}
    assert Connection.run(handle, &(&1 == value))
  end
end
