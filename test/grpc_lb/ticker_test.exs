defmodule GrpcLb.TickerTest do
  # In a VM of its own, whose ticker can be killed.
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Peer

  setup do
    %{peer: Peer.start()}
  end

  test "work that time drives is done with no call that asks for it", %{peer: peer} do
    assert Peer.run(peer, Peer.Ticking, :eject) == :ok
  end

  test "it goes on when the process that has it done is killed", %{peer: peer} do
    for _ <- 1..3, do: assert(Peer.run(peer, Peer.Ticking, :eject_after_death) == :ok)
  end

  test "it goes on whatever that process is sent", %{peer: peer} do
    assert Peer.run(peer, Peer.Ticking, :eject_among_strange_messages) == :ok
  end

  # One turn is a millisecond, and each of them takes some microseconds.
  test "the work of many is done in turns, and all of it", %{peer: peer} do
    assert {turns, 3_000} = Peer.run(peer, Peer.Ticking, :eject_in_turns, [3_000])
    assert turns in 1..2_999
  end

  test "it keeps no balancer", %{peer: peer} do
    assert Peer.run(peer, Peer.Ticking, :forget) == :ok
  end

  test "a clock keeps no name of one that is gone", %{peer: peer} do
    assert Peer.run(peer, Peer.Ticking, :forget_names) == :ok
  end

  test "it waits no longer than a process can", %{peer: peer} do
    assert {ms, true} = Peer.run(peer, Peer.Ticking, :wait_long)
    assert ms in 0xF0000000..0xFFFFFFFF
  end

  test "there is none for balancers that need none", %{peer: peer} do
    assert {:infinity, :infinity, ms} = Peer.run(peer, Peer.Ticking, :waits)
    assert ms in 1..3_600_000
  end
end
