defmodule GrpcLb.Bench.Figures.Report do
  @moduledoc false
  # A run in Markdown: what README shows of it, and all of it.

  alias GrpcLb.Bench.{Budget, Sections, Table}
  alias GrpcLb.Bench.Figures.{Charts, Losses, Markdown}

  @charts "guides/assets/bench"
  @page "guides/performance.md"

  def charts, do: @charts
  def page, do: @page

  @doc "The part of README: a summary, the charts, and where this library loses."
  def summary(results) do
    [
      [measured(results), "\n"],
      [
        "Nanoseconds a pick, one process, 5 backends, the medians; a channel is a struct of ",
        "#{results.channel_words} words, shaped as elixir-grpc's.\n"
      ],
      picks(results.sections.picks),
      "To elixir-grpc's way, with 1, 5 and 100 channels, one process:\n",
      to_ets(results.sections.picks),
      "A pool, by name, as ratios to `Registry` + `Enum.random`:\n",
      pools(results.sections.pools),
      Enum.map_intersperse(Charts.all(results), "\n", fn {file, alt, _svg} ->
        "![#{alt}](#{@charts}/#{file})\n"
      end),
      Enum.map(Sections.tables(:core, results.sections.core), &table/1),
      "### Where we lose\n",
      missed(results),
      beaten(
        results,
        &(&1 in ["pid, 5 backends, 1 process", "channel, 5 backends, 1 process"] or
            &1 =~
              ~r/^pid, 10 backends, 1 process|^change of (5|1000) b|^processor|^core, 100 backends, 1 thread/)
      ),
      "All cases, and all other figures, are in `#{@page}`.\n"
    ]
    |> paragraphs()
  end

  @doc "All tables of the run."
  def full(results) do
    tables =
      for name <- Sections.names(), rows = results.sections[name] do
        for table <- Sections.tables(name, rows), do: table(table)
      end

    [
      "# Performance\n",
      "`make bench figures` writes this page. #{measured(results)}",
      explanation(results),
      "## Budgets\n",
      budgets(results),
      "## Where we lose\n",
      missed(results),
      beaten(results, fn _case -> true end),
      "## Figures\n",
      tables
    ]
    |> paragraphs()
  end

  defp paragraphs(parts) do
    parts |> Enum.reject(&(&1 == [])) |> Enum.intersperse("\n") |> IO.iodata_to_binary()
  end

  defp table({title, header, rows}) do
    {first, rest} = String.split_at(title, 1)
    ["### ", String.upcase(first), rest, "\n\n", Markdown.table(header, rows), "\n"]
  end

  defp measured(%{machine: machine} = results) do
    [
      "Measured #{String.slice(machine.date, 0, 10)} in #{results.seconds} seconds",
      if(results.quick, do: " (a quick and coarse run)", else: []),
      ": #{machine.cpu}, #{machine.cores} cores, #{machine.os}, OTP #{machine.otp}, ",
      "Elixir #{machine.elixir}.\n"
    ]
  end

  defp explanation(results) do
    [
      "Nanoseconds are per pick or call, the empty loop taken off, garbage collection of what picks ",
      "allocate included. `from` and `to` are between which observations the median lies with ",
      "#{round(results.confidence * 100)} % confidence, by order statistics; an observation is a ",
      "set-up anew, and the best of its rounds; `best` is the best of all. A column `x ...` has ratios ",
      "within an observation to ",
      "what it names. A verdict with a `?` has an interval that holds the limit. A channel is ",
      "#{results.channel_words} words.\n",
      for(
        %{peer: peer, reason: reason} <- results.not_run,
        do: "\n#{peer} was not run: #{reason}.\n"
      )
    ]
  end

  defp picks(rows) do
    own = Enum.filter(rows, &(&1.backends == 5 and &1.processes == 1))
    titles = own |> Enum.map(& &1.title) |> Enum.uniq()

    Markdown.table(
      ["", "pid", "channel"],
      for title <- titles do
        [title | for(kind <- ["pid", "channel"], do: ns(own, title, kind))]
      end
    )
  end

  defp ns(rows, title, kind) do
    case Enum.find(rows, &(&1.title == title and &1.value == kind)) do
      nil ->
        ""

      row ->
        "#{Table.cell(row.median_ns)} (#{Table.cell(row.low_ns)} to #{Table.cell(row.high_ns)})"
    end
  end

  defp to_ets(rows) do
    own = Enum.filter(rows, &(&1.value == "channel" and &1.processes == 1 and &1.side == "ours"))
    ratios(own, [1, 5, 100], :ets_copy)
  end

  defp pools(rows) do
    own =
      Enum.filter(rows, &(&1.side == "ours" or &1.contender in ["pg", "poolboy", "worker_pool"]))

    own =
      for row <- own do
        processes = if row.processes == 1, do: "1 process", else: "#{row.processes} processes"
        %{row | title: "#{row.title}, #{processes}"}
      end

    ratios(own, own |> Enum.map(& &1.backends) |> Enum.uniq(), :registry_random)
  end

  defp ratios(rows, sizes, base) do
    Markdown.table(
      ["" | Enum.map(sizes, &to_string/1)],
      for {title, rows} <- rows |> Enum.group_by(& &1.title) |> Enum.sort() do
        [title | for(size <- sizes, do: ratio(Enum.find(rows, &(&1.backends == size)), base))]
      end
    )
  end

  defp ratio(nil, _base), do: ""
  defp ratio(row, base), do: row.against[base].median

  defp budgets(results) do
    {_title, header, rows} = Budget.table(results.budgets)
    Markdown.table(header, rows)
  end

  defp missed(results) do
    case Losses.budgets(results) do
      [] ->
        "Every budget of the design is met.\n"

      rows ->
        [
          "Of #{length(results.budgets)} budgets these are missed:\n\n",
          Markdown.table(["budget", "measured", "from", "to", "limit"], rows)
        ]
    end
  end

  defp beaten(results, shown?) do
    case Enum.filter(Losses.peers(results), fn [title | _] -> shown?.(title) end) do
      [] ->
        "No peer is faster.\n"

      rows ->
        [
          "Peers that are faster, by what, and what their time does not show:\n\n",
          Markdown.table(["case", "peer", "its figure", "faster than", "and costs"], rows)
        ]
    end
  end
end
