defmodule GrpcLb.Bench.Stats do
  @moduledoc false

  def median(numbers) do
    sorted = Enum.sort(numbers)
    size = length(sorted)
    (Enum.at(sorted, div(size - 1, 2)) + Enum.at(sorted, div(size, 2))) / 2
  end

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
