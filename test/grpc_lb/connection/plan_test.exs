defmodule GrpcLb.Connection.PlanTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address
  alias GrpcLb.Connection.Plan

  doctest Plan

  @nothing %{open: [], restore: [], drain: [], abort: [], forget: []}

  describe "diff/2" do
    test "opens what is new, in order" do
      assert Plan.diff(["c", "a", "b"], %{}) == %{@nothing | open: ["c", "a", "b"]}
    end

    test "leaves what is wanted as it is" do
      states = %{"a" => :opening, "b" => :up, "c" => :backoff, "d" => :closing}
      assert Plan.diff(["a", "b", "c", "d"], states) == @nothing
    end

    test "lets go of what is not wanted, each as its state is" do
      states = %{"a" => :opening, "b" => :up, "c" => :backoff, "d" => :draining, "e" => :closing}
      assert Plan.diff([], states) == %{@nothing | abort: ["a"], drain: ["b"], forget: ["c"]}
    end

    test "takes back what drains" do
      assert Plan.diff(["a"], %{"a" => :draining, "b" => :draining}) == %{
               @nothing
               | restore: ["a"]
             }
    end

    test "says for every id what becomes of it, and nothing twice" do
      ids = for n <- 1..30, do: "#{n}"
      all = [:opening, :up, :backoff, :draining, :closing]

      for _ <- 1..200 do
        states = for id <- ids, :rand.uniform(2) == 1, into: %{}, do: {id, Enum.random(all)}
        wanted = for id <- Enum.shuffle(ids), :rand.uniform(2) == 1, do: id
        plan = Plan.diff(wanted, states)

        for id <- ids do
          expected =
            case {id in wanted, states[id]} do
              {true, nil} -> [:open]
              {true, :draining} -> [:restore]
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

    test "has an address once, where it came first, with all of its weight" do
      {ids, addresses} =
        Plan.by_id([
          address(1, host: "a", weight: 2),
          address(2),
          address(1, host: "b", weight: 3)
        ])

      assert ids == ["10.0.0.1:1", "10.0.0.1:2"]
      assert addresses["10.0.0.1:1"] == address(1, host: "a", weight: 5)
    end

    test "has no weight that a backend could not have" do
      {_ids, addresses} = Plan.by_id([address(1, weight: 0xFFFFFFFF), address(1)])
      assert addresses["10.0.0.1:1"].weight == 0xFFFFFFFF
    end
  end
end
