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

  test "that are small only as long as what is in them is shared are refused", %{peer: peer} do
    for {place, outcome} <- Peer.run(peer, Peer.OddTerms, :refusals_of_shared) do
      assert {:refused, message} = outcome, "#{inspect(place)}: #{inspect(outcome)}"
      assert byte_size(message) < 500, "#{inspect(place)}: #{message}"
    end
  end

  test "are ids that take too much together" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])
    ids = List.duplicate(:erlang.make_tuple(2_000_000, 0), 68)
    leave = &GrpcLb.Native.reconcile_draining(&1, [{:a, :a}], &2)

    for change <- [&GrpcLb.remove/2, leave] do
      error = assert_raise ArgumentError, fn -> change.(lb, [:a | ids]) end
      assert error.message =~ "words"
      assert %{backends: [%{id: :a}]} = GrpcLb.info(lb)
    end
  end

  test "are a balancer in its own list: refused, and another's is not" do
    {:ok, other} = GrpcLb.new(:round_robin, [])
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])

    for change <- [&GrpcLb.reconcile/2, &GrpcLb.add/2] do
      message = ~r/backend 1 has the balancer itself as its value/
      assert_raise ArgumentError, message, fn -> change.(lb, [{1, other}, {2, lb}]) end
      assert %{backends: [%{id: :a}]} = GrpcLb.info(lb)
    end

    assert {:ok, %{added: 1}} = GrpcLb.add(lb, [{1, other}])
  end

  test "are native records among others, where there are any", %{kinds: kinds} do
    assert :native_record in kinds == String.to_integer(System.otp_release()) >= 29
  end
end
