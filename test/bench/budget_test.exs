Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.BudgetTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Bench.{Budget, Settle}

  defp interval(low, median, high), do: %{low: low, median: median, high: high, observations: 6}

  test "a limit is missed where the median is beyond it, and surely where the interval is" do
    budget = %Budget{what: "pick", limit: 2.0}

    assert %{met: true, sure: true} = Budget.judge(budget, interval(1.0, 1.5, 2.0))
    assert %{met: true, sure: false} = Budget.judge(budget, interval(1.0, 1.5, 2.1))
    assert %{met: false, sure: false} = Budget.judge(budget, interval(1.9, 2.1, 2.3))
    assert %{met: false, sure: true} = Budget.judge(budget, interval(2.1, 2.2, 2.3))
  end

  test "a bound from below is missed from the other side" do
    budget = %Budget{what: "speed-up", limit: 1.8, bound: :at_least}

    assert %{met: true, sure: true} = Budget.judge(budget, interval(1.85, 1.9, 2.0))
    assert %{met: false, sure: true} = Budget.judge(budget, interval(1.0, 1.5, 1.7))
  end

  test "without a limit nothing is missed" do
    row = Budget.judge_once(%Budget{what: "shown", aim: 1.0}, 5.0)

    assert row.met == nil

    assert Budget.missed([row, Budget.judge_once(%Budget{what: "held", limit: 1.0}, 5.0)])
           |> length() == 1
  end

  test "a missed budget is told with its interval and its limit" do
    row = Budget.judge(%Budget{what: "run", limit: 5.0}, interval(29.0, 30.0, 31.0))

    assert Budget.sentence(row) == "run: 30.0 x (29.0 to 31.0), at most 5.00"
  end

  # One figure after the other, from a list.
  defp source(figures) do
    {:ok, source} = Agent.start_link(fn -> figures end)
    fn -> Agent.get_and_update(source, fn [figure | rest] -> {figure, rest} end) end
  end

  test "what is sure or narrow after six observations is not observed again" do
    budgets = [
      {%Budget{what: "sure", limit: 9.0}, & &1},
      {%Budget{what: "narrow"}, fn _ -> 1.0 end}
    ]

    assert {[1, 2, 3, 4, 5, 6], [sure, narrow]} =
             Settle.observe(source([1, 2, 3, 4, 5, 6, 7]), budgets, 60)

    assert sure.settled and narrow.settled
    assert sure.observations == 6
  end

  test "what is open is observed until it is closed" do
    # The first six leave 5.0 within the interval; with the ninth the ranks move in.
    figures = [1, 6, 1, 1, 1, 1, 1, 1, 1, 1]
    budget = %Budget{what: "open", limit: 5.0}

    assert {observations, [row]} = Settle.observe(source(figures), [{budget, & &1}], 60)
    assert length(observations) == 9
    assert row.settled
  end

  test "where time is up, the row says that it is open" do
    budget = %Budget{what: "open", limit: 5.0}

    assert {observations, [row]} =
             Settle.observe(source([1, 9, 1, 9, 1, 9, 1]), [{budget, & &1}], 0)

    assert length(observations) == 6
    refute row.settled
  end
end
