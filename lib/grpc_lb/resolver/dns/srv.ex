defmodule GrpcLb.Resolver.DNS.SRV do
  # SRV records (RFC 2782).
  @moduledoc false

  # By how much the weight 1 outweighs the weight 0 where both occur.
  @above_zero 100

  @type service ::
          {priority :: 0..0xFFFF, weight :: 0..0xFFFF, :inet.port_number(), host :: charlist()}

  @doc """
  Groups the hosts of SRV records by priority, the one to try first first, with weights of backends.

      iex> GrpcLb.Resolver.DNS.SRV.groups([{20, 0, 1, ~c"c"}, {10, 3, 1, ~c"a"}, {10, 1, 2, ~c"b"}])
      [[{"a", 1, 3}, {"b", 2, 1}], [{"c", 1, 1}]]

      iex> GrpcLb.Resolver.DNS.SRV.groups([{10, 0, 1, ~c"a"}, {10, 5, 1, ~c"b"}])
      [[{"a", 1, 1}, {"b", 1, 500}]]

  A host that is the root says that the service is not offered. Nor can there be one at port 0.

      iex> GrpcLb.Resolver.DNS.SRV.groups([{0, 0, 1, ~c"."}, {0, 0, 0, ~c"a"}])
      []
  """
  @spec groups([service()]) :: [[{host :: String.t(), :inet.port_number(), pos_integer()}]]
  def groups(records) do
    records
    |> Enum.reject(fn {_priority, _weight, port, host} -> port == 0 or host in [~c"", ~c"."] end)
    |> Enum.group_by(&elem(&1, 0))
    |> Enum.sort_by(&elem(&1, 0))
    |> Enum.map(fn {_priority, group} -> weigh(group) end)
  end

  defp weigh(group) do
    weights = for {_priority, weight, _port, _host} <- group, do: weight
    factor = if 0 in weights, do: @above_zero, else: 1

    for {_priority, weight, port, host} <- group,
        do: {List.to_string(host), port, max(weight * factor, 1)}
  end
end
