defmodule GrpcLb.Shares do
  # Weights that several have in common.
  @moduledoc false

  # What a weight can be at most.
  @max 0xFFFFFFFF

  @doc """
  For each weight and the number of those that share it, what each of these weighs.

  Weights are whole numbers: all are multiplied by the least that leaves no remainder. Where they
  would be too large then, they are as near as they can be.

      iex> GrpcLb.Shares.split([{10, 2}, {30, 1}])
      [5, 30]

      iex> GrpcLb.Shares.split([{1, 2}, {1, 3}, {5, 1}])
      [3, 2, 30]
  """
  @spec split([{weight :: pos_integer(), n :: pos_integer()}]) :: [pos_integer()]
  def split(weights) do
    factor = Enum.reduce(weights, 1, fn {weight, n}, factor -> lcm(factor, part(n, weight)) end)
    heaviest = for({weight, n} <- weights, do: weight / n) |> Enum.max(fn -> 1 end)
    factor = if heaviest * factor > @max, do: @max / heaviest, else: factor

    for {weight, n} <- weights, do: (weight * factor / n) |> round() |> max(1) |> min(@max)
  end

  defp part(n, weight), do: div(n, Integer.gcd(n, weight))
  defp lcm(a, b), do: div(a * b, Integer.gcd(a, b))
end
