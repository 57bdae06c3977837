defmodule GrpcLb.HeraldTest do
  # Its handlers hear what all balancers of the node tell, and look at those of their own name.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.{Clock, Herald, Native, Telemetry}
  alias GrpcLb.Test.Peer

  @moduletag :capture_log

  setup context do
    GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
    %{name: {__MODULE__, context.test}}
  end

  defp told(lb, name) do
    assert_receive {:event, event, measurements, %{name: ^name} = metadata}
    assert metadata.balancer == lb
    documented = Enum.find(Telemetry.events(), &(&1.name == event))
    assert Enum.sort(Map.keys(measurements)) == Enum.sort(Keyword.keys(documented.measurements))
    assert Enum.sort(Map.keys(metadata)) == Enum.sort(Keyword.keys(documented.metadata))
    {event, measurements, Map.drop(metadata, [:name, :balancer])}
  end

  defp nothing_told(name), do: refute_received({:event, _event, _measurements, %{name: ^name}})

  # What was decided before has been told when this returns.
  defp settle do
    :ok = Native.listen(true)
    _state = :sys.get_state(GrpcLb.Ticker)
    # One at a time is emitted.
    eventually(fn -> :sys.get_state(Herald).emitting == nil end)
    :ok
  end

  defp native(ms), do: System.convert_time_unit(ms, :millisecond, :native)

  # So many calls, of which those to this backend end so.
  defp call(lb, n, id, result),
    do: for(_ <- 1..n, do: GrpcLb.run(lb, &if(&1 == id, do: result, else: :ok)))

  test "an ejection by failures in a row, and its end", %{name: name} do
    clock = Clock.manual()
    detection = [consecutive_failures: 2, max_ejection_percent: 50, base_ejection_time: 30_000]

    {:ok, lb} =
      GrpcLb.new(:round_robin, [:a, :b, :c],
        name: name,
        clock: clock,
        outlier_detection: detection
      )

    call(lb, 6, :b, {:error, :refused})
    lasts = native(30_000)
    told = told(lb, name)

    assert told ==
             {[:grpc_lb, :backend, :ejected],
              %{duration: lasts, successes: 0, failures: 2, limit: 2.0},
              %{id: :b, rule: :consecutive_failures}}

    Clock.advance(clock, 40_000)
    lasted = native(40_000)
    assert told(lb, name) == {[:grpc_lb, :backend, :unejected], %{duration: lasted}, %{id: :b}}
    nothing_told(name)
  end

  test "an ejection by a sweep, with what it has seen", %{name: name} do
    clock = Clock.manual()
    rule = [threshold: 50, minimum_hosts: 3, request_volume: 10]

    {:ok, lb} =
      GrpcLb.new(:round_robin, [:a, :b, :c],
        name: name,
        clock: clock,
        outlier_detection: [failure_percentage: rule, consecutive_transport_failures: nil]
      )

    call(lb, 60, :c, {:error, {:transport, :closed}})
    Clock.advance(clock, 10_000)

    assert {[:grpc_lb, :backend, :ejected], %{successes: 0, failures: 20, limit: 50.0},
            %{id: :c, rule: :failure_percentage}} = told(lb, name)
  end

  test "a success rate, and the way to a backend", %{name: name} do
    rate = [stdev_factor: 1_000, minimum_hosts: 3, request_volume: 10]
    clock = Clock.manual()

    {:ok, lb} =
      GrpcLb.new(:round_robin, [:a, :b, :c, :d, :e],
        name: name,
        clock: clock,
        outlier_detection: [
          success_rate: rate,
          consecutive_transport_failures: 21,
          max_ejection_percent: 50
        ]
      )

    call(lb, 100, :e, {:error, {:transport, :closed}})
    Clock.advance(clock, 10_000)
    assert {_event, %{limit: limit}, %{id: :e, rule: :success_rate}} = told(lb, name)
    assert_in_delta limit, 0.4, 1.0e-9

    GrpcLb.configure(lb,
      outlier_detection: [consecutive_transport_failures: 1, max_ejection_percent: 50]
    )

    call(lb, 4, :a, {:error, {:transport, :closed}})
    # Its calls did not arrive either.
    assert {_event, %{failures: 20}, %{id: :e}} = told(lb, name)

    assert {[:grpc_lb, :backend, :ejected], %{limit: 1.0, failures: 1},
            %{id: :a, rule: :consecutive_transport_failures}} = told(lb, name)
  end

  test "a slow start", %{name: name} do
    clock = Clock.manual()
    {:ok, lb} = GrpcLb.new(:random, [], name: name, clock: clock, slow_start: [window: 20_000])
    GrpcLb.add(lb, [{{"any", :term}, 1}])
    # With a clock of its own nothing is told before that is moved.
    Clock.advance(clock, 10)
    window = native(20_000)
    id = {"any", :term}

    assert told(lb, name) == {[:grpc_lb, :slow_start, :entered], %{duration: window}, %{id: id}}
    Clock.advance(clock, 20_000)
    assert told(lb, name) == {[:grpc_lb, :slow_start, :left], %{}, %{id: id}}
  end

  test "a panic, also for owners that die", %{name: name} do
    owners = for _ <- 1..4, do: spawn(fn -> receive(do: (:end -> :ok)) end)
    backends = for {owner, id} <- Enum.with_index(owners), do: {id, id, owner: owner}
    {:ok, lb} = GrpcLb.new(:round_robin, backends, name: name, panic_threshold: 60)
    for id <- [0, 1], do: GrpcLb.set_state(lb, id, :transient_failure)

    assert told(lb, name) ==
             {[:grpc_lb, :panic, :entered], %{healthy: 2, backends: 4}, %{priority: nil}}

    # The dead count for nothing: two of two.
    GrpcLb.set_state(lb, 0, :ready)
    assert {[:grpc_lb, :panic, :left], %{healthy: 3, backends: 4}, _of_all} = told(lb, name)
    for owner <- Enum.drop(owners, 2), do: send(owner, :end)

    assert {[:grpc_lb, :panic, :entered], %{healthy: 1, backends: 2}, _of_all} = told(lb, name)
  end

  test "limits, together and at most once a second", %{name: name} do
    clock = Clock.manual()
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests: 1, clock: clock)
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    overloaded = fn n -> for _ <- 1..n, do: {:error, :overloaded} = GrpcLb.checkout(lb) end
    overloaded.(3)
    Clock.advance(clock, 0)
    assert told(lb, name) == {[:grpc_lb, :balancer, :overloaded], %{count: 3}, %{}}
    overloaded.(2)
    Clock.advance(clock, 999)
    settle()
    nothing_told(name)
    overloaded.(2)
    Clock.advance(clock, 1)
    assert told(lb, name) == {[:grpc_lb, :balancer, :overloaded], %{count: 4}, %{}}
    GrpcLb.complete(ticket, :ok)
  end

  test "limits of a balancer that real time drives, which has nothing to do else", %{name: name} do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests_per_backend: 0)
    {:error, :overloaded} = GrpcLb.checkout(lb)
    assert {[:grpc_lb, :balancer, :overloaded], %{count: 1}, %{}} = told(lb, name)
    for _ <- 1..10, do: {:error, :overloaded} = GrpcLb.checkout(lb)
    assert overloaded(lb, name, 10) == :all
    nothing_told(name)
  end

  # Together, unless a second is over between two of them.
  defp overloaded(_lb, _name, 0), do: :all

  defp overloaded(lb, name, left) do
    assert {[:grpc_lb, :balancer, :overloaded], %{count: count}, %{}} = told(lb, name)
    assert count in 1..left
    overloaded(lb, name, left - count)
  end

  test "it keeps no balancer" do
    assert Peer.run(Peer.start(), Peer.Heralding, :forget) == :ok
  end

  test "it goes on when it is killed, and whatever it is sent" do
    assert Peer.run(Peer.start(), Peer.Heralding, :tell_after_death) == :ok
  end

  test "it hears what those decide who are killed meanwhile" do
    assert Peer.run(Peer.start(), Peer.Heralding, :kill_who_decides) == nil
  end

  test "whatever ends it, again and again, ends nothing else" do
    assert Peer.run(Peer.start(), Peer.Heralding, :outlive) == :ok
  end

  test "names and ids that nobody can show end nothing" do
    assert Peer.run(Peer.start(), Peer.Heralding, :tell_of_unshowable) == :ok
  end

  test "a handler that hangs is ended, which is logged, and holds up no log" do
    assert {logged_meanwhile, text} = Peer.run(Peer.start(), Peer.Heralding, :hang)
    # Each of another balancer, and the ticker comes by them in its own order.
    assert Enum.sort(logged_meanwhile) == ["first", "second", "third"]

    assert text ==
             "the handlers of [:grpc_lb, :balancer, :overloaded] took longer than 5000 ms and were ended"
  end

  test "what more waits for a handler than is kept is counted" do
    assert Peer.run(Peer.start(), Peer.Heralding, :wait) == {1_025, 976}
  end

  test "a node that gets a name has the same balancers" do
    assert Peer.run(Peer.start(), Peer.Heralding, :name_node) == :ok
  end

  test "what is more than is kept is counted" do
    assert {64, 936} = Peer.run(Peer.start(), Peer.Heralding, :lose)
  end

  test "nothing is kept for nobody, and nobody is woken for it" do
    assert Peer.run(Peer.start(), Peer.Heralding, :tell_nobody) == {[], 0}
  end
end
