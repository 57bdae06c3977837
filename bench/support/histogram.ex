defmodule GrpcLb.Bench.Histogram do
  @moduledoc false
  # How often each duration occurred, in native time units: one by one the short ones, of the long
  # ones their number, sum and maximum. One process adds.

  @short 65_536
  @long @short + 1
  @sum @short + 2
  @most @short + 3

  @type t :: :counters.counters_ref()

  @compile {:inline, add: 2}

  def new, do: :counters.new(@most, [:atomics])

  def add(histogram, duration) when duration < @short do
    :counters.add(histogram, duration + 1, 1)
  end

  def add(histogram, duration) do
    :counters.add(histogram, @long, 1)
    :counters.add(histogram, @sum, duration)
    :counters.put(histogram, @most, max(duration, :counters.get(histogram, @most)))
  end

  @doc "`{duration, count}`, shortest first. Of the long ones but for the longest, their mean."
  def durations(histogram) do
    short =
      for duration <- 0..(@short - 1)//1, (count = :counters.get(histogram, duration + 1)) > 0 do
        {duration, count}
      end

    short ++ long(histogram, :counters.get(histogram, @long))
  end

  defp long(_histogram, 0), do: []
  defp long(histogram, 1), do: [{:counters.get(histogram, @most), 1}]

  defp long(histogram, count) do
    most = :counters.get(histogram, @most)
    [{div(:counters.get(histogram, @sum) - most, count - 1), count - 1}, {most, 1}]
  end

  @doc "The durations of several histograms in one."
  def merge(durations) do
    durations
    |> Enum.concat()
    |> Enum.reduce(%{}, fn {duration, count}, sums ->
      Map.update(sums, duration, count, &(&1 + count))
    end)
    |> Enum.sort()
  end
end
