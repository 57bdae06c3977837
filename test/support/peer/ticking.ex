defmodule GrpcLb.Test.Peer.Ticking do
  @moduledoc "What tests of the ticker and of clocks have done in a VM of its own, where nobody else's time passes."

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  @doc "Has a backend ejected. Waits until it is, which is the ticker's work."
  def eject do
    {:ok, lb} = balancer()
    {:ok, _value, ticket} = GrpcLb.checkout(lb)
    :ok = GrpcLb.complete(ticket, {:error, :failed})
    eventually(fn -> Enum.any?(GrpcLb.info(lb).backends, &(&1.times_ejected == 1)) end)
  end

  @doc "Kills the ticker, waits for the next one, and sees that it works."
  def eject_after_death do
    # What dies here is meant to.
    :logger.set_primary_config(:level, :none)
    ticker = Process.whereis(GrpcLb.Ticker)
    {:ok, lb} = balancer()
    kill([ticker])
    # A failure that may fall into the time in which there is none.
    {:ok, _value, ticket} = GrpcLb.checkout(lb)
    :ok = GrpcLb.complete(ticket, {:error, :failed})
    eventually(fn -> Enum.any?(GrpcLb.info(lb).backends, &(&1.times_ejected == 1)) end)
    eventually(fn -> Process.whereis(GrpcLb.Ticker) not in [nil, ticker] end)
    eject()
  end

  @doc "Sends the ticker what nobody should, and sees that it works on."
  def eject_among_strange_messages do
    ticker = Process.whereis(GrpcLb.Ticker)
    for message <- [:tick, nil, {:DOWN, 1}, "x"], do: send(ticker, message)
    :ok = eject()
    true = ticker == Process.whereis(GrpcLb.Ticker)
    :ok
  end

  @doc """
  Has a backend of each of many balancers ejected, in turns. Returns how many turns were over before the
  work was done.
  """
  def eject_in_turns(n) do
    # Its work is done here.
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, GrpcLb.Ticker)

    balancers =
      for _ <- 1..n do
        {:ok, lb} = balancer()
        {:ok, _value, ticket} = GrpcLb.checkout(lb)
        :ok = GrpcLb.complete(ticket, {:error, :failed})
        lb
      end

    turns = Enum.find_index(Stream.repeatedly(&GrpcLb.Native.tick/0), &(&1 != 0))

    ejected =
      Enum.count(
        balancers,
        &Enum.any?(GrpcLb.info(&1).backends, fn b -> b.times_ejected == 1 end)
      )

    {:ok, _ticker} = Supervisor.restart_child(GrpcLb.Supervisor, GrpcLb.Ticker)
    {turns, ejected}
  end

  @doc "Makes and forgets balancers with work that time drives, while that work is done."
  def forget do
    {pid, monitor} =
      spawn_monitor(fn ->
        for _ <- 1..200 do
          {:ok, lb} = balancer(interval: 1)
          {:ok, _value, ticket} = GrpcLb.checkout(lb)
          GrpcLb.complete(ticket, {:error, :failed})
        end
      end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end

    none = %{balancers: 0, snapshots: 0, tickets: 0}
    eventually(fn -> Map.take(GrpcLb.Native.live_counts(), Map.keys(none)) == none end)
    # And there is nothing to wait for.
    eventually(fn -> GrpcLb.Native.tick() == :infinity end)
  end

  @doc "A clock that does not move knows balancers that are gone. Their names are gone with them."
  def forget_names do
    clock = GrpcLb.Clock.manual()

    {pid, monitor} =
      spawn_monitor(fn ->
        for n <- 1..10 do
          opts = [name: %{number: n}, clock: clock, outlier_detection: [consecutive_failures: 1]]
          {:ok, _lb} = GrpcLb.new(:round_robin, [:a], opts)
        end
      end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end

    eventually(fn -> GrpcLb.Native.live_counts().values == 0 end)
    GrpcLb.Clock.advance(clock, 1)
  end

  @doc "How long there is nothing to do, for balancers with and without work that time drives."
  def waits do
    idle = GrpcLb.Native.tick()
    {:ok, plain} = GrpcLb.new(:least_request, [:a], max_requests: 1, panic_threshold: 1)
    still_idle = GrpcLb.Native.tick()
    {:ok, timed} = balancer(interval: 3_600_000)
    busy = GrpcLb.Native.tick()
    # They live until here.
    for lb <- [plain, timed], do: GrpcLb.close(lb)
    {idle, still_idle, busy}
  end

  @doc "Makes a balancer whose work is due as late as an option can say."
  def wait_long do
    ticker = Process.whereis(GrpcLb.Ticker)
    {:ok, lb} = balancer(interval: 0xFFFFFFFF)
    ms = GrpcLb.Native.tick()
    # It has looked, and waits.
    send(ticker, :tick_due)
    _state = :sys.get_state(ticker)
    GrpcLb.close(lb)
    {ms, ticker == Process.whereis(GrpcLb.Ticker)}
  end

  defp balancer(opts \\ []) do
    opts = Keyword.merge([consecutive_failures: 1, interval: 3_600_000], opts)
    GrpcLb.new(:round_robin, [:a, :b], outlier_detection: opts)
  end

  @doc "Has a clock moved in more than a thousand turns. Says by how many bytes processes have grown meanwhile."
  def grown_by_moving do
    clock = GrpcLb.Clock.manual()
    opts = [clock: clock, outlier_detection: [interval: 1]]
    {:ok, lb} = GrpcLb.new(:random, [:a], opts)
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    before = :erlang.memory(:processes)
    mover = spawn(fn -> GrpcLb.Clock.advance(clock, 0xFFFFFFFF) end)
    # There are some ten thousand sweeps in a turn.
    eventually(fn ->
      [%{in_flight: 1, oldest_in_flight: ms}] = GrpcLb.info(lb).backends
      ms > 20_000_000
    end)

    grown = :erlang.memory(:processes) - before
    Process.exit(mover, :kill)
    :ok = GrpcLb.complete(ticket, :ok)
    grown
  end
end
