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
    random_weighted: nil,
    ring_hash_bounded: nil
  }

  # Of picks with a key, by the number of backends.
  @keyed %{100 => %{ring_hash: 3.0, maglev: 1.5}, 1000 => %{ring_hash: 4.0, maglev: 2.0}}

  # Of the table of 1,000 backends.
  @table_us 20_000.0

  # Of checkout and complete with a ticket, to `:atomics.add_get/3`.
  @calls %{round_robin: 30.0, least_request: 30.0, peak_ewma: 30.0}

  # Of the update of so many weights.
  @weights_us %{1000 => 1000.0}

  def check(picks, calls, weights, tables) do
    keyed =
      for {backends, limits} <- @keyed,
          # The base among them, too.
          rows = Enum.filter(picks, &(&1.backends == backends)),
          row <- against(rows, "pick", :native_per_scheduler, limits),
          do: row

    against(picks, "pick", :native_per_scheduler, @picks) ++
      keyed ++ against(calls, "call", :atomics, @calls) ++ updates(weights) ++ built(tables)
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

  defp built(rows) do
    for %{backends: 1000} = row <- rows do
      row("table of #{row.policy} of 1000 backends, us", row.built_us, row.best_us, @table_us)
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
