defmodule GrpcLb.Resolver.DNS.Found do
  # What the answers for the hosts of a service make together: addresses with weights, and what is not
  # known. Pure.
  @moduledoc false

  alias GrpcLb.{Address, Resolver, Shares}
  alias GrpcLb.Resolver.DNS.{Answer, SRV}

  @typedoc """
  A name that is no service has no weight: its addresses weigh 1 each. One that has no priority is of the
  first.
  """
  @type service ::
          SRV.service()
          | %{
              host: String.t(),
              port: :inet.port_number(),
              weight: pos_integer(),
              priority: Address.priority()
            }
          | %{host: String.t(), port: :inet.port_number(), weight: nil}

  @doc """
  Merges the answers, given by family, into a resolution, or into an error if they bring no address that
  can be used. Those of a priority cannot as long as one before it has none and is not known to have
  none; it is `:pending` where answers are.

  The addresses of a host share its weight, which is one among those of its priority. That of a part that
  is not known is what all of its host weigh, in the same measure.

      iex> a = %{host: "a.example", port: 1, weight: 1}
      iex> b = %{host: "b.example", port: 2, weight: 3}
      iex> {:ok, found} =
      ...>   GrpcLb.Resolver.DNS.Found.merge([
      ...>     {a, [inet: {:ok, [{10, 0, 0, 1}, {10, 0, 0, 2}], 60}, inet6: {:error, :no_addresses}]},
      ...>     {b, [inet: {:error, :servfail}, inet6: {:error, :servfail}]}
      ...>   ])
      iex> for %{ip: ip, port: port, weight: weight} <- found.addresses, do: {ip, port, weight}
      [{{10, 0, 0, 1}, 1, 1}, {{10, 0, 0, 2}, 1, 1}]
      iex> found.unknown
      [%{host: "b.example", port: 2, weight: 6}]
  """
  @spec merge([{service(), [{:inet | :inet6, Answer.t(:inet.ip_address())}]}, ...]) ::
          {:ok, Resolver.resolution()} | {:error, reason :: term()} | :pending
  def merge(answers) do
    merged = for {service, by_family} <- answers, do: {service, merge_families(by_family)}

    with {:ok, _ips, _ttl} <- first_that_counts(merged),
         {:ok, _ips, ttl} <- merged |> Enum.map(&elem(&1, 1)) |> Answer.merge() do
      known = for {service, {:ok, ips, _ttl}} <- merged, do: {service, Enum.uniq(ips)}
      parts = for {service, by_family} <- answers, part <- parts(by_family), do: {service, part}
      found = for priority <- priorities(known ++ parts), do: of(priority, known, parts)
      resolution = %{addresses: Enum.flat_map(found, &elem(&1, 0)), ttl: ttl}

      if parts == [],
        do: {:ok, resolution},
        else: {:ok, Map.put(resolution, :unknown, Enum.flat_map(found, &elem(&1, 1)))}
    end
  end

  # That of the first priority that is not known to have nobody.
  defp first_that_counts(merged) do
    answers =
      for priority <- priorities(merged) do
        Answer.merge(for {service, answer} <- merged, priority(service) == priority, do: answer)
      end

    Enum.find(answers, hd(answers), &(not Answer.absent?(&1)))
  end

  defp merge_families(by_family), do: by_family |> Keyword.values() |> Answer.merge()

  # What of a host is not known: a family, or all.
  defp parts(by_family) do
    unknown = for {family, answer} <- by_family, Answer.unknown?(answer), do: %{family: family}
    if length(unknown) == length(by_family), do: [%{}], else: unknown
  end

  defp priorities(services),
    do: services |> Enum.map(&priority(elem(&1, 0))) |> Enum.uniq() |> Enum.sort()

  defp priority(service), do: Map.get(service, :priority, 0)

  # The addresses and the unknown parts of a priority.
  defp of(priority, known, parts) do
    [known, parts] =
      for services <- [known, parts],
          do: Enum.filter(services, &(priority(elem(&1, 0)) == priority))

    {of_known, of_parts} = weights(known, parts)
    {addresses(known, of_known), unknown(parts, of_parts)}
  end

  defp weights(known, parts) do
    known = for {%{weight: weight}, ips} <- known, do: shared(weight, length(ips))
    parts = for {%{weight: weight}, _part} <- parts, do: shared(weight, 1)
    (known ++ parts) |> Shares.split() |> Enum.split(length(known))
  end

  defp shared(nil, _n), do: {1, 1}
  defp shared(weight, n), do: {weight, n}

  defp addresses(known, weights) do
    for {{%{host: host, port: port} = service, ips}, weight} <- Enum.zip(known, weights),
        ip <- ips do
      %Address{ip: ip, port: port, host: host, weight: weight, priority: priority(service)}
    end
  end

  defp unknown(parts, weights) do
    for {{service, part}, weight} <- Enum.zip(parts, weights) do
      if service.weight,
        do: part |> Map.merge(Map.take(service, [:host, :port])) |> Map.put(:weight, weight),
        else: part
    end
  end
end
