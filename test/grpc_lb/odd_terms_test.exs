defmodule GrpcLb.OddTermsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Peer

  setup_all do
    # One for all: the VM ends with the test that cannot be.
    peer = Peer.start()
    %{peer: peer, kinds: Peer.run(peer, Peer.OddTerms, :kinds)}
  end

  test "are refused by every function, in every place where they are wrong",
       %{peer: peer, kinds: kinds} do
    for kind <- kinds, {place, outcome} <- Peer.run(peer, Peer.OddTerms, :refusals, [kind]) do
      assert {:refused, message} = outcome, "#{kind} in #{inspect(place)}: #{inspect(outcome)}"
      assert byte_size(message) < 500, "#{kind} in #{inspect(place)}: #{message}"
    end
  end

  test "are kept as ids and values, and found again", %{peer: peer, kinds: kinds} do
    for kind <- kinds, do: assert(Peer.run(peer, Peer.OddTerms, :keep, [kind]) == :ok)
  end

  test "are native records among others, where there are any", %{kinds: kinds} do
    assert :native_record in kinds == String.to_integer(System.otp_release()) >= 29
  end
end
