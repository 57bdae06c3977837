defmodule GrpcLb.Connection.DiscoveryTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address
  alias GrpcLb.Connection.{Discovery, Options}

  # Its target is the test, which answers every call.
  defmodule Asking do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(test, _opts) do
      send(test, {:resolving, self()})

      receive do
        {:answer, answer} -> answer
      end
    end
  end

  doctest Discovery

  @address %Address{ip: {10, 0, 0, 1}, port: 1}
  # Far longer than a test runs: what happens before it is over happens for another reason.
  @never 3_600_000

  setup do
    # As the connection's process does.
    Process.flag(:trap_exit, true)
    :ok
  end

  defp start(opts) do
    opts =
      Keyword.merge(
        [
          transport: MyApp.Transport,
          resolver: Asking,
          resolve_interval: @never,
          min_resolve_interval: @never,
          backoff: [initial: 1, max: 1]
        ],
        opts
      )

    Discovery.start(Options.new!(self(), opts))
  end

  defp answer(discovery, answer) do
    assert_receive {:resolving, worker}, 10_000
    send(worker, {:answer, answer})
    assert_receive {:resolved, ^worker, result}, 10_000
    assert {:ok, duration, discovery} = Discovery.resolved(discovery, worker, result)
    assert is_integer(duration) and duration >= 0
    discovery
  end

  defp resolution(ttl), do: {:ok, %{addresses: [@address], ttl: ttl}}

  defp tick(discovery) do
    assert_receive {:timeout, timer, :discovery}, 10_000
    Discovery.timeout(discovery, timer)
  end

  # Milliseconds until the next resolution.
  defp left(discovery), do: :erlang.read_timer(discovery.timer)

  test "resolves at once, and again after the interval" do
    discovery = start(resolve_interval: 1) |> answer(resolution(nil))
    assert discovery.phase == :idle
    discovery = tick(discovery)
    assert discovery.phase == :resolving
    answer(discovery, resolution(nil))
  end

  test "its waits after failures can begin anew" do
    discovery =
      start(backoff: [initial: 1_000_000, max: @never, jitter: 0], min_resolve_interval: 1)

    fail = &(&1 |> Discovery.request() |> tick() |> answer({:error, :no}))
    failed = discovery |> answer({:error, :no}) |> fail.()
    assert left(fail.(failed)) in 2_000_000..2_560_000
    assert left(failed |> Discovery.reset_backoff() |> fail.()) in 500_000..1_000_000
  end

  test "without an interval it waits for a reason" do
    discovery = start(resolve_interval: :infinity, min_resolve_interval: 0)
    discovery = answer(discovery, resolution(nil))
    assert discovery.timer == nil
    discovery |> Discovery.request() |> tick() |> answer(resolution(nil))
  end

  test "goes by the TTL, but for the least interval" do
    discovery = start(resolve_interval: 1, min_resolve_interval: 0) |> answer(resolution(1_000))
    assert left(discovery) in 890_000..1_100_000
    discovery = start(resolve_interval: 1, min_resolve_interval: 50_000) |> answer(resolution(1))
    assert left(discovery) in 40_000..50_000
    # A TTL of 0 is no reason to do nothing else.
    discovery = start(min_resolve_interval: 0) |> answer(resolution(0))
    assert left(discovery) in 1..1_000
    # What never changes is asked for when there is a reason to.
    discovery =
      start(resolve_interval: 1, min_resolve_interval: 0) |> answer(resolution(:infinity))

    assert discovery.timer == nil
    discovery |> Discovery.request() |> tick() |> answer(resolution(:infinity))
    # No timer takes as much.
    discovery = start([]) |> answer(resolution(Integer.pow(10, 30)))
    assert left(discovery) in 4_000_000_000..0xFFFFFFFF
  end

  test "comes up to a tenth before or after the end of the TTL, for each at another time" do
    lefts =
      for _ <- 1..50, do: start(min_resolve_interval: 0) |> answer(resolution(1_000)) |> left()

    assert Enum.all?(lefts, &(&1 in 890_000..1_100_000))
    # By chance, one in 2 ^ 50 that all are on one side.
    assert Enum.min(lefts) < 1_000_000 and Enum.max(lefts) > 1_000_000
  end

  test "a backend that fails asks for one, but does not cut the backoff short" do
    opts = [min_resolve_interval: 0, backoff: [initial: 100_000, jitter: 0, max: 1_000_000]]
    discovery = start(opts) |> answer(resolution(nil)) |> Discovery.suggest()
    assert left(discovery) == 0 or left(discovery) == false
    discovery = tick(discovery) |> answer({:error, :no})
    assert left(Discovery.suggest(discovery)) in 90_000..100_000
    # Also one that has failed meanwhile.
    discovery = Discovery.timeout(discovery, discovery.timer) |> Discovery.suggest()
    discovery = answer(discovery, {:error, :no})
    assert left(discovery) in 150_000..160_000
    # Whoever asks for it gets it.
    discovery = Discovery.request(discovery)
    assert left(discovery) in [0, false]
    # When it has answered again, what has failed meanwhile counts.
    discovery = discovery |> tick() |> Discovery.suggest()
    discovery = answer(discovery, resolution(nil))
    assert left(discovery) in [0, false]
    # And not for ever.
    discovery = tick(discovery) |> answer(resolution(nil))
    assert left(discovery) > 3_000_000
  end

  test "a worker that ends with what it watches is started again, and that is no failure" do
    for reason <- [:shutdown, {:shutdown, :watch_ended}] do
      discovery = start(min_resolve_interval: 50_000) |> answer(resolution(nil))
      worker = discovery.worker
      Process.exit(worker, :kill)
      assert_receive {:EXIT, ^worker, :killed}, 10_000
      assert {:again, discovery} = Discovery.ended(discovery, worker, reason)
      # Whatever it resolves, it is not started again all the time.
      assert left(discovery) in 40_000..50_000
      assert Discovery.suggest(discovery) == discovery
      discovery = Discovery.timeout(discovery, discovery.timer) |> answer(resolution(nil))
      assert discovery.worker != worker
    end

    discovery = start([]) |> answer(resolution(nil))
    worker = discovery.worker
    assert {:ok, :crash, 0, _discovery} = Discovery.ended(discovery, worker, {:shutdown, :crash})
    Process.exit(worker, :kill)
  end

  test "a fuller result says anew when the next one is due" do
    discovery = start(min_resolve_interval: 0) |> answer(resolution(50))
    assert left(discovery) in 35_000..55_000
    {:ok, discovery} = Discovery.completed(discovery, discovery.worker, resolution(1_000))
    assert left(discovery) in 890_000..1_100_000
    assert discovery.phase == :idle
    assert Discovery.completed(discovery, self(), resolution(1)) == :stale
    # While another one is under way that one says it.
    discovery = Discovery.timeout(discovery, discovery.timer)
    assert {:ok, ^discovery} = Discovery.completed(discovery, discovery.worker, resolution(1))
  end

  test "a fuller result does not put off one that was asked for" do
    for ask <- [&Discovery.request/1, &Discovery.suggest/1] do
      discovery = start(min_resolve_interval: 50_000) |> answer(resolution(5)) |> ask.()
      {:ok, discovery} = Discovery.completed(discovery, discovery.worker, resolution(1_000))
      assert left(discovery) in 40_000..50_000
      # Only once.
      discovery = Discovery.timeout(discovery, discovery.timer) |> answer(resolution(1_000))
      assert left(discovery) in 890_000..1_100_000
    end
  end

  test "nor does one that is none" do
    opts = [min_resolve_interval: 50_000, backoff: [initial: @never, max: @never]]
    discovery = start(opts) |> answer(resolution(nil)) |> Discovery.request()
    {:ok, discovery} = Discovery.completed(discovery, discovery.worker, {:error, :no})
    assert left(discovery) in 40_000..50_000
  end

  test "nor does it where it has been asked for during the first result" do
    discovery = start(min_resolve_interval: 50_000, resolve_interval: 20_000)
    discovery = discovery |> Discovery.request() |> answer(resolution(nil))
    assert left(discovery) in 10_000..20_000
    {:ok, discovery} = Discovery.completed(discovery, discovery.worker, resolution(1_000))
    assert left(discovery) in 40_000..50_000
  end

  test "nor does it where the first result has failed" do
    opts = [min_resolve_interval: 50_000, backoff: [initial: @never, max: @never]]

    for first <- [{:error, :no}, {:ok, %{addresses: [], ttl: 5, unknown: [%{}]}}] do
      discovery = start(opts) |> Discovery.request() |> answer(first)
      {:ok, discovery} = Discovery.completed(discovery, discovery.worker, resolution(1_000))
      assert left(discovery) in 40_000..50_000
    end
  end

  test "what an answer leaves out is held for two TTLs, or as the option says" do
    options = &Options.new!("a.example", [transport: MyApp.Transport] ++ &1)
    now = System.monotonic_time(:millisecond)

    for {opts, ttl, source, ms} <- [
          {[], 30, :resolved, 60_000},
          {[], 1, :resolved, 10_000},
          {[min_resolve_interval: 0], 0, :resolved, 2_000},
          {[], Integer.pow(10, 30), :resolved, 2 * 0xFFFFFFFF},
          {[], nil, :resolved, nil},
          {[], :infinity, :resolved, nil},
          {[], 30, :pushed, nil},
          {[hold_obsolete: 0], 30, :resolved, nil},
          {[hold_obsolete: 7_000], 30, :resolved, 7_000},
          {[hold_obsolete: 7_000], nil, :resolved, 7_000},
          {[hold_obsolete: 7_000], :infinity, :pushed, 7_000}
        ] do
      until = Discovery.hold_until(options.(opts), {:ok, %{addresses: [], ttl: ttl}}, source)
      if ms, do: assert((until - now) in ms..(ms + 10_000)), else: assert(until == nil)
    end
  end

  test "is asked for as often as one likes, and done once the least interval is over" do
    discovery = start(min_resolve_interval: 50_000) |> answer(resolution(nil))
    assert left(discovery) > 3_000_000
    asked = Enum.reduce(1..10, discovery, fn _, discovery -> Discovery.request(discovery) end)
    assert left(asked) in 40_000..50_000
    refute_received {:timeout, _timer, :discovery}
    # The timers of before have been stopped.
    assert :erlang.read_timer(discovery.timer) == false
  end

  test "asked for meanwhile it is done once more" do
    discovery = start(min_resolve_interval: 1) |> Discovery.request() |> Discovery.request()
    discovery = discovery |> answer(resolution(nil)) |> tick() |> answer(resolution(nil))
    assert left(discovery) > 3_000_000
  end

  test "asked for meanwhile it is done as soon when it fails" do
    discovery = start(min_resolve_interval: 50_000, backoff: [initial: @never, max: @never])
    discovery = discovery |> Discovery.request() |> answer({:error, :no})
    assert left(discovery) in 40_000..50_000
    # Only once.
    discovery = Discovery.timeout(discovery, discovery.timer) |> answer({:error, :no})
    assert left(discovery) > 2_000_000
  end

  test "asked for while the worker is restarted, or when it was killed, it is done as soon" do
    opts = [min_resolve_interval: 50_000, backoff: [initial: @never, max: @never]]

    for asked <- [:before, :after] do
      discovery = start(opts)
      discovery = if asked == :before, do: Discovery.request(discovery), else: discovery
      assert_receive {:resolving, worker}, 10_000
      {:ok, :killed, _duration, discovery} = Discovery.ended(discovery, worker, :killed)
      discovery = if asked == :after, do: Discovery.request(discovery), else: discovery
      assert left(discovery) in 40_000..50_000
      Process.exit(worker, :kill)
    end
  end

  test "a worker that dies while it has nothing to do has not taken long" do
    discovery = start([]) |> answer(resolution(nil))
    worker = discovery.worker
    Process.exit(worker, :kill)
    assert_receive {:EXIT, ^worker, reason}, 10_000
    assert {:ok, :killed, 0, _discovery} = Discovery.ended(discovery, worker, reason)
  end

  test "is not put off by being asked for" do
    discovery = start(resolve_interval: 10_000, min_resolve_interval: 50_000)
    discovery = answer(discovery, resolution(nil))
    assert left(Discovery.request(discovery)) in 1..10_000
  end

  test "failed or empty, it is tried again after a backoff that grows until it succeeds" do
    opts = [backoff: [initial: 100_000, multiplier: 2, jitter: 0, max: 1_000_000]]
    discovery = start(opts) |> answer({:error, :no})
    assert left(discovery) in 90_000..100_000

    for {ms, result} <- [{200_000, {:ok, %{addresses: [], ttl: 1}}}, {400_000, {:error, :no}}],
        reduce: discovery do
      discovery ->
        discovery = Discovery.timeout(discovery, discovery.timer) |> answer(result)
        assert left(discovery) in (ms - 10_000)..ms
        discovery
    end

    discovery = Discovery.timeout(discovery, discovery.timer) |> answer(resolution(nil))
    discovery = Discovery.timeout(discovery, discovery.timer) |> answer({:error, :no})
    assert left(discovery) in 90_000..100_000
  end

  test "a worker that dies is replaced after a backoff" do
    discovery = start([])
    assert_receive {:resolving, worker}, 10_000
    Process.exit(worker, :kill)
    assert_receive {:EXIT, ^worker, reason}, 10_000
    assert {:ok, :killed, _duration, discovery} = Discovery.ended(discovery, worker, reason)
    assert discovery.worker == nil
    # Nobody resolves now, and somebody will: there is nothing to hurry.
    assert Discovery.request(discovery) == %{discovery | again: :anyway}
    discovery = discovery |> tick() |> answer(resolution(nil))
    assert discovery.worker != worker
    assert Discovery.ended(discovery, worker, :killed) == :other
    assert Discovery.ended(discovery, self(), :killed) == :other
  end

  test "a worker that takes too long is replaced" do
    discovery = start(connect_timeout: 1)
    assert_receive {:resolving, worker}, 10_000
    discovery = tick(discovery)
    assert_receive {:EXIT, ^worker, reason}, 10_000
    assert {:ok, :timeout, _duration, discovery} = Discovery.ended(discovery, worker, reason)
    discovery = tick(discovery)
    assert_receive {:resolving, second}, 10_000
    assert second != worker
    # What the first one had sent before it died is not taken for an answer.
    assert Discovery.resolved(discovery, worker, resolution(nil)) == :stale
  end

  test "timers that were stopped too late do nothing" do
    discovery = start([]) |> answer(resolution(nil))
    assert Discovery.timeout(discovery, make_ref()) == discovery
  end

  test "stops with its worker" do
    discovery = start([])
    worker = discovery.worker
    Discovery.stop(discovery)
    assert_receive {:EXIT, ^worker, :killed}, 10_000
    {:ok, _reason, _duration, discovery} = Discovery.ended(discovery, worker, :killed)
    assert Discovery.stop(discovery)
  end
end
