defmodule GrpcLb.Connection.NamesTest do
  # What becomes of a connection's backends when names are answered for in part, late, by turns, or
  # under another name: with a real name server and real sockets.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Connection, Resolver}
  alias GrpcLb.Test.{DnsServer, Loopback, PushingResolver, ScriptedResolver}

  @moduletag capture_log: true

  @here {127, 0, 0, 1}
  @here6 {0, 0, 0, 0, 0, 0, 0, 1}

  # As `ScriptedResolver`; what it is asked is told to the test with what completes the answer.
  defmodule CompletingResolver do
    @behaviour Resolver

    @impl true
    defdelegate resolve(names, opts), to: ScriptedResolver

    @impl true
    def resolve(names, opts, push) do
      send(opts[:test], {:completing, push})
      ScriptedResolver.resolve(names, opts)
    end
  end

  setup do
    :ok = GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)

    dns = start_supervised!({DnsServer, %{}})
    {ip, port} = DnsServer.address(dns)
    %{dns: dns, target: "dns://#{:inet.ntoa(ip)}:#{port}/"}
  end

  defp port(server), do: Loopback.address(server).port

  # A server on both families with one port.
  defp both do
    v4 = Loopback.start()
    {v4, Loopback.start(:echo, ip: @here6, port: port(v4))}
  end

  # A zone with a service: of servers, each at an address of its own with a name of its own, and with
  # a priority.
  defp service(hosts) do
    records = for {name, server, priority} <- hosts, do: {priority, 1, port(server), ~c"#{name}"}

    for {name, server, _} <- hosts, into: %{{"_g._tcp.x", :srv} => {60, records}} do
      {{name, :a}, {60, [Loopback.address(server).ip]}}
    end
  end

  defp servers(n), do: for(i <- 1..n, do: Loopback.start(:echo, ip: {127, 0, 0, 1 + i}))

  defp failing(names),
    do: for(name <- names, type <- [:a, :aaaa], into: %{}, do: {{name, type}, :servfail})

  # As long as an answer may take on a busy machine.
  defp by_dns(opts \\ []), do: [resolver: {Resolver.DNS, [timeout: 20_000] ++ opts}]

  defp connect_srv!(context, opts \\ []) do
    connect!(context.target <> "_g._tcp.x", by_dns(srv: true) ++ opts)
  end

  # Has the name server answer with this from now on, and waits until the connection has been told. A
  # connection that was asking already may still be told the answer of before; what it asks after that,
  # it is told this. On a busy machine a part of it can come late, and `all?` says what is told then.
  defp answer(handle, dns, zone, all? \\ fn _told -> true end) do
    DnsServer.put(dns, zone)
    flush_resolved(handle)
    asked_now(handle)
    told = asked_now(handle)
    if all?.(told), do: told, else: await_resolved(handle, all?)
  end

  defp asked_now(%{name: name} = handle) do
    Connection.resolve_now(handle)
    # What is pushed takes no time, and answers nothing that was asked now.
    assert_receive {:event, [:grpc_lb, :resolver, :resolved], %{duration: duration},
                    %{name: ^name} = metadata}
                   when duration > 0,
                   10_000

    metadata
  end

  # What the first such answer comes to, where all that was asked before is answered well.
  defp first_failure(handle, dns, zone) do
    DnsServer.put(dns, zone)
    Connection.resolve_now(handle)
    await_resolved(handle, &(&1.result != :ok)).result
  end

  defp resolved(%{name: name}) do
    assert_receive {:event, [:grpc_lb, :resolver, :resolved], _, %{name: ^name} = metadata},
                   10_000

    metadata
  end

  # What does not know all is asked again soon, so that one more of the same can come before.
  defp await_resolved(handle, done?) do
    metadata = resolved(handle)
    if done?.(metadata), do: metadata, else: await_resolved(handle, done?)
  end

  defp flush_resolved(%{name: name} = handle) do
    receive do
      {:event, [:grpc_lb, :resolver, :resolved], _, %{name: ^name}} -> flush_resolved(handle)
    after
      0 -> :ok
    end
  end

  defp same_ids(handle, servers) do
    expected = servers |> Enum.map(&Loopback.id/1) |> Enum.sort()
    assert Enum.sort(ids(handle)) == expected
  end

  defp await_same_ids(handle, servers) do
    expected = servers |> Enum.map(&Loopback.id/1) |> Enum.sort()
    eventually(fn -> Enum.sort(ids(handle)) == expected end, fn -> inspect(ids(handle)) end)
  end

  describe "an answer that knows a part" do
    test "of the hosts of a service leaves the others as they were", %{dns: dns} = context do
      [a, b] = servers(2)
      zone = service([{"a.x", a, 0}, {"b.x", b, 0}])
      DnsServer.put(dns, zone)
      handle = connect_srv!(context)
      await_ids(handle, [a, b])
      weights = fn -> Enum.map(GrpcLb.info(handle.balancer).backends, & &1.weight) end

      for failed <- [["b.x"], ["a.x"]] do
        all? = &(Enum.map(&1.unknown, fn part -> part.host end) == failed)
        told = answer(handle, dns, Map.merge(zone, failing(failed)), all?)
        assert told.result == :ok
        assert [%{host: _, port: _} = part] = told.unknown
        refute is_map_key(part, :family)
        same_ids(handle, [a, b])
        assert weights.() == [1, 1]
      end

      # Both.
      assert %{result: {:kept, :servfail}} =
               answer(handle, dns, Map.merge(zone, failing(["a.x", "b.x"])))

      same_ids(handle, [a, b])
      # Known to be gone, it is gone.
      known = answer(handle, dns, service([{"a.x", a, 0}]), &(&1.unknown == []))
      assert known.result == :ok
      await_ids(handle, [a])
      assert Enum.map([a, b], &Loopback.accepted/1) == [1, 1]
    end

    test "is no reason to turn to the spare", %{dns: dns} = context do
      [a, b, spare] = servers(3)
      zone = service([{"a.x", a, 0}, {"b.x", b, 0}, {"spare.x", spare, 10}])
      DnsServer.put(dns, zone)
      handle = connect_srv!(context)
      await_ids(handle, [a, b])
      answer(handle, dns, Map.merge(zone, failing(["a.x", "b.x"])))
      same_ids(handle, [a, b])
      # One is known not to be there, nothing is known of the other: the resolution has failed.
      gone = Map.drop(zone, [{"a.x", :a}])
      assert answer(handle, dns, Map.merge(gone, failing(["b.x"]))).result == {:kept, :servfail}
      same_ids(handle, [a, b])
      assert Loopback.accepted(spare) == 0
      # That there is nobody is a reason.
      assert answer(handle, dns, Map.drop(zone, [{"a.x", :a}, {"b.x", :a}])).result == :ok
      await_ids(handle, [spare])
    end

    test "of the families leaves the other as it was", %{dns: dns} = context do
      {v4, v6} = both()
      zone = %{{"d.x", :a} => {60, [@here]}, {"d.x", :aaaa} => {60, [@here6]}}
      DnsServer.put(dns, zone)
      handle = connect!("#{context.target}d.x:#{port(v4)}", by_dns())
      await_same_ids(handle, [v4, v6])

      for {type, family} <- [aaaa: :inet6, a: :inet],
          failure <- [:servfail, :refused, {:late, :servfail}] do
        told = answer(handle, dns, %{zone | {"d.x", type} => failure})
        assert told.unknown == [%{family: family}]
        same_ids(handle, [v4, v6])
        DnsServer.release(dns)
      end

      assert answer(handle, dns, Map.delete(zone, {"d.x", :aaaa}), &(&1.unknown == []))
      await_ids(handle, [v4])
      assert Enum.map([v4, v6], &Loopback.accepted/1) == [1, 1]
    end

    test "is used, and what comes late is added", %{dns: dns} = context do
      {v4, v6} = both()

      for {late, first} <- [aaaa: v4, a: v6] do
        name = "#{late}.x"
        zone = %{{name, :a} => {60, [@here]}, {name, :aaaa} => {60, [@here6]}}
        DnsServer.put(dns, Map.update!(zone, {name, late}, &{:late, &1}))
        handle = connect!("#{context.target}#{name}:#{port(v4)}", by_dns())
        await_ids(handle, [first])
        assert [%{family: _}] = resolved(handle).unknown
        # Who asks once more meanwhile gets all of it, too.
        DnsServer.put(dns, zone)
        DnsServer.release(dns)
        await_resolved(handle, &(&1.unknown == []))
        await_same_ids(handle, [v4, v6])
      end
    end
  end

  test "a host of a service that is silent holds up no other", %{dns: dns} = context do
    [a, b] = servers(2)
    zone = service([{"a.x", a, 0}, {"b.x", b, 0}])

    late =
      for type <- [:a, :aaaa],
          into: %{},
          do: {{"b.x", type}, {:late, Map.get(zone, {"b.x", type}, :nxdomain)}}

    DnsServer.put(dns, Map.merge(zone, late))
    handle = connect_srv!(context)
    await_ids(handle, [a])
    DnsServer.put(dns, zone)
    DnsServer.release(dns)
    await_ids(handle, [a, b])
  end

  test "a first priority whose names are answered for late is waited for",
       %{dns: dns} = context do
    [a, spare] = servers(2)
    zone = service([{"a.x", a, 0}, {"spare.x", spare, 10}])
    DnsServer.put(dns, Map.update!(zone, {"a.x", :a}, &{:late, &1}))

    target = context.target <> "_g._tcp.x"

    {%{name: name} = handle, _pid} = supervised!([target: target] ++ by_dns(srv: true))

    # All else has been answered for then.
    eventually(fn -> {:udp, "spare.x", :aaaa} in asked(dns) end)
    # Longer than it would take to give up on it: nothing is told, for nothing can be used.
    refute_receive {:event, [:grpc_lb, :resolver, :resolved], _, %{name: ^name}}, 200
    DnsServer.release(dns)
    assert await_resolved(handle, &(&1.unknown == [])).result == :ok
    await_ids(handle, [a])
    assert Loopback.accepted(spare) == 0
  end

  # All that was asked for.
  defp asked(dns) do
    asked = DnsServer.questions(dns) ++ Process.get(:asked, [])
    Process.put(:asked, asked)
    asked
  end

  describe "an endpoint" do
    test "that is reached by another of its addresses is held, too, and adopted" do
      [lost, a, b] = servers(3)
      Loopback.become(lost, :refuse)
      other = {Loopback.address(a).ip, port(a)}
      endpoint = %{Loopback.address(lost) | host: "a.x", alternatives: [other]}

      names =
        ScriptedResolver.start(fn ->
          {:ok, %{addresses: [endpoint, Loopback.address(b)], ttl: 60}}
        end)

      handle = connect!(names, resolver: ScriptedResolver, hold_obsolete: :auto)
      await_ids(handle, [lost, b])
      flush_resolved(handle)
      ScriptedResolver.set(names, fn -> {:ok, %{addresses: [Loopback.address(b)], ttl: 60}} end)
      Connection.resolve_now(handle)
      assert resolved(handle).result == :ok
      same_ids(handle, [lost, b])

      old = server(handle)
      flush_resolved(handle)
      Process.exit(old, :kill)
      restarted(handle, old)
      assert resolved(handle).result == :ok
      same_ids(handle, [lost, b])
      assert Enum.map([a, b], &Loopback.accepted/1) == [1, 1]
    end

    test "whose name has changed is another one", %{dns: dns} = context do
      server = Loopback.start(:echo, ip: {127, 0, 0, 2})
      DnsServer.put(dns, service([{"a.x", server, 0}]))
      # By default what vanishes is held; but this has not vanished.
      handle = connect_srv!(context, hold_obsolete: :auto, drain_timeout: 60_000)
      await_ids(handle, [server])
      id = Loopback.id(server)
      {:ok, {_name, old}} = Connection.pick(handle)
      answer(handle, dns, service([{"b.x", server, 0}]))
      await_ids(handle, [id <> "/b.x"])
      assert {:ok, {_name, new}} = Connection.pick(handle)
      assert new != old
      assert Loopback.accepted(server) == 2

      assert [{"a.x", :draining}, {"b.x", :up}] =
               handle
               |> Connection.info()
               |> Map.get(:backends)
               |> Enum.map(&{&1.address.host, &1.state})
               |> Enum.sort()

      # It keeps its id, and the one before is taken back with its own.
      answer(handle, dns, service([{"a.x", server, 0}, {"b.x", server, 0}]))
      await_ids(handle, [id, id <> "/b.x"])
      assert Loopback.accepted(server) == 2
      old_server = server(handle)
      Process.exit(old_server, :kill)
      restarted(handle, old_server)
      assert ids(handle) == [id, id <> "/b.x"]
      Connection.resolve_now(handle)
      eventually(fn -> Connection.info(handle).ready end)
      assert ids(handle) == [id, id <> "/b.x"]
      assert Loopback.accepted(server) == 2
    end

    test "with two names is two, each with its weight", %{dns: dns} = context do
      server = Loopback.start(:echo, ip: {127, 0, 0, 2})
      DnsServer.put(dns, service([{"a.x", server, 0}, {"b.x", server, 0}]))
      handle = connect_srv!(context)
      id = Loopback.id(server)
      await_ids(handle, [id, id <> "/b.x"])
      assert Loopback.clients(server) == 2
      assert Enum.map(GrpcLb.info(handle.balancer).backends, & &1.weight) == [1, 1]
      # The first of them goes: what is left does not become another one.
      answer(handle, dns, service([{"b.x", server, 0}]))
      await_ids(handle, [id <> "/b.x"])
      assert Loopback.accepted(server) == 2
    end

    test "of a host with many addresses has a part of its weight", %{dns: dns} = context do
      [a, b, c] = servers(3)

      records =
        for {server, host} <- [{a, ~c"one.x"}, {b, ~c"two.x"}], do: {0, 5, port(server), host}

      more = Loopback.start(:echo, ip: Loopback.address(c).ip, port: port(b))

      DnsServer.put(dns, %{
        {"_g._tcp.x", :srv} => {60, records},
        {"one.x", :a} => {60, [Loopback.address(a).ip]},
        {"two.x", :a} => {60, [Loopback.address(b).ip, Loopback.address(c).ip]}
      })

      handle = connect_srv!(context, policy: :weighted_round_robin)
      await_ids(handle, [a, b, more])
      counts = handle |> picked(40) |> Enum.frequencies()
      assert counts[Loopback.id(a)] == 20
      assert counts[Loopback.id(b)] == 10
    end
  end

  describe "what an answer leaves out" do
    # The whole list is six, an answer has three of them.
    test "is held by default when it has a TTL", %{dns: dns} = context do
      servers = servers(6)
      ports = Enum.map(servers, &port/1)
      all = Enum.zip(servers, ports)
      zone = fn some -> service(for {server, port} <- some, do: {"h#{port}.x", server, 0}) end
      DnsServer.put(dns, zone.(Enum.take(all, 3)))
      handle = connect_srv!(context, hold_obsolete: :auto)
      await_same_ids(handle, Enum.take(servers, 3))

      for first <- 1..12 do
        some = for i <- first..(first + 2), do: Enum.at(all, rem(i, 6))
        assert %{result: :ok} = answer(handle, dns, zone.(some))
      end

      await_same_ids(handle, servers)
      assert Enum.map(servers, &Loopback.accepted/1) == [1, 1, 1, 1, 1, 1]
    end

    test "is let go of at once when its transport fails", %{dns: dns} = context do
      [a, b, c] = servers(3)
      DnsServer.put(dns, service([{"a.x", a, 0}, {"b.x", b, 0}, {"c.x", c, 0}]))
      handle = connect_srv!(context, hold_obsolete: 3_600_000)
      await_ids(handle, [a, b, c])
      answer(handle, dns, service([{"a.x", a, 0}]))
      same_ids(handle, [a, b, c])
      Loopback.become(b, :hang_up)
      eventually(fn -> length(Connection.info(handle).backends) == 2 end)
      same_ids(handle, [a, c])
      # Nobody has tried to open it again.
      assert Enum.map([a, b, c], &Loopback.accepted/1) == [1, 1, 1]
    end

    test "is let go of when the time is over", %{dns: dns} = context do
      [a, b] = servers(2)
      DnsServer.put(dns, service([{"a.x", a, 0}, {"b.x", b, 0}]))
      handle = connect_srv!(context, hold_obsolete: 200)
      await_ids(handle, [a, b])
      answer(handle, dns, service([{"a.x", a, 0}]))
      await_ids(handle, [a])
      await_clients([b], 0)
      assert Enum.map([a, b], &Loopback.accepted/1) == [1, 1]
    end

    test "is held over a restart of the connection's server, and no longer", context do
      %{dns: dns} = context
      [a, b] = servers(2)

      for {hold, left} <- [{60_000, [a, b]}, {300, [a]}] do
        DnsServer.put(dns, service([{"a.x", a, 0}, {"b.x", b, 0}]))
        handle = connect_srv!(context, hold_obsolete: hold)
        await_ids(handle, [a, b])
        answer(handle, dns, service([{"a.x", a, 0}]))
        # Its successor hears nothing.
        DnsServer.put(dns, %{{"_g._tcp.x", :srv} => :servfail})
        old = server(handle)
        flush_resolved(handle)
        Process.exit(old, :kill)
        restarted(handle, old)
        await_resolved(handle, &(&1.result == {:kept, :servfail}))
        await_same_ids(handle, left)
        Connection.disconnect(handle)
      end

      assert Enum.map([a, b], &Loopback.accepted/1) == [2, 2]
    end

    test "is held for two TTLs of the fuller answer where one comes late" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      names = ScriptedResolver.start([a, b])
      opts = [resolver: {CompletingResolver, test: self()}, hold_obsolete: :auto]
      handle = connect!(names, opts)
      await_ids(handle, [a, b])
      assert_receive {:completing, _push}, 10_000
      flush_resolved(handle)
      # An hour, so that it is not asked again meanwhile.
      partial = Map.put(ScriptedResolver.resolution([a], 3_600), :unknown, [%{family: :inet6}])
      ScriptedResolver.set(names, fn -> {:ok, partial} end)
      Connection.resolve_now(handle)
      assert_receive {:completing, push}, 10_000
      assert resolved(handle).unknown != []
      push.({:ok, ScriptedResolver.resolution([a], 36_000)})
      assert resolved(handle).unknown == []
      same_ids(handle, [a, b])
      # What the server notes after that, it has noted before it answers this.
      Connection.info(handle)
      known = GrpcLb.Holder.noted(holder(handle))
      left = Connection.Known.due(known) - System.monotonic_time(:millisecond)
      assert left in 7_200_001..72_000_000
    end

    test "is gone when the answer is pushed, has no TTL, or never changes" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      names = ScriptedResolver.start([a, b])
      handle = connect!(names, resolver: {PushingResolver, test: self()}, hold_obsolete: :auto)
      await_ids(handle, [a, b])
      assert_receive {:watching, watcher}, 10_000

      for ttl <- [nil, :infinity] do
        ScriptedResolver.set(names, fn -> {:ok, ScriptedResolver.resolution([a], ttl)} end)
        Connection.resolve_now(handle)
        await_ids(handle, [a])
        PushingResolver.push(watcher, [a, b])
        await_ids(handle, [a, b])
      end

      PushingResolver.push(watcher, {:ok, ScriptedResolver.resolution([a], 60)})
      await_ids(handle, [a])
    end
  end

  describe "an empty answer" do
    test "keeps what is known, or drops it as the option says, and tells",
         %{dns: dns} = context do
      server = Loopback.start()
      zone = %{{"d.x", :a} => {60, [@here]}}

      for {option, told} <- [keep: :kept, drop: :dropped] do
        DnsServer.put(dns, zone)
        # Nothing is held then.
        opts = [on_empty: option, hold_obsolete: 60_000] ++ by_dns()
        handle = connect!("#{context.target}d.x:#{port(server)}", opts)

        await_ids(handle, [server])

        for {empty, reason} <- [
              {%{}, :nxdomain},
              {%{{"d.x", :txt} => {60, [~c"-"]}}, :no_addresses}
            ] do
          assert first_failure(handle, dns, empty) == {told, reason}
          kept = if option == :keep, do: [server], else: []
          await_ids(handle, kept)
          assert Connection.info(handle).resolution == {:error, reason}
          DnsServer.put(dns, zone)
          Connection.resolve_now(handle)
          await_resolved(handle, &(&1.result == :ok))
          await_ids(handle, [server])
        end

        # Nothing is known of it: that is no empty answer.
        assert first_failure(handle, dns, failing(["d.x"])) == {:kept, :servfail}

        same_ids(handle, [server])
        Connection.disconnect(handle)
      end
    end

    test "of a resolver that lists nothing is one too" do
      [a] = for _ <- 1..1, do: Loopback.start()
      {handle, names} = connect_scripted!([a], on_empty: :drop)
      await_ids(handle, [a])
      ScriptedResolver.set(names, [])
      flush_resolved(handle)
      Connection.resolve_now(handle)
      assert resolved(handle).result == {:dropped, :no_addresses}
      await_ids(handle, [])
      assert Connection.pick(handle) == {:error, :no_backends}
      # What it knows nothing of it does not leave out.
      ScriptedResolver.set(names, [a])
      await_ids(handle, [a])
      ScriptedResolver.set(names, fn -> {:ok, %{addresses: [], ttl: 5, unknown: [%{}]}} end)
      flush_resolved(handle)
      Connection.resolve_now(handle)
      assert resolved(handle).result == :ok
      same_ids(handle, [a])
    end
  end

  describe "a backend that fails" do
    test "has the target be resolved, but not sooner than the resolver's backoff says" do
      server = Loopback.start()
      backoff = [initial: 3_600_000, max: 3_600_000]
      {handle, names} = connect_scripted!([server], resolve_interval: :infinity, backoff: backoff)

      lose = fn ->
        # It has worked, and is opened again at once.
        {:ok, _} = echo(handle)
        {:ok, {_name, transport}} = Connection.pick(handle)
        Process.exit(transport, :kill)

        eventually(fn ->
          match?({:ok, {_, new}} when new != transport, Connection.pick(handle))
        end)
      end

      assert resolved(handle).result == :ok
      lose.()
      assert resolved(handle).result == :ok
      ScriptedResolver.set(names, fn -> {:error, :down} end)
      Connection.resolve_now(handle)
      assert resolved(handle).result == {:kept, :down}
      asked = length(flush_resolving())
      for _ <- 1..3, do: lose.()
      # Whoever asks for it is heard, and the next answer is the one to that.
      Connection.resolve_now(handle)
      assert resolved(handle).result == {:kept, :down}
      assert asked >= 3 and length(flush_resolving()) == 1
    end

    defp flush_resolving do
      receive do
        {:resolving, pid} -> [pid | flush_resolving()]
      after
        0 -> []
      end
    end
  end

  describe "a watch" do
    defmodule Ending do
      @behaviour GrpcLb.Resolver

      @impl true
      defdelegate resolve(names, opts), to: ScriptedResolver

      @impl true
      def watch(_names, opts, _push) do
        test = Keyword.fetch!(opts, :test)
        pid = spawn_link(fn -> receive do: ({:end, reason} -> exit(reason)) end)
        send(test, {:watching, pid})
        {:ok, pid}
      end
    end

    test "that ends is begun again, and what has changed meanwhile is found" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      names = ScriptedResolver.start([a])
      opts = [resolver: {Ending, test: self()}, resolve_interval: :infinity]
      handle = connect!(names, opts)
      await_ids(handle, [a])
      assert %{result: :ok} = resolved(handle)

      for {reason, server, quiet?} <- [
            {:normal, b, true},
            {:shutdown, a, true},
            {:boom, b, false}
          ] do
        assert_receive {:watching, watcher}, 10_000
        ScriptedResolver.set(names, [server])
        send(watcher, {:end, reason})
        unless quiet?, do: assert(resolved(handle).result == {:kept, reason})
        # No failure is told of one that has ended in order.
        assert resolved(handle).result == :ok
        await_ids(handle, [server])
      end

      assert_receive {:watching, _watcher}, 10_000
    end
  end
end
