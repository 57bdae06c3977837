defmodule GrpcLb.Resolver.DNS.SRV do
  # SRV records (RFC 2782).
  @moduledoc false

  alias GrpcLb.Resolver.DNS.Names

  # By how much the weight 1 outweighs the weight 0 where both occur.
  @above_zero 100

  @type data ::
          {priority :: 0..0xFFFF, weight :: 0..0xFFFF, :inet.port_number(), host :: charlist()}

  @typedoc "A host of a service, without a dot at its end, with the weight of a backend."
  @type service :: %{host: String.t(), port: :inet.port_number(), weight: pos_integer()}

  @doc """
  Groups the hosts of SRV records by priority, the one to try first first, with weights of backends.

      iex> GrpcLb.Resolver.DNS.SRV.groups([{20, 0, 1, ~c"c"}, {10, 3, 1, ~c"a"}, {10, 1, 2, ~c"b"}])
      [
        [%{host: "a", port: 1, weight: 3}, %{host: "b", port: 2, weight: 1}],
        [%{host: "c", port: 1, weight: 1}]
      ]

      iex> GrpcLb.Resolver.DNS.SRV.groups([{10, 0, 1, ~c"a"}, {10, 5, 1, ~c"b"}])
      [[%{host: "a", port: 1, weight: 1}, %{host: "b", port: 1, weight: 500}]]

  A host that is the root says that the service is not offered. Nor can there be one at port 0.

      iex> GrpcLb.Resolver.DNS.SRV.groups([{0, 0, 1, ~c"."}, {0, 0, 0, ~c"a"}])
      []
  """
  @spec groups([data()]) :: [[service()]]
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

    for {_priority, weight, port, host} <- group do
      host = host |> List.to_string() |> Names.relative()
      %{host: host, port: port, weight: max(weight * factor, 1)}
    end
  end
end
