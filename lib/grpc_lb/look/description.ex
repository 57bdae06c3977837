defmodule GrpcLb.Look.Description do
  # A balancer as a block of text, and what the heads of all such blocks are made of.
  @moduledoc false

  alias GrpcLb.Look.{Columns, Rows, Sample, Shown}

  @doc "The block of `GrpcLb.describe/1`."
  @spec block(Sample.t(), columns :: pos_integer(), styled :: boolean()) :: iodata()
  def block(sample, columns, styled) do
    rows = Rows.between(nil, sample)
    table = table(rows, "picks", columns, styled)
    table = if rows == [], do: [], else: ["" | table]
    lines = [title(sample) | facts(sample)] ++ table ++ left_out(sample)
    for line <- lines, do: [line, ?\n]
  end

  defp left_out(%{left_out: 0}), do: []
  defp left_out(%{left_out: count}), do: ["and #{count} more"]

  @doc "Which balancer it is."
  @spec title(Sample.t()) :: String.t()
  def title(%{balancer: balancer, totals: totals}) do
    backends = if balancer.closed, do: "closed", else: states(totals.states)
    name = if balancer.name, do: " #{balancer.name}", else: ""
    Enum.join(["balancer #{balancer.number}#{name}", balancer.policy, backends], "  ")
  end

  @states [:ready, :ejected, :down, :transient_failure, :connecting, :draining, :unused]

  defp states(counts) when counts == %{}, do: "no backends"

  defp states(counts) do
    Enum.map_join(Enum.filter(@states, &is_map_key(counts, &1)), ", ", fn state ->
      "#{counts[state]} #{state |> Atom.to_string() |> String.replace("_", " ")}"
    end)
  end

  @doc "What is to be said of it beside its backends, a line each."
  @spec facts(Sample.t()) :: [String.t()]
  def facts(sample) do
    Enum.concat([
      [general(sample)],
      if(sample.table, do: [table_size(sample.table)], else: []),
      if(plain?(sample.layers), do: [], else: Enum.map(sample.layers, &layer/1))
    ])
  end

  defp general(sample) do
    %{in_flight: in_flight, oldest_in_flight: oldest} = sample.totals
    malformed = sample.malformed_reports

    [
      sample.balancer.owner && "owner #{sample.balancer.owner}",
      "generation #{sample.generation}",
      "#{in_flight} in flight" <>
        if(oldest, do: ", the oldest for #{Shown.ms(oldest)}", else: ""),
      malformed > 0 && "#{malformed} malformed load reports",
      plain?(sample.layers) and Enum.any?(sample.layers, & &1.panics) && "PANIC"
    ]
    |> Enum.filter(& &1)
    |> Enum.join("  ")
  end

  defp table_size(%{entries: entries, bytes: bytes}),
    do: "table of #{entries} entries in #{Shown.number(bytes)} bytes"

  # One locality of one priority needs no line.
  defp plain?([]), do: true
  defp plain?([%{locality: nil}]), do: true
  defp plain?(_layers), do: false

  defp layer(layer) do
    locality = if layer.locality, do: " #{layer.locality}", else: ""
    panic = if layer.panics, do: "  PANIC", else: ""

    "priority #{layer.priority}#{locality}: #{layer.healthy} of #{layer.backends} healthy, " <>
      "#{Shown.percent(layer.share)} of picks#{panic}"
  end

  @doc "The lines of a table of backends, titles first. `picks` is what is counted of them."
  @spec table([Rows.row()], String.t(), pos_integer(), boolean()) :: [iodata()]
  def table(rows, picks, columns, styled) do
    columns_of = [
      {"backend", :left, 10},
      {"state", :left, 10},
      {"weight", :right, 6},
      {"share", :right, 5},
      {"", :left, 6},
      {picks, :right, 7},
      {"busy", :right, 4},
      {"latency", :right, 7},
      {"fails", :right, 5}
    ]

    bar = if columns >= 120, do: 24, else: 6
    Columns.lines(columns_of, Enum.map(rows, &cells(&1, bar)), columns, styled)
  end

  defp cells(row, bar) do
    share = Shown.percent(row.share)

    [
      row.id,
      {%{good: :green, waiting: :yellow, bad: :red}[row.tone], row.state},
      row.weight,
      if(row.measured, do: share, else: {:faint, "~" <> share}),
      {:cyan, bar(row.share, bar)},
      Shown.number(row.picks),
      Integer.to_string(row.in_flight),
      Shown.ns(row.latency_ns),
      failures(row)
    ]
  end

  defp failures(%{fails: true} = row), do: {:red, Shown.number(row.failures)}
  defp failures(row), do: Shown.number(row.failures)

  @eighths ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]

  defp bar(share, columns) do
    eighths = round(min(share, 1.0) * columns * 8)
    String.duplicate("█", div(eighths, 8)) <> Enum.at(@eighths, rem(eighths, 8))
  end
end
