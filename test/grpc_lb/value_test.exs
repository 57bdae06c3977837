defmodule GrpcLb.ValueTest do
  use ExUnit.Case, async: true

  import Bitwise

  alias GrpcLb.Test.Peer

  defmodule Point do
    defstruct [:x, :y]
  end

  defp terms do
    big = :binary.copy(<<"0123456789">>, 10_000)

    [
      :atom,
      nil,
      [],
      0,
      -1,
      (1 <<< 59) - 1,
      1 <<< 59,
      -(1 <<< 59),
      -(1 <<< 59) - 1,
      (1 <<< 63) - 1,
      -(1 <<< 63),
      1 <<< 64,
      1 <<< 5_000,
      -(1 <<< 5_000),
      1.5,
      -0.0,
      "",
      "small",
      :binary.copy("x", 63),
      :binary.copy("x", 64),
      :binary.copy("x", 65),
      big,
      binary_part(big, 3, 7),
      binary_part(big, 3, 50_000),
      <<1::3>>,
      <<big::binary, 1::1>>,
      self(),
      make_ref(),
      :atomics.new(1, []),
      hd(Port.list()),
      &{String.length(&1)},
      remote(:pid),
      remote(:reference),
      remote(:port),
      {},
      {1, {2, {3, [4, %{5 => 6}]}}},
      [1, 2 | 3],
      ~c"charlist",
      [a: 1, b: 2],
      %Point{x: 1, y: [2]},
      MapSet.new(1..100),
      Enum.reduce(1..5_000, [], &[&1 | [&2]])
    ] ++ closures(big) ++ maps()
  end

  defp closures(big), do: [fn -> big end, fn x -> {x, self()} end]

  defp maps do
    for n <- [0, 1, 31, 32, 33, 1_000, 100_000], do: Map.new(Enum.to_list(1..n//1), &{&1, [&1]})
  end

  # Terms of a node that this one has never met, in the external term format.
  defp remote(:pid), do: external(<<88, 119, 5, "there", 7::32, 0::32, 1::32>>)
  defp remote(:port), do: external(<<120, 119, 5, "there", 7::64, 1::32>>)

  defp remote(:reference),
    do: external(<<90, 3::16, 119, 5, "there", 1::32, 1::32, 2::32, 3::32>>)

  defp external(format), do: :erlang.binary_to_term(<<131, format::binary>>)

  test "terms of every kind come back equal, as values and as ids" do
    for term <- terms() do
      {:ok, lb} = GrpcLb.new(:round_robin, [{term, term}])
      assert {:ok, back} = GrpcLb.pick(lb)
      assert back === term
      assert [%{id: ^term, value: ^term}] = GrpcLb.info(lb).backends
      assert GrpcLb.reconcile(lb, [{term, term}]) == {:ok, %{added: 0, removed: 0, kept: 1}}
    end
  end

  test "only what is no single word and no short binary is kept in an environment" do
    # In a VM of its own, for others make balancers here.
    peer = Peer.start()

    for {backends, environments} <- [
          {[:a, 1, [], {"short", self()}, {"id", "value"}], 0},
          {[{1, {:tuple}}, {{:tuple}, 1}, {{:one}, {:other}}, :binary.copy("x", 64)], 4}
        ] do
      assert Peer.run(peer, Peer.Leaks, :environments_of, [backends]) == environments
    end
  end

  test "they still do when the process that made them is dead" do
    test = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        terms = terms()
        backends = terms |> Enum.with_index() |> Enum.map(fn {term, id} -> {id, term} end)
        {:ok, lb} = GrpcLb.new(:round_robin, backends)
        # Terms that only compare equal to themselves are compared through what they do.
        send(test, {lb, Enum.map(terms, &describe/1)})
        :erlang.garbage_collect()
      end)

    assert_receive {lb, descriptions}, 10_000
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 10_000
    :erlang.garbage_collect()

    for description <- descriptions do
      {:ok, term} = GrpcLb.pick(lb)
      assert describe(term) == description
      :erlang.garbage_collect()
    end
  end

  defp describe(fun) when is_function(fun, 0), do: describe(fun.())
  defp describe(fun) when is_function(fun, 1), do: describe(elem(fun.("argument"), 0))
  defp describe(term), do: :erlang.phash2(term, 1 <<< 32)

  test "what is handed out belongs to the caller: the balancer can go" do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, %{list: Enum.to_list(1..1_000)}}])
    {:ok, value} = GrpcLb.pick(lb)
    GrpcLb.close(lb)
    :erlang.garbage_collect()
    assert value == %{list: Enum.to_list(1..1_000)}
  end

  test "a balancer can be a backend of another" do
    {:ok, inner} = GrpcLb.new(:round_robin, [:a])
    {:ok, outer} = GrpcLb.new(:round_robin, [{:inner, inner}])
    {:ok, found} = GrpcLb.pick(outer)
    assert found == inner
    assert GrpcLb.pick(found) == {:ok, :a}
  end
end
