defmodule GrpcLb.Connection.RacesTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address
  alias GrpcLb.Connection.{Plan, Races}

  defp races(policy, addresses, before \\ nil) do
    {ids, addresses} = Plan.by_id(addresses)
    Races.update(before || Races.new(policy), ids, addresses)
  end

  # Those that are idle race with these, in this order.
  defp order(races, key), do: Races.rivals(races, key)

  defp at(ip, opts \\ []), do: struct!(%Address{ip: ip, port: 1}, opts)

  @a {10, 0, 0, 1}
  @b {10, 0, 0, 2}
  @six {0x2001, 0xDB8, 0, 0, 0, 0, 0, 1}
  # 10.0.0.3
  @mapped {0, 0, 0, 0, 0, 0xFFFF, 0x0A00, 3}

  test "every backend by itself, and with pick_first all with each other" do
    addresses = [at(@a), at(@b)]
    races = races(:round_robin, addresses)
    assert Races.names(races) == ["10.0.0.1:1", "10.0.0.2:1"]
    assert order(races, "10.0.0.1:1") == ["10.0.0.1:1"]

    for policy <- [:pick_first, {:pick_first, []}, {:pick_first, shuffle: false}] do
      races = races(policy, addresses)
      assert Races.names(races) == [:all]
      assert order(races, "10.0.0.2:1") == ["10.0.0.1:1", "10.0.0.2:1"]
    end
  end

  test "families take turns, an IPv4 address in IPv6 is one of IPv4" do
    backend = at(@six, alternatives: [{@six, 2}, {@mapped, 1}, {@a, 1}, {{:local, "/a"}, 0}])
    id = Address.id(backend)

    assert order(races(:random, [backend]), id) ==
             [id, {id, {@mapped, 1}}, {id, {{:local, "/a"}, 0}}, {id, {@six, 2}}, {id, {@a, 1}}]

    assert order(races(:pick_first, [at(@a), at(@b), at(@six)]), "10.0.0.1:1") ==
             ["10.0.0.1:1", id, "10.0.0.2:1"]
  end

  test "shuffled, the heavier is likelier the first" do
    addresses = [at(@a), at(@b, weight: 3)]

    first =
      for _ <- 1..4_000 do
        {:pick_first, shuffle: true} |> races(addresses) |> order("10.0.0.1:1") |> hd()
      end

    # 3,000 are due. Five standard deviations are 137.
    assert Enum.count(first, &(&1 == "10.0.0.2:1")) in 2_863..3_137
  end

  test "a shuffle stays as it is for those that stay" do
    addresses = for n <- 1..20, do: at({10, 0, 0, n})
    races = races({:pick_first, shuffle: true}, addresses)
    order = order(races, "10.0.0.1:1")
    assert order != Enum.map(addresses, &Address.id/1)
    again = races(nil, Enum.reverse(tl(addresses)), races)
    assert order(again, "10.0.0.2:1") == order -- ["10.0.0.1:1"]
  end
end
