defmodule GrpcLb.Connection.Subset do
  @moduledoc false
  # The addresses of a resolution that a connection uses, where it uses some of them only (gRFC A68). No
  # others are connected to, and the balancer is given no others.

  alias GrpcLb.{Address, Native}

  @typedoc "See `:subset` of `GrpcLb.new/3`; its seed is known."
  @type t :: %{size: pos_integer(), seed: non_neg_integer()}

  @doc """
  The addresses in the subset of their priority, in their order. An endpoint that is given twice is in it
  with both.

      iex> addresses = for n <- 1..3, do: GrpcLb.Address.new!({{10, 0, 0, n}, 443})
      iex> chosen = GrpcLb.Connection.Subset.take(addresses, %{size: 1, seed: 0})
      iex> Enum.map(chosen, &GrpcLb.Address.id/1)
      ["10.0.0.2:443"]
      iex> GrpcLb.Connection.Subset.take(addresses, nil) == addresses
      true
  """
  @spec take([Address.t()], t() | nil) :: [Address.t()]
  def take(addresses, nil), do: addresses

  def take(addresses, subset) do
    chosen =
      addresses
      |> Enum.group_by(& &1.priority, &Address.id/1)
      |> Enum.flat_map(fn {priority, ids} ->
        for id <- lowest(Enum.uniq(ids), subset), do: {priority, id}
      end)
      |> MapSet.new()

    Enum.filter(addresses, &({&1.priority, Address.id(&1)} in chosen))
  end

  defp lowest(ids, %{size: size, seed: seed}) do
    # As a tuple: its elements are found at one cost.
    by_position = List.to_tuple(ids)
    for position <- Native.subset(ids, size, seed), do: elem(by_position, position)
  end
end
