defmodule GrpcLb.Bench.Figures.Charts do
  @moduledoc false
  # Which figures of a run are drawn.

  alias GrpcLb.Bench.Figures.Chart

  @doc "File name, alternative text and figure."
  def all(%{sections: sections}) do
    [
      {"cost.svg", "Cost of a pick against the number of backends", cost(sections.picks)},
      {"throughput.svg", "Picks a second against the number of processes",
       throughput(sections.throughput)},
      {"tail.svg", "Percentiles of picks while the list changes", tail(sections.slowest_picks)},
      {"calls.svg", "A call in flight beside its alternatives", calls(sections.calls)},
      {"under_change.svg", "What a change of the list costs all others",
       under_change(sections.under_change)}
    ]
  end

  @cost ~w(interned_per_scheduler native_per_scheduler policy persistent_tuple ets_copy
           registry_random one_process atomics)

  defp cost(rows) do
    rows = Enum.filter(rows, &(&1.value == "channel" and &1.processes == 1))

    Chart.lines(%{
      title: "Cost of a pick of a channel, one process",
      x: "backends",
      y: "time of a pick, logarithmic, with 95 % intervals",
      told: &Chart.duration/1,
      scale: :log,
      places: places(rows, & &1.backends),
      series: series(@cost, rows, &{to_string(&1.backends), &1.median_ns, &1.low_ns, &1.high_ns})
    })
  end

  @throughput ~w(native_per_scheduler native_shared persistent_tuple ets_copy
                 registry_random atomics)

  defp throughput(rows) do
    Chart.lines(%{
      title: "Throughput of picks of a pid, 5 backends",
      x: "processes",
      y: "million picks a second, of all processes together",
      scale: :linear,
      places: places(rows, & &1.processes),
      series:
        series(@throughput, rows, fn row ->
          millions = row.per_second / 1.0e6
          {to_string(row.processes), millions, millions, millions}
        end)
    })
  end

  @percentiles [
    p50: "50 %",
    p90: "90 %",
    p99: "99 %",
    p99_9: "99.9 %",
    p99_99: "99.99 %",
    max: "max"
  ]

  defp tail(rows) do
    series =
      for {contender, rate} <- [
            {"native_per_scheduler", 0},
            {"native_per_scheduler", 100},
            {"native_per_scheduler", 1000},
            {"ets_copy", 0},
            {"ets_copy", 1000},
            {"persistent_tuple", 1000}
          ],
          row <- rows,
          row.contender == contender and row.rate == rate do
        points = for {key, label} <- @percentiles, ns = row[key], do: {label, ns, ns, ns}

        side = if contender == "native_per_scheduler", do: "ours", else: "peer"
        %{title: "#{tail_title(row.title)}, #{changes(rate)}", side: side, points: points}
      end

    Chart.lines(%{
      title: "Picks of a pid while the list of 100 changes so many times a second",
      x: "of the picks are at most as slow",
      y: "time of a pick, with a reading of the clock, logarithmic",
      told: &Chart.duration/1,
      scale: :log,
      places: Keyword.values(@percentiles),
      series: series
    })
  end

  defp tail_title(title), do: title |> short() |> String.replace(", per-scheduler cursor", "")

  defp changes(0), do: "none"
  defp changes(rate), do: "#{rate}/s"

  defp calls(rows) do
    Chart.bars(%{
      title: "A call in flight, around no call at all, one process, 10 backends",
      y: "nanoseconds; blue: this library, orange: by hand, grey: for scale",
      bars: for(%{processes: 1} = row <- rows, do: Map.put(row, :figure, row.median_ns))
    })
  end

  defp under_change(rows) do
    idle = List.first(rows).idle_processes

    Chart.bars(%{
      title: "A change of one of 100 channels, beside #{idle} idle processes",
      y: "microseconds of processor time, of the whole VM; blue: this library, orange: by hand",
      bars: for(row <- rows, do: Map.put(row, :figure, max(0, row.cpu_us.median)))
    })
  end

  # In the order of the keys; those that a run does not have are left out.
  defp series(keys, rows, point) do
    for key <- keys, [row | _] = own <- [Enum.filter(rows, &(&1.contender == key))] do
      %{title: short(row.title), side: row.side, points: Enum.map(own, point)}
    end
  end

  defp places(rows, place), do: rows |> Enum.map(&to_string(place.(&1))) |> Enum.uniq()

  # There is room for so much beside a line.
  defp short(title) do
    title
    |> String.replace("ETS + atomics + persistent_term", "ETS + atomics (elixir-grpc)")
    |> String.replace("persistent_term tuple + atomics", "persistent_term tuple")
  end
end
