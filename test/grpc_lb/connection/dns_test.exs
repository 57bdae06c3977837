defmodule GrpcLb.Connection.DnsTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Connection, Resolver}
  alias GrpcLb.Test.{DnsServer, Loopback}

  setup do
    dns = start_supervised!({DnsServer, %{}})
    {{127, 0, 0, 1}, port} = DnsServer.address(dns)
    %{dns: dns, target: "dns://127.0.0.1:#{port}/"}
  end

  defp port(server), do: Loopback.address(server).port

  # A zone with a service at these servers, which have weights.
  defp service(servers, ttl \\ 60) do
    records = for {server, weight} <- servers, do: {0, weight, port(server), ~c"here.test"}
    %{{"_grpc._tcp.test", :srv} => {ttl, records}, {"here.test", :a} => {ttl, [{127, 0, 0, 1}]}}
  end

  # As long as an answer may take on a busy machine.
  defp by_dns(opts \\ []), do: [resolver: {Resolver.DNS, [timeout: 20_000] ++ opts}]
  defp srv(opts \\ []), do: by_dns([srv: true] ++ opts)

  test "a name is resolved, and calls arrive", %{dns: dns, target: target} do
    server = Loopback.start()
    DnsServer.put(dns, %{{"one.test", :a} => {60, [{127, 0, 0, 1}]}})
    handle = connect!(target <> "one.test:#{port(server)}", by_dns())
    await_ids(handle, [server])
    assert echo(handle, "by name") == {:ok, "by name"}
  end

  test "a service is resolved to hosts, ports and weights", %{dns: dns, target: target} do
    [a, b, c] = servers = for _ <- 1..3, do: Loopback.start()
    DnsServer.put(dns, service([{a, 3}, {b, 1}, {c, 2}]))
    handle = connect!(target <> "_grpc._tcp.test", srv())
    await_ids(handle, servers)
    backends = GrpcLb.info(handle.balancer).backends

    assert Map.new(backends, &{&1.id, &1.weight}) ==
             %{Loopback.id(a) => 3, Loopback.id(b) => 1, Loopback.id(c) => 2}

    assert Enum.map(servers, &Loopback.clients/1) == [1, 1, 1]
  end

  test "calls go to the next priority of a service while the first is down", context do
    %{dns: dns, target: target} = context
    [near, far] = servers = for _ <- 1..2, do: Loopback.start()

    records =
      for {s, priority} <- [{near, 10}, {far, 20}], do: {priority, 1, port(s), ~c"here.test"}

    DnsServer.put(dns, Map.put(service([]), {"_grpc._tcp.test", :srv}, {60, records}))
    handle = connect!(target <> "_grpc._tcp.test", srv())
    await_ids(handle, [near])
    assert Enum.map(servers, &Loopback.clients/1) == [1, 0]
    Loopback.become(near, :refuse)
    await_ids(handle, [far])
    assert echo(handle) == {:ok, "hello"}
    Loopback.become(near, :echo)
    await_ids(handle, servers)
    assert handle |> picked(4) |> Enum.uniq() == [Loopback.id(near)]
  end

  test "what DNS says anew is followed", %{dns: dns, target: target} do
    [a, b, c] = for _ <- 1..3, do: Loopback.start()
    DnsServer.put(dns, service([{a, 1}, {b, 1}]))
    handle = connect!(target <> "_grpc._tcp.test", srv())
    await_ids(handle, [a, b])
    DnsServer.put(dns, service([{c, 1}]))
    Connection.resolve_now(handle)
    await_ids(handle, [c])
    await_clients([a, b], 0)
    assert {:ok, _} = echo(handle)
  end

  test "what DNS says holds as long as its TTL, between floor and ceiling", context do
    %{dns: dns, target: target} = context
    [a, b] = for _ <- 1..2, do: Loopback.start()
    DnsServer.put(dns, service([{a, 1}], 0))
    handle = connect!(target <> "_grpc._tcp.test", srv(min_ttl: 1, max_ttl: 1))
    await_ids(handle, [a])
    DnsServer.put(dns, service([{b, 1}], 3600))
    # Nobody asks for it.
    await_ids(handle, [b])
    DnsServer.put(dns, service([{a, 1}], 3600))
    await_ids(handle, [a])
  end

  test "a name that nobody knows makes connect fail", %{target: target} do
    assert Connection.connect(target <> "none.test:1", opts(by_dns())) ==
             {:error, {:resolve, :nxdomain}}
  end

  test "a name that comes later is found by a supervised connection", context do
    %{dns: dns, target: target} = context
    server = Loopback.start()
    opts = [target: target <> "late.test:#{port(server)}"] ++ by_dns()
    {handle, _pid} = supervised!(opts)
    eventually(fn -> length(DnsServer.questions(dns)) > 0 end)
    assert Connection.pick(handle) == {:error, :no_backends}
    DnsServer.put(dns, %{{"late.test", :a} => {60, [{127, 0, 0, 1}]}})
    assert Connection.await_ready(handle) == :ok
    assert {:ok, _} = echo(handle)
  end

  test "a name server that fails leaves the backends as they were", context do
    %{dns: dns, target: target} = context
    [a, b] = for _ <- 1..2, do: Loopback.start()
    DnsServer.put(dns, service([{a, 1}]))
    handle = connect!(target <> "_grpc._tcp.test", srv())
    await_ids(handle, [a])

    for answer <- [:servfail, :refused, :nxdomain, {60, []}] do
      DnsServer.questions(dns)
      DnsServer.put(dns, %{{"_grpc._tcp.test", :srv} => answer})
      Connection.resolve_now(handle)
      eventually(fn -> length(DnsServer.questions(dns)) > 0 end)
      assert ids(handle) == [Loopback.id(a)]
      assert {:ok, _} = echo(handle)
    end

    DnsServer.put(dns, service([{b, 1}]))
    Connection.resolve_now(handle)
    await_ids(handle, [b])
  end
end
