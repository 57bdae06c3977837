defmodule GrpcLb.Bench.Parts.Weights do
  @moduledoc false
  # The time of the tick that brings the weights of a balancer up to date, by number of backends:
  # each of them has reported another load since the last one, so the schedule is built anew.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Budget, Settle, Stats}

  # The shortest there is.
  @period_ms 100
  @policy {:weighted_round_robin,
           weights: :reported,
           reports: :out_of_band,
           blackout_period: 0,
           weight_update_period: @period_ms}

  # Of the update of so many weights.
  @limits %{1000 => 1000.0}

  @impl true
  def measure(plan) do
    # What it would do is to be timed here.
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, GrpcLb.Ticker)
    measured = Enum.map(plan.weights_sizes, &measure(&1, plan.seconds))
    {:ok, _ticker} = Supervisor.restart_child(GrpcLb.Supervisor, GrpcLb.Ticker)
    {rows, budgets} = Enum.unzip(measured)
    {rows, Enum.concat(budgets)}
  end

  @impl true
  def tables(rows) do
    [
      {"update of weights by load reports", ["backends", "us", "from", "to"],
       for(row <- rows, do: [row.backends, row.us, row.low_us, row.high_us])}
    ]
  end

  defp measure(count, seconds) do
    {:ok, balancer} = GrpcLb.new(@policy, Enum.to_list(1..count))
    budget = %Budget{what: "update of #{count} weights", limit: @limits[count], unit: "us"}
    rounds = :counters.new(1, [])

    observe = fn ->
      :counters.add(rounds, 1, 1)
      tick(balancer, count, :counters.get(rounds, 1)) / 1000
    end

    {times, budgets} = Settle.observe(observe, [{budget, & &1}], seconds)
    check!(balancer, count, length(times))
    GrpcLb.close(balancer)
    us = Stats.interval(times)
    {%{backends: count, us: us.median, low_us: us.low, high_us: us.high}, budgets}
  end

  defp tick(balancer, count, round) do
    for id <- 1..count, do: :ok = GrpcLb.report(balancer, id, report(id, round))
    Process.sleep(@period_ms + 1)
    from = System.monotonic_time(:nanosecond)
    _next = GrpcLb.Native.tick()
    System.monotonic_time(:nanosecond) - from
  end

  defp report(id, round), do: %{rps_fractional: id + round / 1, application_utilization: 0.5}

  defp check!(balancer, count, rounds) do
    weights = for backend <- GrpcLb.info(balancer).backends, do: backend.current_weight
    ^weights = for id <- 1..count, do: (id + rounds / 1) / 0.5
  end
end
