defmodule GrpcLb.Connection.BackoffTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.Backoff
  alias GrpcLb.Options

  doctest Backoff

  defp backoff(opts), do: opts |> Options.validate!(Backoff.options()) |> Backoff.new()

  # The waits after `n` failures.
  defp waits(backoff, n, random) do
    {waits, _backoff} = Enum.map_reduce(1..n, backoff, fn _, b -> Backoff.next(b, random) end)
    waits
  end

  test "has gRPC's numbers by default" do
    backoff = backoff([])

    assert waits(backoff, 13, 0.5) ==
             [1_000, 1_600, 2_560, 4_096, 6_554, 10_486, 16_777, 26_844, 42_950, 68_719, 109_951] ++
               [120_000, 120_000]

    assert waits(backoff, 2, 0.0) == [800, 1_280]
    assert waits(backoff, 2, 1.0) == [1_200, 1_920]
  end

  test "takes other numbers" do
    backoff = backoff(initial: 10, multiplier: 3, jitter: 0, max: 50)
    assert waits(backoff, 4, 0.9) == [10, 30, 50, 50]
    assert waits(backoff(initial: 100, max: 20, jitter: 0), 2, 0.5) == [20, 20]
    assert waits(backoff(initial: 100, jitter: 1), 1, 0.0) == [0]
    # The first of an option that is given twice.
    assert waits(backoff(initial: 10, jitter: 0, initial: 70), 1, 0.5) == [10]
  end

  test "starts again after a success" do
    backoff = backoff(initial: 10, jitter: 0)
    {10, backoff} = Backoff.next(backoff)
    {16, backoff} = Backoff.next(backoff)
    assert waits(Backoff.reset(backoff), 2, 0.5) == [10, 16]
  end

  test "has no wait after the first loss of what has worked" do
    backoff = backoff(initial: 10, jitter: 0)
    {0, backoff} = Backoff.lost(backoff)
    {10, backoff} = Backoff.lost(backoff)
    assert {0, _} = Backoff.lost(Backoff.reset(backoff))
    {16, backoff} = Backoff.next(backoff)
    assert {26, _} = Backoff.lost(backoff)
    {10, failed} = Backoff.next(Backoff.reset(backoff))
    assert {16, _} = Backoff.lost(failed)
  end

  test "is outlasted by what lives for as long as the next wait, jitter apart" do
    backoff = backoff(initial: 10, max: 15)
    assert {Backoff.outlasted?(backoff, 9), Backoff.outlasted?(backoff, 10)} == {false, true}
    {_, backoff} = Backoff.next(backoff)
    assert {Backoff.outlasted?(backoff, 14), Backoff.outlasted?(backoff, 15)} == {false, true}
  end

  test "draws the jitter from the whole range" do
    backoff = backoff(initial: 1_000)
    waits = for _ <- 1..1_000, do: elem(Backoff.next(backoff), 0)
    assert Enum.all?(waits, &(&1 in 800..1_200))
    assert Enum.min(waits) < 900
    assert Enum.max(waits) > 1_100
  end

  test "never leaves the range of a timer" do
    backoff = backoff(initial: 0xFFFFFFFF, multiplier: 100, jitter: 1, max: 0xFFFFFFFF)

    for wait <- waits(backoff, 3, 1.0),
        do: :erlang.cancel_timer(:erlang.start_timer(wait, self(), 1))
  end
end
