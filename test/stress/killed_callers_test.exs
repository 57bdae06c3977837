defmodule GrpcLb.Stress.KilledCallersTest do
  use ExUnit.Case, async: false

  alias GrpcLb.Test.Peer

  @moduletag :concurrency
  @moduletag timeout: 300_000

  test "10,000 callers that are killed between checkout and complete leave nothing in flight" do
    peer = Peer.start()

    for policy <- [:least_request, :peak_ewma] do
      left = Peer.run(peer, Peer.KilledCallers, :kill, [10_000, policy])
      assert %{in_flight: 0, tickets: 0, limit_is_free: true} = left
      # It is one only if many of them had a call in flight.
      assert left.killed > 1_000
      # Who is killed just after checkout, or just after complete, has not counted itself.
      assert left.cancelled in (left.killed - 10_000)..(left.killed + 10_000)
      assert left.successes >= left.ended
    end
  end
end
