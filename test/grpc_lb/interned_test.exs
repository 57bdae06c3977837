defmodule GrpcLb.InternedTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer

  @moduletag timeout: 120_000

  @nothing %{live: %{balancers: 0, slots: 0, values: 0, tickets: 0}, keys: []}

  describe "a balancer that interns" do
    test "returns what was given, by every way" do
      values = [:a, 1, "short", self(), [], %{m: [1.5]}, String.duplicate("x", 100), {:ok, nil}]
      backends = values |> Enum.with_index() |> Enum.map(fn {value, i} -> {i, value} end)
      {:ok, lb} = GrpcLb.new(:round_robin, backends, values: :interned)
      picked = for _ <- values, do: elem(GrpcLb.pick(lb), 1)
      assert picked == values
      assert Enum.map(GrpcLb.info(lb).backends, & &1.value) == values
      assert GrpcLb.run(lb, &(&1 in values))
      {:ok, value, ticket} = GrpcLb.checkout(lb)
      assert value in values
      assert GrpcLb.complete(ticket, :ok) == :ok

      for thoroughly? <- [false, true] do
        except = if thoroughly?, do: :checkout_except_thoroughly, else: :checkout_except
        others = values -- ["short"]
        assert {:ok, "short", _ticket} = apply(GrpcLb.Native, except, [lb, others])
      end
    end

    test "picks by key, and with a seed" do
      backends = for i <- 1..3, do: {"10.0.0.#{i}:50051", {:value, i}}
      {:ok, interned} = GrpcLb.new(:ring_hash, backends, values: :interned)
      {:ok, copied} = GrpcLb.new(:ring_hash, backends)
      for key <- ["a", "b", 7, nil], do: assert({:ok, {:value, _}} = GrpcLb.pick(interned, key))
      for key <- 1..50, do: assert(GrpcLb.pick(interned, key) == GrpcLb.pick(copied, key))

      {:ok, seeded} = GrpcLb.new(:random, backends, values: :interned, seed: 1)
      {:ok, same} = GrpcLb.new(:random, backends, seed: 1)
      for _ <- 1..50, do: assert(GrpcLb.pick(seeded) == GrpcLb.pick(same))
    end

    test "allocates nothing on the caller's heap" do
      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, Enum.to_list(1..1_000)}], values: :interned)
      {:ok, first} = GrpcLb.pick(lb)
      {:ok, second} = GrpcLb.pick(lb)
      assert :erts_debug.same(first, second)
    end

    test "keeps what is listed already with the same value" do
      {:ok, lb} = GrpcLb.new(:round_robin, [a: {:value, 1}, b: {:value, 2}], values: :interned)
      {:ok, before} = GrpcLb.pick(lb)
      assert {:ok, %{kept: 2}} = GrpcLb.reconcile(lb, a: {:value, 1}, b: {:value, 3})
      picked = for _ <- 1..2, do: elem(GrpcLb.pick(lb), 1)
      assert Enum.any?(picked, &:erts_debug.same(&1, before))
      assert Enum.sort(picked) == [{:value, 1}, {:value, 3}]
    end

    test "is changed by add, and refuses what any other refuses" do
      {:ok, lb} = GrpcLb.new(:round_robin, [a: 1], values: :interned)
      assert {:ok, %{added: 1, kept: 1}} = GrpcLb.add(lb, a: {:value, 2}, b: {:value, 3})
      assert Enum.sort(for _ <- 1..2, do: GrpcLb.pick(lb)) == [ok: {:value, 2}, ok: {:value, 3}]

      for change <- [&GrpcLb.reconcile/2, &GrpcLb.add/2] do
        assert_raise ArgumentError, ~r/backends 0 and 1 have the same id/, fn ->
          change.(lb, a: {:value, 4}, a: {:value, 5})
        end

        assert_raise ArgumentError, ~r/backend 0 has the balancer itself/, fn ->
          change.(lb, a: lb)
        end
      end

      assert_raise ArgumentError, ~r/backends 0 and 1 have the same id/, fn ->
        GrpcLb.new(:round_robin, [a: 1, a: 2], values: :interned)
      end

      assert Enum.sort(for _ <- 1..2, do: GrpcLb.pick(lb)) == [ok: {:value, 2}, ok: {:value, 3}]
      assert GrpcLb.close(lb) == :ok
      assert GrpcLb.add(lb, c: {:value, 6}) == {:error, :closed}
      assert GrpcLb.reconcile(lb, c: {:value, 6}) == {:error, :closed}
    end

    test "has a long list, with values of every size" do
      backends = for i <- 1..1_000, do: {i, {i, String.duplicate("x", rem(i * 37, 2_000))}}
      {:ok, lb} = GrpcLb.new(:round_robin, backends, values: :interned)
      picked = for _ <- backends, do: elem(GrpcLb.pick(lb), 1)
      assert picked == Enum.map(backends, &elem(&1, 1))
    end

    test "cannot be made of one that copies, or the other way" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a])

      assert_raise ArgumentError, ~r/unknown option :values/, fn ->
        GrpcLb.configure(lb, values: :interned)
      end

      assert_raise ArgumentError,
                   ~r/option :values must be :interned or :copied, got: true/,
                   fn ->
                     GrpcLb.new(:round_robin, [:a], values: true)
                   end
    end

    test "takes only pages that were filled" do
      {:ok, lb} = GrpcLb.new(:round_robin, [], values: :interned)
      page = GrpcLb.Native.intern(lb, [:a], 0)

      for interned <- [{make_ref(), 0}, {page, 1}, {page, -1}, :page, {lb, 0}] do
        assert_raise ArgumentError, ~r/backend 0 has no interned, or one that it cannot/, fn ->
          GrpcLb.Native.reconcile(lb, [{:a, nil, %{interned: interned}}])
        end
      end

      assert {:ok, _} = GrpcLb.Native.reconcile(lb, [{:a, nil, %{interned: {page, 0}}}])
      assert GrpcLb.pick(lb) == {:ok, :a}
      GrpcLb.Native.let_go_of_page(page)
      assert GrpcLb.pick(lb) == {:ok, :a}

      assert_raise ArgumentError, fn ->
        GrpcLb.Native.reconcile(lb, [{:b, nil, %{interned: {page, 0}}}])
      end
    end
  end

  describe "slots" do
    setup do: %{peer: Peer.start()}

    @tag :concurrency
    test "are erased under callers that keep, send and store what they picked", %{peer: peer} do
      assert Peer.run(peer, Peer.Interned, :churn, [16, 400]) == :ok
      assert_nothing_left(peer)
    end

    @tag :concurrency
    test "of processes that are killed are erased", %{peer: peer} do
      assert Peer.run(peer, Peer.Interned, :kill_callers, [600]) == :ok
      assert_nothing_left(peer)
    end

    test "that wait are bounded: what comes then is copied", %{peer: peer} do
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [pages: 5]])

      assert Peer.run(peer, Peer.Interned, :change_unerased, [50]) == %{waits: 7, copied: 1}
      assert_nothing_left(peer)
    end

    test "are erased by themselves", %{peer: peer} do
      Peer.run(peer, Application, :stop, [:grpc_lb])
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [every: 1]])
      Peer.run(peer, Application, :ensure_all_started, [:grpc_lb])
      Peer.run(peer, Peer.Interned, :change_unerased, [50])

      eventually(fn -> Peer.run(peer, GrpcLb.Native, :live_counts).slots == 0 end)
    end

    test "outlive the application, and wait for its next start", %{peer: peer} do
      assert Peer.run(peer, Peer.Interned, :outlive_the_application) == 1
      assert_nothing_left(peer)
    end
  end

  # The VM frees what was erased after it has looked at every process.
  defp assert_nothing_left(peer) do
    left = fn -> Peer.run(peer, Peer.Interned, :left) end
    eventually(fn -> left.() == @nothing end, fn -> "left: #{inspect(left.())}" end)
  end
end
