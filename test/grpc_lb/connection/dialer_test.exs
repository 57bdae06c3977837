defmodule GrpcLb.Connection.DialerTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.Dialer

  doctest Dialer

  # Dials while it may; returns whom, in order.
  defp dial_all(dialer, dialled \\ []) do
    case Dialer.next(dialer) do
      nil -> {Enum.reverse(dialled), dialer}
      key -> dialer |> Dialer.note(key, :opening) |> dial_all([key | dialled])
    end
  end

  defp queue(dialer, keys), do: Enum.reduce(keys, dialer, &Dialer.note(&2, &1, :queued))

  test "lets so many dial, and the next in order when one is done" do
    {dialled, dialer} = 3 |> Dialer.new() |> queue(1..7) |> dial_all()
    assert dialled == [1, 2, 3]
    assert {[4], dialer} = dialer |> Dialer.note(2, :up) |> dial_all()

    assert {[5, 6], dialer} =
             dialer |> Dialer.note(1, :backoff) |> Dialer.note(4, :gone) |> dial_all()

    # Who was done counts once.
    assert {[], _dialer} =
             dialer |> Dialer.note(2, :closing) |> Dialer.note(4, :idle) |> dial_all()
  end

  test "forgets who leaves the queue, who comes back is the last, and who asks twice is not" do
    {[1], dialer} = 1 |> Dialer.new() |> queue([1, 2, 3, 4]) |> dial_all()
    dialer = dialer |> Dialer.note(2, :idle) |> queue([3, 2]) |> Dialer.note(1, :up)
    assert {[3], dialer} = dial_all(dialer)
    assert {[4], dialer} = dialer |> Dialer.note(3, :up) |> dial_all()
    assert {[2], dialer} = dialer |> Dialer.note(4, :up) |> dial_all()
    assert {[], dialer} = dialer |> Dialer.note(2, :up) |> dial_all()
    assert dialer == %{Dialer.new(1) | next_place: dialer.next_place}
  end

  test "one that is dialled and is to be dialled again makes room" do
    {[1], dialer} = 1 |> Dialer.new() |> queue([1, 2]) |> dial_all()
    assert {[2], _dialer} = dialer |> queue([1]) |> dial_all()
  end
end
