defmodule GrpcLb.Resolver.DNS.FoundTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.Found

  doctest Found

  @absent {:error, :no_addresses}
  @failed {:error, :servfail}

  defp found(hosts) do
    result =
      Found.merge(
        for {host, weight, inet, inet6} <- hosts do
          {%{host: host, port: 1, weight: weight}, [inet: inet, inet6: inet6]}
        end
      )

    with {:ok, %{addresses: addresses, ttl: ttl} = found} <- result do
      weights = Enum.group_by(addresses, & &1.host, & &1.weight)
      {weights, ttl, Map.get(found, :unknown, [])}
    end
  end

  defp ips(count, ttl \\ 60), do: {:ok, for(n <- 1..count, do: {10, 0, 0, n}), ttl}

  test "hosts share traffic by their weights, however many addresses each has" do
    for {weights, counts} <- [
          {[1, 1], [1, 2]},
          {[10, 30], [2, 1]},
          {[3, 5, 7], [4, 6, 9]},
          {[65_535, 1], [3, 7]},
          {[6_553_500, 1], [1, 40]}
        ] do
      hosts = for {w, n} <- Enum.zip(weights, counts), do: {"#{w}x#{n}", w, ips(n), @absent}
      {by_host, 60, []} = found(hosts)
      sums = for {host, _, _, _} <- hosts, do: Enum.sum(by_host[host])
      [{sum, weight} | others] = Enum.zip(sums, weights)
      for {other, its} <- others, do: assert(other * weight == sum * its)
      assert sums |> Enum.max() <= 0xFFFFFFFF
    end
  end

  test "weights that cannot be shared exactly are near" do
    primes = [7, 11, 13, 17, 19, 23]
    hosts = for n <- primes, do: {"#{n}", 65_535 - n, ips(n), @absent}
    {by_host, 60, []} = found(hosts)

    for n <- primes, m <- primes do
      ratio = Enum.sum(by_host["#{n}"]) / Enum.sum(by_host["#{m}"])
      assert_in_delta ratio, (65_535 - n) / (65_535 - m), 0.001
    end

    assert Enum.all?(List.flatten(Map.values(by_host)), &(&1 in 1..0xFFFFFFFF))
  end

  test "what is not known is said by host, or by family" do
    for {hosts, expected} <- [
          {[{"a", 2, ips(2), @absent}], {%{"a" => [1, 1]}, 60, []}},
          {[{"a", 2, ips(2), @failed}],
           {%{"a" => [1, 1]}, 0, [%{host: "a", port: 1, family: :inet6, weight: 2}]}},
          {[{"a", 2, ips(1), :pending}],
           {%{"a" => [2]}, 0, [%{host: "a", port: 1, family: :inet6, weight: 2}]}},
          {[{"a", 2, ips(1), @absent}, {"b", 3, @failed, @absent}],
           {%{"a" => [2]}, 0, [%{host: "b", port: 1, family: :inet, weight: 3}]}},
          {[{"a", 2, ips(1), @absent}, {"b", 3, @failed, @failed}],
           {%{"a" => [2]}, 0, [%{host: "b", port: 1, weight: 3}]}},
          {[{"a", 2, ips(1), @absent}, {"b", 3, @absent, @absent}], {%{"a" => [2]}, 60, []}},
          {[{"a", 2, @failed, @absent}, {"b", 3, @absent, @absent}], @failed},
          {[{"a", 2, @absent, @absent}], @absent},
          # A name that is no service.
          {[{"a", nil, ips(3, 9), @failed}], {%{"a" => [1, 1, 1]}, 0, [%{family: :inet6}]}}
        ] do
      assert {hosts, found(hosts)} == {hosts, expected}
    end
  end

  test "a priority takes the place of one before it if it is known that there is nobody in that" do
    for {answers, expected} <- [
          # The hosts a and b are of the first priority, c is of the next, d of the last.
          {[ips(1), @absent, ips(1), ips(1)], ["a", "c", "d"]},
          {[ips(1), @failed, ips(1), @absent], ["a", "c"]},
          {[@failed, @absent, ips(1), ips(1)], @failed},
          {[:pending, @absent, ips(1), ips(1)], :pending},
          {[@absent, :pending, ips(1), ips(1)], :pending},
          {[@absent, @absent, ips(1), @failed], ["c"]},
          {[@absent, @absent, @failed, ips(1)], @failed},
          {[@absent, @absent, :pending, ips(1)], :pending},
          {[@absent, @absent, @absent, ips(1)], ["d"]},
          {[@absent, @absent, @absent, @absent], @absent},
          {[@absent, @absent, @absent, @failed], @failed}
        ] do
      hosts = Enum.zip([{"a", 0}, {"b", 0}, {"c", 1}, {"d", 2}], answers)

      result =
        Found.merge(
          for {{host, priority}, answer} <- hosts do
            {%{host: host, port: 1, weight: 1, priority: priority}, [inet: answer]}
          end
        )

      names = with {:ok, %{addresses: addresses}} <- result, do: Enum.map(addresses, & &1.host)
      assert {answers, names} == {answers, expected}
    end
  end
end
