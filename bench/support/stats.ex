defmodule GrpcLb.Bench.Stats do
  @moduledoc false

  @confidence 0.95
  @least 6

  @doc "How sure an interval is, and the fewest observations that one can be made of."
  def confidence, do: @confidence
  def least, do: @least

  def median(numbers) do
    sorted = Enum.sort(numbers)
    size = length(sorted)
    (Enum.at(sorted, div(size - 1, 2)) + Enum.at(sorted, div(size, 2))) / 2
  end

  @doc """
  The median of observations, and between which two of them it lies, with at least 95 % confidence,
  whatever the distribution that they are drawn from: order statistics, whose ranks the binomial
  distribution gives.
  """
  def interval(numbers) do
    count = length(numbers)
    if count < @least, do: raise(ArgumentError, "#{count} observations, of at least #{@least}")
    sorted = Enum.sort(numbers)
    rank = rank(count)

    %{
      median: median(sorted),
      low: Enum.at(sorted, rank - 1),
      high: Enum.at(sorted, count - rank),
      observations: count
    }
  end

  # The largest so that fewer than that many of `count` observations are below the median, or above
  # it, in at most one case of twenty.
  defp rank(count) do
    tail = (1 - @confidence) / 2 * Integer.pow(2, count)

    1
    |> Stream.iterate(&(&1 + 1))
    |> Enum.reduce_while(1, fn k, below ->
      if below > tail, do: {:halt, k - 1}, else: {:cont, below + choose(count, k)}
    end)
  end

  defp choose(n, k), do: Enum.reduce(1..k//1, 1, &div(&2 * (n - &1 + 1), &1))

  @doc """
  The slowest `share` of a histogram (`{duration, count}`, shortest first): the duration at which
  it begins, and its mean.
  """
  def slowest(histogram, share) do
    total = histogram |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    wanted = max(1, round(total * share))

    {begins, sum, 0} =
      histogram
      |> Enum.reverse()
      |> Enum.reduce_while({nil, 0, wanted}, fn
        _entry, {begins, sum, 0} ->
          {:halt, {begins, sum, 0}}

        {duration, count}, {_begins, sum, left} ->
          taken = min(count, left)
          {:cont, {duration, sum + duration * taken, left - taken}}
      end)

    %{begins: begins, mean: sum / wanted}
  end
end
