defmodule GrpcLb.Stress.ConnectionLeakTest do
  # In a VM of its own, where nobody else has processes, sockets and balancers.
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Peer

  setup do
    %{peer: Peer.start()}
  end

  for {what, cycles, how} <- [
        {:connect_and_disconnect, 500, "connect and disconnect"},
        {:connect_at_once, 30, "connect and disconnect by 20 processes at once"},
        {:supervised, 30, "connections that their supervisor ends"},
        {:killed_without_supervisor, 30, "connections that are killed and have no supervisor"},
        {:killed_with_supervisor, 30, "connections that are killed and brought back"},
        {:failed_connects, 30, "connects that fail, at the resolver and at the servers"},
        {:shrinking, 30, "lists that grow and shrink"},
        {:killed_transports, 30, "transports that are killed"},
        {:dropped_while_connecting, 30, "callers that are killed while they connect"},
        {:killed_foundations, 1, "the death of each process that connections stand on"}
      ] do
    test "nothing is left after #{cycles} cycles of #{how}", %{peer: peer} do
      args = [unquote(what), unquote(cycles)]
      {before, later} = Peer.run(peer, GrpcLb.Test.Peer.ConnectionLeaks, :around, args)
      assert later == before
    end
  end
end
