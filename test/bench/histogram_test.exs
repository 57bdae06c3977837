Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.HistogramTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Bench.Histogram

  defp durations(added) do
    histogram = Histogram.new()
    Enum.each(added, &Histogram.add(histogram, &1))
    Histogram.durations(histogram)
  end

  test "short durations are kept one by one" do
    assert durations([7, 0, 7, 65_535]) == [{0, 1}, {7, 2}, {65_535, 1}]
  end

  test "of long ones the longest is kept, and the mean of the others" do
    assert durations([5, 1_000_000]) == [{5, 1}, {1_000_000, 1}]
    assert durations([300_000, 1_000_000, 100_000]) == [{200_000, 2}, {1_000_000, 1}]
  end

  test "several become one" do
    assert Histogram.merge([[{1, 2}, {9, 1}], [{1, 3}]]) == [{1, 5}, {9, 1}]
  end
end
