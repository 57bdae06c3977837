defmodule GrpcLb.Connection.FailoverTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.{Address, Connection}
  alias GrpcLb.Connection.Failover
  alias GrpcLb.Test.{Loopback, ScriptedTransport}

  doctest Failover

  defp address(priority, last \\ 1),
    do: %Address{ip: {10, 0, priority, last}, port: 1, priority: priority}

  defp new(addresses, timeout \\ 10_000),
    do: Failover.resolved(%Failover{timeout: timeout}, addresses)

  defp known(addresses, state, error \\ nil) do
    for address <- addresses,
        do: %{id: Address.id(address), address: address, state: state, error: error}
  end

  # The priorities that are connected to.
  defp look(failover, known, now) do
    {addresses, due, failover} = Failover.look(failover, known, now)
    {addresses |> Enum.map(& &1.priority) |> Enum.uniq(), due, failover}
  end

  describe "look/3" do
    test "knows a backend whose id has a host's name behind it" do
      addresses = [near, _far] = [%{address(0) | host: "b"}, address(1)]
      up = [%{id: "10.0.0.1:1/b", address: near, state: :up, error: nil}]
      assert {[0], :infinity, failover} = look(new(addresses), up, 0)
      assert {[0], :infinity, _failover} = look(failover, up, 100_000)
    end

    test "goes to the next priority when all of one have failed, at once" do
      [a, b, c] = addresses = [address(0, 1), address(0, 2), address(1)]
      {[0], 10_000, failover} = look(new(addresses), [], 0)
      one_opens = known([a], :backoff, :no) ++ known([b], :opening)
      {[0], 9_000, failover} = look(failover, one_opens, 1_000)
      {[0], 8_000, failover} = look(failover, one_opens, 2_000)
      both_failed = known([a, b], :backoff, :no)
      {[0, 1], 10_000, failover} = look(failover, both_failed, 3_000)
      # Another attempt does not count as long as it lasts.
      tried_again = known([a, b], :opening, :no) ++ known([c], :up)
      {[0, 1], :infinity, _failover} = look(failover, tried_again, 4_000)
    end

    test "goes to the next priority when one has had its time, from when it is connected to" do
      [a, b, _c] = addresses = [address(3), address(5), address(9)]
      {[3], 10_000, failover} = look(new(addresses), [], 100)
      {[3], 1, failover} = look(failover, known([a], :opening), 10_099)
      {[3, 5], 10_000, failover} = look(failover, known([a], :opening), 10_100)
      {[3, 5], 1, failover} = look(failover, known([a, b], :opening), 20_099)
      {[3, 5, 9], 10_000, failover} = look(failover, known([a, b], :opening), 20_100)
      up = known([b], :up) ++ known([a], :opening)
      {[3, 5, 9], 900_000, failover} = look(failover, up, 20_200)
      {[3, 5], :infinity, _failover} = look(failover, up, 920_200)
    end

    test "keeps one that is not needed for 15 minutes" do
      [a, b] = addresses = [address(0), address(1)]
      {[0], _due, failover} = look(new(addresses), [], 0)
      {[0, 1], _due, failover} = look(failover, known([a], :backoff, :no), 1)

      {[0, 1], :infinity, failover} =
        look(failover, known([a], :backoff, :no) ++ known([b], :up), 2)

      both = known([a, b], :up)
      {[0, 1], 900_000, failover} = look(failover, both, 1_000)
      {[0, 1], 1, failover} = look(failover, both, 900_999)
      # Needed again: all of the time starts anew.
      lost = known([a], :opening, :lost) ++ known([b], :up)
      {[0, 1], :infinity, failover} = look(failover, lost, 900_999)
      {[0, 1], 900_000, failover} = look(failover, both, 901_000)
      {[0], :infinity, failover} = look(failover, both, 1_801_000)
      # What drains is known for a while.
      {[0], :infinity, _failover} =
        look(failover, known([a], :up) ++ known([b], :draining), 1_801_001)
    end

    test "has what is connected to already taken over" do
      addresses = [address(0), address(1)]
      failover = Failover.adopt(%Failover{timeout: 10_000}, addresses)
      assert failover.given == addresses
      assert Map.keys(failover.connected) == [0, 1]
    end

    test "looks at nobody who is not wanted any more" do
      {[0], _due, failover} = look(new([address(0), address(1)]), [], 0)
      left = known([address(0, 9)], :draining)
      {[0, 1], _due, _failover} = look(failover, left ++ known([address(0)], :backoff, :no), 1)
    end

    test "connects to all at once with a timeout of 0" do
      assert {[0, 1, 2], :infinity, _failover} =
               look(new(for(p <- 0..2, do: address(p)), 0), [], 0)
    end
  end

  defp with_priority(server, priority), do: %{Loopback.address(server) | priority: priority}

  test "a connection dials the next priority when the first is lost, and goes back" do
    [near, far] = servers = [Loopback.start(), Loopback.start()]

    {handle, _names} =
      connect_scripted!(for {s, p} <- Enum.with_index(servers), do: with_priority(s, p))

    await_ids(handle, [near])
    assert Loopback.clients(far) == 0
    assert %{backends: [%{state: :up}]} = Connection.info(handle)

    Loopback.become(near, :refuse)
    await_ids(handle, [far])
    assert picked(handle, 2) == [Loopback.id(far), Loopback.id(far)]

    Loopback.become(near, :echo)
    await_ids(handle, [near, far])
    assert picked(handle, 4) == List.duplicate(Loopback.id(near), 4)
    # The spare stays open for a while.
    await_clients([near, far], 1)
  end

  test "connect/2 tries all priorities before it gives up" do
    [gone, here] = [Loopback.start(:refuse), Loopback.start()]
    {handle, _names} = connect_scripted!([with_priority(gone, 0), with_priority(here, 1)])
    assert picked(handle, 1) == [Loopback.id(here)]
  end

  test "the timeout is a connection's option, and what comes after it is dialled" do
    [near, far] = [address(0), address(1)]

    start_supervised!(
      {Connection,
       opts(
         target: {:static, [near, far]},
         transport: {ScriptedTransport, self()},
         failover_timeout: 20,
         name: :failover_timeout
       )}
    )

    stalled = ScriptedTransport.opening(Address.id(near))
    ScriptedTransport.let_open(Address.id(far))
    handle = Connection.handle!(:failover_timeout)
    await_ids(handle, [Address.id(far)])
    ScriptedTransport.answer(stalled, fn -> {:ok, Address.id(near)} end)
    await_ids(handle, [Address.id(near), Address.id(far)])
    assert {:ok, "10.0.0.1:1"} = Connection.pick(handle)
  end

  test "with an overprovisioning factor all priorities are dialled" do
    [near, far] = servers = [Loopback.start(), Loopback.start()]
    addresses = for {s, p} <- Enum.with_index(servers), do: with_priority(s, p)
    {handle, _names} = connect_scripted!(addresses, overprovisioning_factor: 140)
    await_ids(handle, [near, far])
    assert picked(handle, 4) == List.duplicate(Loopback.id(near), 4)
  end

  test "with it a priority that loses transports loses its share step by step" do
    servers = for _ <- 1..8, do: Loopback.start()
    {near, far} = Enum.split(servers, 4)
    addresses = for {s, i} <- Enum.with_index(servers), do: with_priority(s, div(i, 4))
    {handle, _names} = connect_scripted!(addresses, overprovisioning_factor: 140)
    await_ids(handle, servers)
    ids = Enum.map(near, &Loopback.id/1)
    near_of = fn n -> handle |> picked(n) |> Enum.count(&(&1 in ids)) end
    assert near_of.(100) == 100

    for {gone, percent} <- Enum.zip(near, [100, 70, 35, 0]) do
      Loopback.become(gone, :refuse)
      eventually(fn -> Loopback.id(gone) not in ids(handle) end)
      assert near_of.(100) == percent
    end

    Loopback.become(hd(near), :echo)
    await_ids(handle, [hd(near) | far])
    assert near_of.(100) == 35
  end

  test "a server that is started anew leaves the spares open" do
    [near, far] = servers = [Loopback.start(:refuse), Loopback.start()]

    {handle, _names} =
      connect_scripted!(for {s, p} <- Enum.with_index(servers), do: with_priority(s, p))

    await_ids(handle, [far])
    before = server(handle)
    Process.exit(before, :kill)
    restarted(handle, before)
    assert picked(handle, 2) == [Loopback.id(far), Loopback.id(far)]
    Loopback.become(near, :echo)
    await_ids(handle, [near, far])
    assert Loopback.clients(far) == 1
  end

  test "localities of addresses share the calls" do
    servers = for _ <- 1..2, do: Loopback.start()
    [a, b] = Enum.map(servers, &Loopback.address/1)
    addresses = [%{a | locality: "a"}, %{b | locality: "b"}]
    {handle, _names} = connect_scripted!(addresses, locality_weights: %{"a" => 3})
    await_ids(handle, servers)

    assert handle |> picked(400) |> Enum.frequencies() |> Map.values() |> Enum.sort() == [
             100,
             300
           ]
  end
end
