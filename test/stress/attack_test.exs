defmodule GrpcLb.Stress.AttackTest do
  use ExUnit.Case, async: false

  alias GrpcLb.Test.Peer

  @calls 1_000_000

  test "a million random calls with random arguments leave the VM up" do
    peer = Peer.start()
    outcomes = Peer.run(peer, Peer.Attack, :attack, [@calls, ExUnit.configuration()[:seed]])
    assert Enum.sum(Map.values(outcomes)) == @calls
    # The attack is one only if calls get through, and if others are refused.
    for outcome <- [:ok, :error, :raised], do: assert(outcomes[outcome] > @calls / 100)
    assert Peer.run(peer, GrpcLb, :new, [:random, [:a]])
  end

  test "deep and large terms are values like any other" do
    peer = Peer.start()
    assert Peer.run(peer, Peer.Attack, :large_terms) == :ok
  end

  test "100,000 backends come and go, and no call does its work on a normal scheduler" do
    peer = Peer.start()

    assert Peer.run(peer, Peer.Attack, :large_list) ==
             [:new, :reconcile, :add, :info, :close]
  end

  test "arguments that are erased during the call are still there for it" do
    peer = Peer.start()
    assert Peer.run(peer, Peer.Attack, :erased_arguments) == :ok
  end
end
