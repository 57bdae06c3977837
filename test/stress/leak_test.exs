defmodule GrpcLb.Stress.LeakTest do
  # In a VM of its own, where nobody else makes balancers.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer

  @rounds 20
  @nothing %{balancers: 0, snapshots: 0, values: 0, slots: 0, tickets: 0}

  setup do
    %{peer: Peer.start()}
  end

  test "500 cycles of new, reconcile and close", %{peer: peer} do
    assert_nothing_left(peer, :close_cycles)
  end

  test "500 cycles of new and dropping the reference", %{peer: peer} do
    assert_nothing_left(peer, :drop_cycles)
  end

  test "backends that are added and removed, or die", %{peer: peer} do
    assert_nothing_left(peer, :changed_cycles)
  end

  test "calls that end, or are forgotten, with all that time drives", %{peer: peer} do
    assert_nothing_left(peer, :call_cycles)
  end

  test "layers and subsets that come and go", %{peer: peer} do
    assert_nothing_left(peer, :layered_cycles)
  end

  test "new and reconcile that are refused", %{peer: peer} do
    assert_nothing_left(peer, :refused_cycles)
  end

  test "balancers under load whose owner is killed", %{peer: peer} do
    assert_nothing_left(peer, :owned_cycles)
  end

  test "callers that are killed at any point", %{peer: peer} do
    assert_nothing_left(peer, :killed_caller_cycles)
  end

  test "a closed balancer holds no values, though its reference is held", %{peer: peer} do
    assert Peer.run(peer, Peer.Leaks, :values_after_close) == 0
    assert Peer.run(peer, Peer.Leaks, :values_after_busy_close) == 0
  end

  if File.dir?("/proc/self/task") do
    test "large balancers that are dropped at once are freed by one thread", %{peer: peer} do
      assert Peer.run(peer, Peer.Leaks, :most_threads_of_dropped, [300]) == 1
    end
  end

  test "an owner is monitored once, and only while it owns something", %{peer: peer} do
    assert Peer.run(peer, Peer.Leaks, :monitors_of_an_owner) == [1, 1, 0, 0]
  end

  defp assert_nothing_left(peer, cycles) do
    # The first rounds load code and fill the allocators' caches.
    for _ <- 1..@rounds, do: Peer.run(peer, Peer.Leaks, cycles)
    eventually(fn -> Peer.run(peer, Peer.Leaks, :inventory).counts == @nothing end)
    before = Peer.run(peer, Peer.Leaks, :inventory)
    for _ <- 1..@rounds, do: Peer.run(peer, Peer.Leaks, cycles)

    eventually(
      fn -> same?(before, Peer.run(peer, Peer.Leaks, :inventory)) end,
      fn ->
        "before: #{inspect(before)}, now: #{inspect(Peer.run(peer, Peer.Leaks, :inventory))}"
      end
    )
  end

  # Thousands of balancers were made; 200 bytes lost by each are more than that.
  @pages_allowed 512

  defp same?(before, now) do
    Map.delete(before, :resident) == Map.delete(now, :resident) and
      now.resident - before.resident < @pages_allowed
  end
end
