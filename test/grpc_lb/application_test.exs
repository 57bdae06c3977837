defmodule GrpcLb.ApplicationTest do
  # In a VM of its own, whose application can be broken.
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Peer

  for name <- [GrpcLb.Registry, GrpcLb.Janitor, GrpcLb.Connections, GrpcLb.Ticker] do
    test "the application and its users survive the death of #{inspect(name)}" do
      peer = Peer.start()
      assert Peer.run(peer, Peer.Supervision, :pool_survives_death_of, [unquote(name)])
    end
  end
end
