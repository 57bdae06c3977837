defmodule GrpcLb.Test.Peer.StickyNode do
  @moduledoc "What the tests of keys have done on another node."

  def picks(policy, backends, keys) do
    {:ok, lb} = GrpcLb.new(policy, backends)
    for key <- keys, do: GrpcLb.pick(lb, key)
  end
end
