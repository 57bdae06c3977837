defmodule GrpcLb.Connection.RaceTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.Race

  doctest Race

  # A race and the states of those in it. What it decides is done.
  defp race(order), do: step({Race.new(order), Map.new(order, &{&1, :idle})})

  defp step({race, states}) do
    {dial, stop, race} = Race.step(race, &Map.fetch!(states, &1))
    dialled = Map.new(dial, &{&1, :opening})
    {race, Enum.reduce(stop, Map.merge(states, dialled), &Map.put(&2, &1, :closing))}
  end

  defp becomes({race, states}, key, state), do: step({race, Map.put(states, key, state)})
  defp delay_over({race, states}), do: step({Race.hurry(race, race.turn), states})
  defp in_state({_race, states}, state), do: for({key, ^state} <- Enum.sort(states), do: key)

  test "goes on to the next when the newest fails, and not when an older one does" do
    race = race(["a", "b", "c", "d"])
    assert in_state(race, :opening) == ["a"]
    race = delay_over(race)
    assert in_state(race, :opening) == ["a", "b"]
    race = becomes(race, "a", :backoff)
    assert in_state(race, :opening) == ["b"]
    race = becomes(race, "b", :backoff)
    assert in_state(race, :opening) == ["c"]
  end

  test "the delay of a turn that is over already starts none" do
    {race, states} = race(["a", "b", "c"])
    turn = race.turn
    {race, states} = becomes({race, states}, "a", :backoff)
    assert {Race.hurry(race, turn), states} == {race, states}
    assert in_state(delay_over({race, states}), :opening) == ["b", "c"]
  end

  test "the first that is up wins, and nobody is dialled while it is" do
    race = ["a", "b", "c"] |> race() |> delay_over() |> becomes("a", :up)
    assert {in_state(race, :up), in_state(race, :closing)} == {["a"], ["b"]}
    race = race |> becomes("b", :idle) |> delay_over()
    assert {in_state(race, :up), in_state(race, :idle)} == {["a"], ["b", "c"]}
  end

  test "begins with the first when the winner is lost, who may have to be closed first" do
    race = ["a", "b"] |> race() |> becomes("a", :backoff) |> becomes("b", :up)
    race = race |> becomes("a", :idle) |> becomes("b", :closing)
    assert in_state(race, :opening) == ["a"]

    race = ["a", "b"] |> race() |> becomes("a", :up) |> becomes("a", :closing)
    assert in_state(race, :opening) == []
    assert in_state(becomes(race, "a", :idle), :opening) == ["a"]
    assert in_state(becomes(race, "a", :backoff), :opening) == ["b"]
    # It is not waited for any longer than one that is dialled.
    assert in_state(delay_over(race), :opening) == ["b"]
  end

  test "who waits for a backoff is passed over, and all are dialled when theirs is over" do
    race = ["a", "b"] |> race() |> becomes("a", :backoff) |> becomes("b", :backoff)
    assert in_state(race, :opening) == []
    race = race |> becomes("b", :idle) |> becomes("a", :idle)
    assert in_state(race, :opening) == ["a", "b"]
    race = race |> becomes("b", :up) |> becomes("b", :backoff)
    assert in_state(race, :closing) == ["a"]
    assert in_state(becomes(race, "a", :idle), :opening) == ["a"]
  end

  test "one that is alone is dialled again and again, and has no delay" do
    {race, _states} = alone = race(["a"])
    assert race.newest == nil
    alone = becomes(alone, "a", :backoff)
    assert in_state(alone, :opening) == []
    assert in_state(becomes(alone, "a", :idle), :opening) == ["a"]
  end

  test "others may come, and what is dialled goes on" do
    {race, states} = race(["a", "b"])
    states = Map.merge(states, %{"c" => :idle})
    race = step({Race.reorder(race, ["c", "a"]), states})
    assert in_state(race, :opening) == ["a"]
    assert in_state(delay_over(race), :opening) == ["a", "c"]
    # The one whose turn it was has gone.
    {race, states} = race(["a", "b"])
    race = step({Race.reorder(race, ["b"]), Map.put(states, "a", :closing)})
    assert in_state(race, :opening) == ["b"]
    # After the last nobody waits.
    {race, states} = race(["a"])
    race = step({Race.reorder(race, ["a", "b"]), Map.put(states, "b", :idle)})
    assert in_state(race, :opening) == ["a", "b"]
  end

  test "in a restart all have another turn, one after the other" do
    {race, states} = ["a", "b"] |> race() |> becomes("a", :backoff) |> becomes("b", :backoff)
    race = step({Race.restart(race), %{states | "a" => :idle, "b" => :idle}})
    assert in_state(race, :opening) == ["a"]
    assert in_state(becomes(race, "a", :backoff), :opening) == ["b"]
    alone = race(["a"])
    {race, states} = becomes(alone, "a", :backoff)
    assert in_state(step({Race.restart(race), %{states | "a" => :idle}}), :opening) == ["a"]
  end

  test "two that are up after a crash become one" do
    race = {Race.new(["a", "b"]), %{"a" => :up, "b" => :up}}
    assert {["a"], ["b"]} == {in_state(step(race), :up), in_state(step(race), :closing)}
  end

  test "families take turns" do
    interleave = &Race.interleave(&1, fn {family, _n} -> family end)
    assert interleave.([]) == []
    assert interleave.(a: 1, a: 2, b: 1) == [a: 1, b: 1, a: 2]
    assert interleave.(b: 1, a: 1, a: 2, c: 1, a: 3) == [b: 1, a: 1, c: 1, a: 2, a: 3]
  end
end
