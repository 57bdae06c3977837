defmodule GrpcLb.Bench.Weights do
  @moduledoc false
  # The time of the tick that brings the weights of a balancer up to date, by number of backends:
  # each of them has reported another load since the last one, so the schedule is built anew.

  alias GrpcLb.Bench.Stats

  # The shortest there is.
  @period_ms 100
  @policy {:weighted_round_robin,
           weights: :reported,
           reports: :out_of_band,
           blackout_period: 0,
           weight_update_period: @period_ms}

  @doc "A row a number of backends."
  def measure(counts, rounds) do
    # What it would do is to be timed here.
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, GrpcLb.Ticker)
    rows = Enum.map(counts, &row(&1, rounds))
    {:ok, _ticker} = Supervisor.restart_child(GrpcLb.Supervisor, GrpcLb.Ticker)
    rows
  end

  defp row(count, rounds) do
    {:ok, balancer} = GrpcLb.new(@policy, Enum.to_list(1..count))
    times = for round <- 1..rounds, do: tick(balancer, count, round)
    check!(balancer, count, rounds)
    GrpcLb.close(balancer)
    %{backends: count, min_us: Enum.min(times) / 1000, median_us: Stats.median(times) / 1000}
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
