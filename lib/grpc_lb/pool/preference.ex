defmodule GrpcLb.Pool.Preference do
  @moduledoc false
  # What a pool's preference for the members of its own node is to its balancer: members of other
  # nodes are of the next priority, or another locality with the rest of the picks.

  @elsewhere "elsewhere"

  @typedoc "The part of the picks that local members have; `nil` where all members are alike."
  @type share :: number() | nil

  @doc """
  The options that members of other nodes have as backends.

      iex> GrpcLb.Pool.Preference.elsewhere(1)
      %{priority: 1}
      iex> GrpcLb.Pool.Preference.elsewhere(0.5)
      %{locality: "elsewhere"}
      iex> GrpcLb.Pool.Preference.elsewhere(nil)
      %{}
  """
  @spec elsewhere(share()) :: map()
  def elsewhere(nil), do: %{}
  def elsewhere(share) when share == 1, do: %{priority: 1}
  def elsewhere(_share), do: %{locality: @elsewhere}

  @doc """
  The weights of the localities that make up a share.

      iex> GrpcLb.Pool.Preference.weights(0.25)
      %{nil => 0.25, "elsewhere" => 0.75}
      iex> GrpcLb.Pool.Preference.weights(nil)
      %{}
  """
  @spec weights(share()) :: %{(String.t() | nil) => number()}
  def weights(nil), do: %{}
  def weights(share), do: %{nil => share, @elsewhere => 1 - share}
end
