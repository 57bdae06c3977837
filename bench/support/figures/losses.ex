defmodule GrpcLb.Bench.Figures.Losses do
  @moduledoc false
  # Where a budget is missed, and where a peer wins: what has an interval wins with all of it.

  alias GrpcLb.Bench.{Backends, Budget}

  @doc "The budgets that are missed: what, measured, from, to, limit."
  def budgets(%{budgets: budgets}) do
    for row <- Budget.missed(budgets) do
      unit = if row.unit == "x", do: "", else: " " <> row.unit
      figures = for figure <- [row.measured, row.low, row.high], do: Budget.number(figure) <> unit
      [row.what | figures] ++ ["#{Budget.bound(row)} #{Budget.number(row.limit)}#{unit}"]
    end
  end

  @doc "The peers that win: where, who, their figure, whom of ours they beat how often, their price."
  def peers(%{sections: sections}) do
    timed(sections, [:picks, :pools, :calls]) ++
      changes(sections.reconciles) ++ others(sections.under_change) ++ core(sections.core)
  end

  defp timed(sections, names) do
    for name <- names, rows = sections[name], peers <- cases(rows), row <- peers, do: row
  end

  defp cases(rows) do
    rows
    |> Enum.chunk_by(&{&1.value, &1.backends, &1.processes})
    |> Enum.map(fn [first | _] = rows ->
      processes = Backends.count(first.processes, "process", "processes")
      title = "#{first.value}, #{Backends.count(first.backends)}, #{processes}"
      wins(title, "ns", rows, &{&1.median_ns, &1.low_ns, &1.high_ns})
    end)
  end

  defp changes(rows) do
    rows
    |> Enum.chunk_by(& &1.backends)
    |> Enum.flat_map(fn [first | _] = rows ->
      rows = for row <- rows, do: %{row | title: "#{row.title}, #{row.change}"}

      wins(
        "change of #{Backends.count(first.backends)}",
        "us",
        rows,
        &{&1.us, &1.low_us, &1.high_us}
      )
    end)
  end

  defp others(rows) do
    wins("processor time of a change", "us", rows, fn %{cpu_us: cpu} ->
      {cpu.median, cpu.low, cpu.high}
    end)
  end

  # A spread holds half of the rounds.
  defp core(rows) do
    for {{backends, threads, job}, rows} <-
          rows |> Enum.group_by(&{&1.backends, &1.threads, &1.job}) |> Enum.sort(),
        threads = Backends.count(threads, "thread", "threads"),
        title = "core, #{Backends.count(backends)}, #{threads}, #{job}",
        row <-
          wins(title, "ns", rows, fn %{ns_median: ns, spread: spread} ->
            {ns, ns - spread / 2, ns + spread / 2}
          end) do
      row
    end
  end

  defp wins(title, unit, rows, figures) do
    for %{side: "peer"} = peer <- rows,
        {median, _low, high} = figures.(peer),
        beaten =
          for(
            %{side: "ours"} = own <- rows,
            {figure, low, _high} = figures.(own),
            low > high,
            do: "#{own.title} (#{Budget.number(figure / median)}x)"
          ),
        beaten != [] do
      [
        title,
        peer.title,
        "#{Budget.number(median)} #{unit}",
        Enum.join(beaten, "; "),
        peer[:price]
      ]
    end
  end
end
