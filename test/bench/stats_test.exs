Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.StatsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Bench.Stats

  test "the median of an even number of figures is between the two in the middle" do
    assert Stats.median([9, 1, 3]) == 3
    assert Stats.median([9, 1, 3, 5]) == 4
  end

  # The ranks that tables of the binomial distribution give for 95 %.
  test "an interval is between the ranks that hold the median in 19 of 20 cases" do
    for {count, rank} <- [{6, 1}, {8, 1}, {9, 2}, {11, 2}, {12, 3}, {15, 4}, {20, 6}, {100, 40}] do
      assert %{low: ^rank, high: high, observations: ^count} =
               Stats.interval(Enum.shuffle(1..count))

      assert high == count + 1 - rank
    end
  end

  test "an interval holds the median as often as it says" do
    :rand.seed(:exsss, {1, 2, 3})

    held =
      Enum.count(1..2000, fn _ ->
        # Skewed, as times are, and with a median of log 2.
        %{low: low, high: high} = Stats.interval(for _ <- 1..9, do: -:math.log(:rand.uniform()))
        low <= :math.log(2) and :math.log(2) <= high
      end)

    # 96.1 % are expected; five standard deviations are 2.2 %.
    assert_in_delta held / 2000, 0.961, 0.022
  end

  test "too few observations have no interval" do
    assert_raise ArgumentError, ~r/5 observations, of at least 6/, fn ->
      Stats.interval([1, 2, 3, 4, 5])
    end
  end

  test "the slowest share of a histogram begins where that many are left" do
    assert Stats.slowest([{10, 90}, {20, 8}, {1000, 2}], 0.02) == %{begins: 1000, mean: 1000.0}
    assert Stats.slowest([{10, 90}, {20, 8}, {1000, 2}], 0.04) == %{begins: 20, mean: 510.0}
  end
end
