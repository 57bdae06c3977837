defmodule GrpcLb.Stress.PoolLeakTest do
  # In a VM of its own, where nobody else makes pools.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer
  alias GrpcLb.Test.Peer.PoolLeaks

  @rounds 10

  for scenario <- PoolLeaks.scenarios() do
    test "nothing is left of a pool that was #{scenario}" do
      peer = Peer.start()
      :ok = Peer.run(peer, :logger, :set_primary_config, [:level, :none])

      before = Peer.run(peer, PoolLeaks, :inventory)
      for _ <- 1..@rounds, do: Peer.run(peer, PoolLeaks, :cycle, [unquote(scenario)])

      eventually(
        fn -> same?(before, Peer.run(peer, PoolLeaks, :inventory)) end,
        fn -> inspect(before: before, now: Peer.run(peer, PoolLeaks, :inventory)) end
      )

      :peer.stop(peer)
    end
  end

  # What memory the VM holds is not the question here.
  defp same?(before, now), do: Map.delete(before, :resident) == Map.delete(now, :resident)
end
