defmodule GrpcLb.Stress.KilledCallersTest do
  use ExUnit.Case, async: false

  alias GrpcLb.Test.Peer

  @moduletag :concurrency

  for how <- [:checkout, :run] do
    test "10,000 callers that are killed at any moment leave nothing in flight: #{how}" do
      leave_nothing(unquote(how))
    end
  end

  defp leave_nothing(how) do
    peer = Peer.start()

    for policy <- [:least_request, :peak_ewma] do
      left = Peer.run(peer, Peer.KilledCallers, :kill, [10_000, policy, how])
      assert %{in_flight: 0, tickets: 0, limit_is_free: true} = left
      # It is one only if many of them had a call in flight.
      assert left.killed > 1_000

      # Who is killed just after checkout, or just after complete, has not counted itself; and a run may
      # have another in it.
      assert left.cancelled in (left.killed - 10_000)..(left.killed + 20_000)
      assert left.successes >= left.ended
    end
  end
end
