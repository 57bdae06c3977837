defmodule GrpcLb.Connection.PlanTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address
  alias GrpcLb.Connection.Plan

  doctest Plan

  @nothing %{open: [], drain: [], abort: [], forget: []}

  describe "diff/2" do
    test "opens what is new, in order" do
      assert Plan.diff(["c", "a", "b"], %{}) == %{@nothing | open: ["c", "a", "b"]}
    end

    test "leaves what is wanted as it is" do
      states = %{"a" => :opening, "b" => :up, "c" => :backoff, "d" => :closing}
      assert Plan.diff(["a", "b", "c", "d"], states) == @nothing
    end

    test "lets go of what is not wanted, each as its state is" do
      states = %{"a" => :opening, "b" => :up, "c" => :backoff, "d" => :closing}
      assert Plan.diff([], states) == %{@nothing | abort: ["a"], drain: ["b"], forget: ["c"]}
    end

    test "says for every id what becomes of it, and nothing twice" do
      ids = for n <- 1..30, do: "#{n}"
      all = [:opening, :up, :backoff, :closing]

      for _ <- 1..200 do
        states = for id <- ids, :rand.uniform(2) == 1, into: %{}, do: {id, Enum.random(all)}
        wanted = for id <- Enum.shuffle(ids), :rand.uniform(2) == 1, do: id
        plan = Plan.diff(wanted, states)

        for id <- ids do
          expected =
            case {id in wanted, states[id]} do
              {true, nil} -> [:open]
              {false, :up} -> [:drain]
              {false, :opening} -> [:abort]
              {false, :backoff} -> [:forget]
              _stays -> []
            end

          assert for({action, ids} <- plan, id in ids, do: action) == expected
        end

        assert Enum.all?(plan, fn {_action, ids} -> ids == Enum.uniq(ids) end)
        assert plan.open == Enum.filter(wanted, &(&1 in plan.open))
      end
    end
  end

  describe "by_id/1" do
    defp address(port, opts \\ []) do
      struct!(%Address{ip: {10, 0, 0, 1}, port: port}, opts)
    end

    test "keeps the order" do
      {ids, addresses} = Plan.by_id(for port <- [3, 1, 2], do: address(port))
      assert ids == ["10.0.0.1:3", "10.0.0.1:1", "10.0.0.1:2"]
      assert addresses["10.0.0.1:1"] == address(1)
      assert map_size(addresses) == 3
      assert Plan.by_id([]) == {[], %{}}
    end

    test "has an endpoint once, where it came first, with all of its weight" do
      {ids, addresses} =
        Plan.by_id([
          address(1, host: "a", weight: 2),
          address(2),
          address(1, host: "A", weight: 3)
        ])

      assert ids == ["10.0.0.1:1", "10.0.0.1:2"]
      assert addresses["10.0.0.1:1"] == address(1, host: "a", weight: 5)
    end

    test "has an address under each of its names" do
      {ids, addresses} =
        Plan.by_id(
          for {host, weight} <- [{"b", 1}, {"a", 2}, {nil, 3}, {"a", 4}],
              do: address(1, host: host, weight: weight)
        )

      assert ids == ["10.0.0.1:1", "10.0.0.1:1/a", "10.0.0.1:1/"]

      assert for(id <- ids, do: {addresses[id].host, addresses[id].weight}) == [
               {"b", 1},
               {"a", 6},
               {nil, 3}
             ]
    end

    test "an endpoint keeps the id by which it is known, and no other gets it" do
      [a, b, c] = for host <- ["a", "b", "c"], do: address(1, host: host)
      known = %{"10.0.0.1:1/b" => "b", "10.0.0.1:1" => "a"}

      for {list, ids} <- [
            {[b], ["10.0.0.1:1/b"]},
            {[b, a], ["10.0.0.1:1/b", "10.0.0.1:1"]},
            {[c, b], ["10.0.0.1:1/c", "10.0.0.1:1/b"]},
            {[%{a | weight: 9}], ["10.0.0.1:1"]}
          ] do
        assert {list, elem(Plan.by_id(list, known), 0)} == {list, ids}
      end

      # When it is forgotten the next one can have it.
      assert {["10.0.0.1:1"], _} = Plan.by_id([c], %{"10.0.0.1:1/b" => "b"})
    end

    test "ids differ, whatever the paths and hosts" do
      socket = fn path, host -> %Address{ip: {:local, path}, port: 0, host: host} end
      list = [socket.("/a", nil), socket.("/a/b", nil), socket.("/a", "b"), socket.("/a", "b/")]
      {ids, addresses} = Plan.by_id(list)
      assert Enum.map(ids, &addresses[&1]) == list
      assert length(Enum.uniq(ids)) == 4
      # And stay.
      known = Map.new(addresses, fn {id, address} -> {id, address.host} end)
      assert Plan.by_id(list, known) == {ids, addresses}
    end

    test "has no weight that a backend could not have" do
      {_ids, addresses} = Plan.by_id([address(1, weight: 0xFFFFFFFF), address(1)])
      assert addresses["10.0.0.1:1"].weight == 0xFFFFFFFF
    end
  end
end
