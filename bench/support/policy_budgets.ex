defmodule GrpcLb.Bench.PolicyBudgets do
  @moduledoc false
  # The limits of picks by weight or load, of calls, and of weights that are brought up to date, as
  # `GrpcLb.Bench.Budgets` has those of others.

  # Of picks, to that of round_robin.
  @picks %{
    least_request: 1.5,
    least_request_loaded: 1.5,
    weighted_equal: 1.5,
    weighted: 1.5,
    peak_ewma: 2.0,
    peak_ewma_loaded: 2.0,
    random_weighted: nil
  }

  # Of checkout and complete with a ticket, to `:atomics.add_get/3`.
  @calls %{round_robin: 30.0, least_request: 30.0, peak_ewma: 30.0}

  # Of the update of so many weights.
  @weights_us %{1000 => 1000.0}

  def check(picks, calls, weights) do
    against(picks, "pick", :native_per_scheduler, @picks) ++
      against(calls, "call", :atomics, @calls) ++ updates(weights)
  end

  # The same by many processes is shown, and has no limit: what it is to is a line that all write.
  defp against(rows, what, base_key, limits) do
    for %{processes: 1} = own <- rows, is_map_key(limits, own.contender) do
      base = Enum.find(rows, &(key(&1) == %{key(own) | contender: base_key}))
      what = "#{what}, #{own.backends} backends: #{own.title} / #{base.title}"
      row(what, own.against[base_key], own.min_ns / base.min_ns, limits[own.contender])
    end
  end

  defp updates(rows) do
    for row <- rows do
      what = "update of #{row.backends} weights, us"
      row(what, row.median_us, row.min_us, @weights_us[row.backends])
    end
  end

  defp row(what, measured, best, limit) do
    %{
      what: what,
      measured: measured,
      measured_best: best,
      bound: "at most",
      limit: limit,
      aim: nil,
      met: if(limit, do: measured <= limit)
    }
  end

  defp key(row), do: Map.take(row, [:backends, :processes, :contender])
end
