defmodule GrpcLb.Stress.LeakTest do
  # In a VM of its own, where nobody else makes balancers.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer

  @moduletag timeout: 180_000
  @nothing %{balancers: 0, snapshots: 0, values: 0}

  setup do
    %{peer: Peer.start()}
  end

  test "500 cycles of new, reconcile and close", %{peer: peer} do
    assert_nothing_left(peer, :close_cycles)
  end

  test "500 cycles of new and dropping the reference", %{peer: peer} do
    assert_nothing_left(peer, :drop_cycles)
  end

  test "new and reconcile that are refused", %{peer: peer} do
    assert_nothing_left(peer, :refused_cycles)
  end

  test "balancers under load whose owner is killed", %{peer: peer} do
    assert_nothing_left(peer, :owned_cycles)
  end

  test "a closed balancer holds no values, though its reference is held", %{peer: peer} do
    assert Peer.run(peer, Peer.Leaks, :values_after_close) == 0
  end

  defp assert_nothing_left(peer, cycles) do
    # The first round loads code and fills the allocators' caches.
    Peer.run(peer, Peer.Leaks, cycles)
    eventually(fn -> Peer.run(peer, Peer.Leaks, :inventory).counts == @nothing end)
    before = Peer.run(peer, Peer.Leaks, :inventory)
    for _ <- 1..3, do: Peer.run(peer, Peer.Leaks, cycles)

    eventually(
      fn -> same?(before, Peer.run(peer, Peer.Leaks, :inventory)) end,
      fn ->
        "before: #{inspect(before)}, now: #{inspect(Peer.run(peer, Peer.Leaks, :inventory))}"
      end
    )
  end

  # Memory is flat when three rounds, with some hundred balancers each, leave less than 1 MiB.
  defp same?(before, now) do
    Map.delete(before, :memory) == Map.delete(now, :memory) and
      now.memory - before.memory < 1_048_576
  end
end
