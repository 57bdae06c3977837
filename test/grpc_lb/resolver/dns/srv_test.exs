defmodule GrpcLb.Resolver.DNS.SRVTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.SRV

  doctest SRV

  test "weights keep their proportions; zeros are all alike or have a small share" do
    for {given, shares} <- [
          {[1, 2, 65_535], [1, 2, 65_535]},
          {[0, 0, 0], [1, 1, 1]},
          {[0, 1, 0, 3], [1, 100, 1, 300]}
        ] do
      records = for weight <- given, do: {1, weight, 1, ~c"a"}
      assert [group] = SRV.groups(records)
      assert Enum.map(group, fn %{host: "a", port: 1, weight: weight} -> weight end) == shares
    end
  end

  test "a zero in one priority changes nothing in another" do
    assert SRV.groups([{1, 7, 1, ~c"a"}, {2, 0, 1, ~c"b"}, {2, 7, 1, ~c"c"}]) ==
             [
               [%{host: "a", port: 1, weight: 7}],
               [%{host: "b", port: 1, weight: 1}, %{host: "c", port: 1, weight: 700}]
             ]
  end
end
