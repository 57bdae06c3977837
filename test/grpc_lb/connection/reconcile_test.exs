defmodule GrpcLb.Connection.ReconcileTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Address, Connection}

  alias GrpcLb.Test.{
    Loopback,
    PushingResolver,
    ScriptedResolver,
    ScriptedTransport,
    TcpTransport
  }

  @moduletag capture_log: true

  defp resolve_to(handle, names, answer) do
    ScriptedResolver.set(names, answer)
    Connection.resolve_now(handle)
  end

  # Backends, every step of which the test decides.
  defp scripted(ids, opts \\ []) do
    addresses = for "127.0.0.1:" <> port <- ids, do: address(String.to_integer(port))
    names = ScriptedResolver.start(addresses)

    scripted = [
      target: names,
      resolver: ScriptedResolver,
      transport: {ScriptedTransport, self()}
    ]

    {handle, _pid} = supervised!(scripted ++ opts)
    {handle, names}
  end

  defp address(port), do: %Address{ip: {127, 0, 0, 1}, port: port}

  describe "a new resolution" do
    test "is followed: what is new comes, what is gone goes, the rest stays as it is" do
      [a, b, c, d] = servers = for _ <- 1..4, do: Loopback.start()
      {handle, names} = connect_scripted!([a, b])
      await_ids(handle, [a, b])
      resolve_to(handle, names, [b, c, d])
      await_ids(handle, [b, c, d])
      await_clients([a], 0)
      resolve_to(handle, names, [d])
      await_ids(handle, [d])
      await_clients([a, b, c], 0)
      assert Enum.map(servers, &Loopback.accepted/1) == [1, 1, 1, 1]
    end

    test "can swap every address" do
      servers = for _ <- 1..6, do: Loopback.start()
      {old, new} = Enum.split(servers, 3)
      {handle, names} = connect_scripted!(old)
      await_ids(handle, old)
      resolve_to(handle, names, new)
      await_ids(handle, new)
      await_clients(old, 0)
      assert Enum.sort(Enum.uniq(picked(handle, 30))) == Enum.sort(Enum.map(new, &Loopback.id/1))
      assert {:ok, _} = echo(handle)
    end

    test "gives the order of the rotation" do
      servers = for _ <- 1..5, do: Loopback.start()
      {handle, names} = connect_scripted!(servers)
      await_ids(handle, servers)

      for _ <- 1..5 do
        shuffled = Enum.shuffle(servers)
        resolve_to(handle, names, shuffled)
        await_ids(handle, shuffled)
      end

      assert Enum.map(servers, &Loopback.accepted/1) == [1, 1, 1, 1, 1]
    end

    test "that says the same changes nothing" do
      servers = for _ <- 1..3, do: Loopback.start()
      {handle, names} = connect_scripted!(servers)
      await_ids(handle, servers)
      generation = GrpcLb.info(handle.balancer).generation
      flush()

      for _ <- 1..3 do
        resolve_to(handle, names, servers)
        assert_receive {:resolving, _pid}, 10_000
      end

      # Another change, that comes after.
      resolve_to(handle, names, tl(servers))
      await_ids(handle, tl(servers))
      assert GrpcLb.info(handle.balancer).generation == generation + 1
    end

    test "with an address twice has it once" do
      [a, b] = servers = for _ <- 1..2, do: Loopback.start()
      {handle, _names} = connect_scripted!([a, b, a, a, b])
      await_ids(handle, [a, b])
      assert Enum.map(servers, &Loopback.accepted/1) == [1, 1]
    end

    test "brings weights, and changes them" do
      [a, b] = for _ <- 1..2, do: Loopback.start()

      weights = fn x, y ->
        [%{Loopback.address(a) | weight: x}, %{Loopback.address(b) | weight: y}]
      end

      {handle, names} = connect_scripted!(weights.(3, 1))
      await_ids(handle, [a, b])
      shown = fn -> Enum.map(GrpcLb.info(handle.balancer).backends, & &1.weight) end
      assert shown.() == [3, 1]
      resolve_to(handle, names, weights.(3, 0xFFFFFFFF))
      eventually(fn -> shown.() == [3, 0xFFFFFFFF] end)
      assert Loopback.accepted(b) == 1
    end

    test "comes by itself after resolve_interval" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], resolve_interval: 20)
      ScriptedResolver.set(names, [b])
      await_ids(handle, [b])
      for _ <- 1..3, do: assert_receive({:resolving, _pid}, 10_000)
    end

    test "can be pushed" do
      [a, b, c] = for _ <- 1..3, do: Loopback.start()
      handle = connect!(ScriptedResolver.start([a]), resolver: {PushingResolver, test: self()})
      await_ids(handle, [a])
      assert_receive {:watching, watcher}, 10_000
      PushingResolver.push(watcher, [b, c])
      await_ids(handle, [b, c])
      PushingResolver.push(watcher, {:error, :lost})
      PushingResolver.push(watcher, [])
      PushingResolver.push(watcher, [c])
      await_ids(handle, [c])
      await_clients([a, b], 0)
    end

    test "of hundreds of addresses" do
      servers = for _ <- 1..100, do: Loopback.start()
      {handle, names} = connect_scripted!(servers)
      await_ids(handle, servers)
      half = Enum.take_every(servers, 2)
      resolve_to(handle, names, half)
      await_ids(handle, half)
      await_clients(servers -- half, 0)
    end
  end

  describe "a resolution that helps nobody" do
    test "keeps the last known backends" do
      servers = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!(servers)
      await_ids(handle, servers)

      for answer <- [
            [],
            fn -> {:error, :nxdomain} end,
            fn -> raise "no" end,
            fn -> exit(:no) end,
            fn -> throw(:no) end,
            fn -> :rubbish end,
            fn -> {:ok, :rubbish} end,
            fn -> {:ok, %{addresses: :rubbish, ttl: nil}} end,
            fn -> {:ok, %{addresses: [:rubbish | :improper], ttl: nil}} end,
            fn ->
              {:ok, ScriptedResolver.resolution([Loopback.address(hd(servers)), :rubbish])}
            end,
            fn -> {:ok, ScriptedResolver.resolution([%{address(1) | weight: 0}])} end,
            fn -> {:ok, ScriptedResolver.resolution([%{address(1) | port: :rubbish}])} end,
            fn -> {:ok, ScriptedResolver.resolution([%{address(1) | ip: "rubbish"}])} end,
            fn -> {:ok, %{addresses: [Loopback.address(hd(servers))], ttl: :rubbish}} end
          ] do
        flush()
        resolve_to(handle, names, answer)
        assert_receive {:resolving, _pid}, 10_000
        # The next resolution begins when this one is done with.
        Connection.resolve_now(handle)
        assert_receive {:resolving, _pid}, 10_000
        assert ids(handle) == Enum.map(servers, &Loopback.id/1)
        assert {:ok, _} = echo(handle)
      end

      resolve_to(handle, names, tl(servers))
      await_ids(handle, tl(servers))
    end
  end

  describe "transports" do
    test "are opened in parallel" do
      ids = for port <- 1..10, do: "127.0.0.1:#{port}"
      {handle, _names} = scripted(ids)
      opening = for id <- ids, do: {id, ScriptedTransport.opening(id)}
      for {id, pid} <- opening, do: ScriptedTransport.answer(pid, fn -> {:ok, id} end)
      await_ids(handle, ids)
    end

    test "that take long hold up no other" do
      {handle, _names} = scripted(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
      slow = ScriptedTransport.opening("127.0.0.1:1")
      ScriptedTransport.let_open("127.0.0.1:2")
      assert Connection.await_ready(handle) == :ok
      assert Connection.pick(handle) == {:ok, "127.0.0.1:2"}
      ScriptedTransport.let_open("127.0.0.1:3")
      await_ids(handle, ["127.0.0.1:2", "127.0.0.1:3"])
      ScriptedTransport.answer(slow, fn -> {:ok, "127.0.0.1:1"} end)
      await_ids(handle, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    end

    test "that are gone before they are open are not kept" do
      {handle, names} = scripted(["127.0.0.1:1", "127.0.0.1:2"])
      slow = ScriptedTransport.opening("127.0.0.1:1")
      ScriptedTransport.let_open("127.0.0.1:2")
      await_ids(handle, ["127.0.0.1:2"])
      resolve_to(handle, names, [address(2), address(3)])
      ScriptedTransport.let_open("127.0.0.1:3")
      await_ids(handle, ["127.0.0.1:2", "127.0.0.1:3"])
      ScriptedTransport.answer(slow, fn -> {:ok, "127.0.0.1:1"} end)
      eventually(fn -> not Process.alive?(slow) end)
      assert ids(handle) == ["127.0.0.1:2", "127.0.0.1:3"]
    end

    test "leave the rotation before they are closed" do
      {handle, names} = scripted(["127.0.0.1:1", "127.0.0.1:2"])
      ScriptedTransport.let_open("127.0.0.1:1")
      ScriptedTransport.let_open("127.0.0.1:2")
      await_ids(handle, ["127.0.0.1:1", "127.0.0.1:2"])
      resolve_to(handle, names, [address(2)])
      closing = ScriptedTransport.closing("127.0.0.1:1")
      for _ <- 1..10, do: assert(Connection.pick(handle) == {:ok, "127.0.0.1:2"})
      ScriptedTransport.answer(closing, fn -> :ok end)
      eventually(fn -> not Process.alive?(closing) end)
    end
  end

  describe "draining" do
    test "lets calls in flight end" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], drain_timeout: 60_000)
      {:ok, in_flight} = Connection.pick(handle)
      resolve_to(handle, names, [b])
      await_ids(handle, [b])
      assert TcpTransport.call(in_flight, "still") == {:ok, "still"}
      assert Loopback.clients(a) == 1
      # A disconnect does not wait for it.
      assert Connection.disconnect(handle) == :ok
      await_clients([a, b], 0)
    end

    test "ends after drain_timeout" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], drain_timeout: 20)
      {:ok, in_flight} = Connection.pick(handle)
      resolve_to(handle, names, [b])
      await_clients([a], 0)
      assert TcpTransport.call(in_flight, "too late") == {:error, :closed}
    end

    test "of 0 closes at once" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], drain_timeout: 0)
      resolve_to(handle, names, [b])
      await_clients([a], 0)
      await_ids(handle, [b])
    end

    test "is undone when the address comes back" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a, b], drain_timeout: 60_000)
      await_ids(handle, [a, b])
      {:ok, first} = Connection.pick(handle)
      resolve_to(handle, names, [b])
      await_ids(handle, [b])
      resolve_to(handle, names, [b, a])
      await_ids(handle, [b, a])
      assert {:ok, _} = TcpTransport.call(first, "the same, or not")
      Connection.disconnect(handle)
      await_clients([a, b], 0)
    end

    test "comes too late to be undone when it is being closed: it is opened anew, beside" do
      {handle, names} = scripted(["127.0.0.1:1", "127.0.0.1:2"])
      ScriptedTransport.let_open("127.0.0.1:1")
      ScriptedTransport.let_open("127.0.0.1:2")
      await_ids(handle, ["127.0.0.1:1", "127.0.0.1:2"])
      resolve_to(handle, names, [address(2)])
      closing = ScriptedTransport.closing("127.0.0.1:1")
      resolve_to(handle, names, [address(2), address(1), address(3)])
      for n <- [3, 1], do: ScriptedTransport.let_open("127.0.0.1:#{n}")
      await_ids(handle, ["127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:3"])
      ScriptedTransport.answer(closing, fn -> :ok end)
      eventually(fn -> length(Connection.info(handle).backends) == 3 end)
      refute Process.alive?(closing)
    end

    test "a transport that dies meanwhile is not opened again" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], drain_timeout: 60_000)
      resolve_to(handle, names, [b])
      await_ids(handle, [b])
      Loopback.become(a, :hang_up)
      await_clients([a], 0)
      resolve_to(handle, names, [b])
      assert {:ok, _} = echo(handle)
      assert Loopback.accepted(a) == 1
    end
  end

  describe "pick_first" do
    test "dials one after the other, and has one connection" do
      refusing = Loopback.start(:refuse)
      [a, b] = for _ <- 1..2, do: Loopback.start()
      handle = connect!([refusing, a, b], policy: :pick_first)
      assert ids(handle) == [Loopback.id(a)]
      assert Enum.uniq(picked(handle, 10)) == [Loopback.id(a)]

      assert [_refused, %{state: :up}, %{state: :idle, error: nil}] =
               Connection.info(handle).backends

      Loopback.become(refusing, :echo)
      # It is not needed, also when its backoff is over.
      eventually(fn -> match?([%{state: :idle} | _], Connection.info(handle).backends) end)
      assert Enum.map([refusing, a, b], &Loopback.accepted/1) == [0, 1, 0]
    end

    test "follows a swap" do
      [a, b, c] = for _ <- 1..3, do: Loopback.start()
      {handle, names} = connect_scripted!([a, b], policy: :pick_first)
      resolve_to(handle, names, [c, b])
      await_ids(handle, [c])
      assert Enum.uniq(picked(handle, 10)) == [Loopback.id(c)]
      # A62: who is selected stays so.
      resolve_to(handle, names, [b, c])
      assert Enum.uniq(picked(handle, 10)) == [Loopback.id(c)]
      resolve_to(handle, names, [b])
      await_ids(handle, [b])
      await_clients([a, c], 0)
      assert Enum.map([a, b, c], &Loopback.accepted/1) == [1, 1, 1]
    end

    test "goes to the next when the first is down, and stays there" do
      servers = [a, b] = for _ <- 1..2, do: Loopback.start()
      handle = connect!(servers, policy: :pick_first)
      assert ids(handle) == [Loopback.id(a)]
      Loopback.become(a, :refuse)
      await_ids(handle, [b])
      Loopback.become(a, :echo)

      eventually(fn ->
        match?([%{state: :idle}, %{state: :up}], Connection.info(handle).backends)
      end)

      assert Enum.uniq(picked(handle, 10)) == [Loopback.id(b)]
      # From the first again.
      Loopback.become(b, :refuse)
      await_ids(handle, [a])
      assert Loopback.accepted(b) == 1
    end

    test "does not wait long for one that says nothing" do
      [stalled, server, other] = Enum.map([:stall, :echo, :echo], &Loopback.start/1)
      handle = connect!([stalled, server, other], policy: :pick_first)
      assert ids(handle) == [Loopback.id(server)]
      # Who has lost is closed.
      await_clients([stalled], 0)
      assert [%{state: :idle}, %{state: :up}, %{state: :idle}] = Connection.info(handle).backends
      assert Enum.map([stalled, server, other], &Loopback.accepted/1) == [1, 1, 0]
    end

    test "shuffles whom it dials first" do
      servers = for _ <- 1..3, do: Loopback.start()

      eventually(fn ->
        handle = connect!(servers, policy: {:pick_first, shuffle: true})
        assert [_one] = ids(handle)
        Connection.disconnect(handle)
        Enum.all?(servers, &(Loopback.accepted(&1) > 0))
      end)
    end
  end

  describe "the dials" do
    test "are paced, in order" do
      servers = for _ <- 1..5, do: Loopback.start(:stall)
      opts = [target: static(servers), max_dials: 2, backoff: [initial: 3_600_000]]
      {handle, _pid} = supervised!(opts)
      accepted = fn -> Enum.map(servers, &Loopback.accepted/1) end
      states = fn -> Enum.map(Connection.info(handle).backends, & &1.state) end
      eventually(fn -> accepted.() == [1, 1, 0, 0, 0] end)
      assert states.() == [:opening, :opening, :queued, :queued, :queued]
      # The second fails, and the third opens when it is dialled.
      Loopback.become(Enum.at(servers, 2), :echo)
      Loopback.become(Enum.at(servers, 1), :refuse)
      eventually(fn -> states.() == [:opening, :backoff, :up, :opening, :queued] end)
      eventually(fn -> accepted.() == [1, 1, 1, 1, 0] end)
    end

    test "are 32 at the same time, also when what is queued leaves" do
      ids = for port <- 1..50, do: "127.0.0.1:#{port}"
      {handle, names} = scripted(ids)
      states = fn -> Enum.frequencies_by(Connection.info(handle).backends, & &1.state) end
      eventually(fn -> states.() == %{opening: 32, queued: 18} end)
      resolve_to(handle, names, for(port <- 20..50, do: address(port)))
      eventually(fn -> states.() == %{opening: 31} end)
    end
  end

  describe "a backend with several addresses" do
    defp with_alternatives([server | others]) do
      address = Loopback.address(server)
      alternatives = for other <- others, at = Loopback.address(other), do: {at.ip, at.port}
      %{address | alternatives: alternatives}
    end

    test "is reached by the first that opens, and stays one backend" do
      [stalled, server, third] = servers = Enum.map([:stall, :echo, :echo], &Loopback.start/1)
      other = Loopback.start()
      handle = connect!({:static, [with_alternatives(servers), Loopback.address(other)]})
      await_ids(handle, [stalled, other])
      # By the names with which they greet.
      assert Enum.sort(Enum.uniq(picked(handle, 10))) ==
               Enum.sort(Enum.map([server, other], &Loopback.id/1))

      await_clients([stalled, third], 0)
      assert Enum.map(servers ++ [other], &Loopback.accepted/1) == [1, 1, 0, 1]
      assert [%{state: :up}, %{state: :up}] = Connection.info(handle).backends
      # The one that is lost is dialled in the same way, and what is known of the backend stays.
      assert {:ok, _} = echo(handle)
      assert {:ok, _} = echo(handle)
      Loopback.become(stalled, :echo)
      Loopback.become(server, :refuse)
      await_clients([stalled], 1)
      await_ids(handle, [stalled, other])
      assert [%{successes: 1}, %{successes: 1}] = GrpcLb.info(handle.balancer).backends
    end

    test "fails when all have, and is told once" do
      servers = for _ <- 1..2, do: Loopback.start(:refuse)
      opts = opts(backoff: [initial: 60_000])
      id = Loopback.id(hd(servers))

      assert Connection.connect({:static, [with_alternatives(servers)]}, opts) ==
               {:error, {:open, id, :econnrefused}}
    end

    test "changes one of them, without a redial" do
      [a, b, c] = for _ <- 1..3, do: Loopback.start()
      {handle, names} = connect_scripted!([with_alternatives([a, b])])
      resolve_to(handle, names, [with_alternatives([a, c])])
      assert Enum.map([a, b, c], &Loopback.accepted/1) == [1, 0, 0]
      Loopback.become(a, :refuse)
      eventually(fn -> reached?(handle, c) end)
      resolve_to(handle, names, [with_alternatives([a, b])])
      eventually(fn -> reached?(handle, b) end)
      await_clients([c], 0)
    end

    # By the name with which it greets.
    defp reached?(handle, server) do
      name = Loopback.id(server)
      match?({:ok, {^name, _pid}}, Connection.pick(handle))
    end
  end

  test "round_robin begins anywhere" do
    servers = for _ <- 1..3, do: Loopback.start()

    # A start is drawn with each transport that opens before the first pick, so that it is a matter of chance: none
    # is missing but once in 10^8.
    firsts =
      for seed <- 1..50 do
        handle = connect!(servers, seed: seed)
        await_ids(handle, servers)
        hd(picked(handle, 1))
      end

    assert length(Enum.uniq(firsts)) == 3
  end

  test "other policies are taken with their options" do
    server = Loopback.start()

    for policy <- [:random, {:pick_first, shuffle: true}, {:round_robin, cursor: :per_scheduler}] do
      handle = connect!([server], policy: policy)
      assert {:ok, _} = echo(handle)
      name = if is_tuple(policy), do: elem(policy, 0), else: policy
      assert GrpcLb.info(handle.balancer).policy == name
    end
  end

  defp flush do
    receive do
      {:resolving, _pid} -> flush()
    after
      0 -> :ok
    end
  end
end
