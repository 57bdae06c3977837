defmodule GrpcLb.ElixirGrpc.OwnerTest do
  use ExUnit.Case, async: true

  alias GrpcLb.ElixirGrpc.Owner

  # A look is due a second after each of several events.
  test "one that has ended has its time to come back, whichever look is the first" do
    owner = Owner.ended(%Owner{name: make_ref()})
    just_ended = %{owner | ended_ms: owner.ended_ms + 60_000}
    assert Owner.look(just_ended) == {:ok, just_ended}
    assert_receive :look_for_owner
    assert Owner.look(owner) == :gone
  end
end
