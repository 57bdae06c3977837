defmodule GrpcLb.InternedTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer

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

    test "has what is listed as it is offered reconciled at once" do
      list = for i <- 1..100, do: {i, {:value, i}}
      {:ok, lb} = GrpcLb.new(:round_robin, list, values: :interned)
      same = &GrpcLb.Native.reconcile_listed(lb, &1)
      assert same.(list) == {:ok, %{added: 0, removed: 0, kept: 100}}
      assert same.(List.delete_at(list, -1)) == {:ok, %{added: 0, removed: 1, kept: 99}}
      changed = GrpcLb.info(lb)

      assert same.(list) == :unfinished
      assert same.([{1, {:value, 2}} | tl(list)]) == :unfinished
      assert same.([{1, {:value, 1}, %{weight: 2}} | tl(list)]) == :unfinished
      assert_raise ArgumentError, ~r/backend 0 must be/, fn -> same.([:atom | list]) end
      assert GrpcLb.info(lb) == changed

      # In one turn, in several, and not at once.
      for {n, answer} <- [{2_048, {:ok, 2_048}}, {16_384, {:ok, 16_384}}, {16_385, :unfinished}] do
        list = for i <- 1..n, do: {i, {:value, i}}
        {:ok, _changes} = GrpcLb.reconcile(lb, list)
        changed = GrpcLb.info(lb)
        answered = with {:ok, %{added: 0, removed: 0, kept: kept}} <- same.(list), do: {:ok, kept}
        assert answered == answer
        assert same.(List.replace_at(list, -1, {n, {:value, 0}})) == :unfinished
        assert same.(List.replace_at(list, 1_500, {:new, :value})) == :unfinished
        assert GrpcLb.info(lb) == changed
      end

      GrpcLb.close(lb)
      assert same.([]) == {:error, :closed}
      assert same.(list) == :unfinished
    end

    test "is not reconciled at once where that takes long" do
      same = &GrpcLb.Native.reconcile_listed(&1, &2)
      small = for i <- 1..5, do: {i, i}
      {:ok, lb} = GrpcLb.new(:random, small)
      # What is refused is not compared with anything later.
      assert_raise ArgumentError, fn ->
        GrpcLb.Native.reconcile(lb, [{1, Enum.to_list(1..1_100_000)}])
      end

      assert {:ok, %{kept: 5}} = same.(lb, small)
      {:ok, _changes} = GrpcLb.reconcile(lb, [{6, Tuple.duplicate(1, 200_000)} | small])
      assert same.(lb, small) == :unfinished

      for {backends, bytes, answer} <- [{32, 65_536, {:ok, 32}}, {33, 65_536, :unfinished}] do
        text = String.duplicate("x", bytes)
        list = for i <- 1..backends, do: {i, i, %{hash_key: text}}

        {:ok, lb} =
          GrpcLb.Native.new({:maglev, %{table_size: 101, hash_balance_factor: nil}}, list, %{})

        answered = with {:ok, %{kept: kept}} <- same.(lb, list), do: {:ok, kept}
        assert answered == answer
      end
    end

    test "is told what a change would list with another value" do
      value = &{:value, &1, String.duplicate("x", 100)}

      # As many as are compared in one turn, and more.
      for n <- [100, 2_048, 2_049] do
        list = for i <- 1..n, do: {i, value.(i)}
        {:ok, lb} = GrpcLb.new(:round_robin, list, values: :interned)
        new = &GrpcLb.Native.extents_of_new(lb, &1)
        assert new.(list) == []
        assert new.(Enum.take(list, -3)) == []
        assert new.(tl(list) ++ [hd(list)]) == []
        assert new.([{1, value.(1), %{weight: 2}} | tl(list)]) == []
        assert new.([{1, nil} | tl(list)]) == []
        replaced = List.replace_at(list, 7, {8, value.(0)})
        # The tuple, and what refers to a binary whose bytes are shared: 12 words of them.
        assert [{7, {:value, 0, _} = other, 24}] = new.(replaced)
        assert other == value.(0)
        inserted = List.insert_at(list, 50, {:new, value.(0), %{weight: 3}})
        assert [{50, ^other, 24}] = new.([{1, nil} | tl(inserted)])

        # More than are looked at on the calling scheduler.
        for many <- [64, 65, n - 1] do
          {some, rest} = Enum.split(list, many)
          replaced = for({i, _} <- some, do: {i, value.(-i)}) ++ rest
          expected = for i <- 0..(many - 1), do: {i, value.(-i - 1)}
          assert for({i, value, _words} <- new.(replaced), do: {i, value}) == expected
          assert {:ok, %{kept: ^n}} = GrpcLb.reconcile(lb, replaced)
          assert new.(replaced) == []

          assert for(%{value: value} <- GrpcLb.info(lb).backends, do: value) ==
                   for({_i, value} <- replaced, do: value)

          {:ok, _changes} = GrpcLb.reconcile(lb, list)
        end

        assert_raise ArgumentError, ~r/backend 3 must be a tuple/, fn ->
          new.(List.insert_at(list, 3, :a))
        end

        assert_raise ArgumentError, ~r/argument 2 must be a proper list/, fn -> new.([1 | 2]) end
      end
    end

    @tag :concurrency
    test "interns whoever else changes it at the same time" do
      list = fn i -> for n <- 1..200, do: {n, {:value, n, if(rem(n, 50) == 0, do: i)}} end
      {:ok, lb} = GrpcLb.new(:round_robin, list.(0), values: :interned)

      1..4
      |> Enum.map(fn who ->
        Task.async(fn ->
          for i <- 1..20 do
            {:ok, %{kept: 200}} = GrpcLb.reconcile(lb, list.({who, i}))
            {:ok, %{kept: 200}} = GrpcLb.add(lb, [{50, {:value, 50, {who, :added, i}}}])
          end
        end)
      end)
      |> Task.await_many(:infinity)

      {first, second} = Enum.split(for(_ <- 1..400, do: elem(GrpcLb.pick(lb), 1)), 200)
      assert Enum.all?(Enum.zip(first, second), fn {one, two} -> :erts_debug.same(one, two) end)
      assert Enum.sort(for {:value, n, _} <- first, do: n) == Enum.to_list(1..200)
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

    test "measures no more of a list than a list may have" do
      # Of ids all bytes are read.
      id = String.duplicate("x", 2 ** 23)
      assert length(GrpcLb.Native.extents(for i <- 1..200, do: {{id, i}, :value})) == 127

      # What is listed is compared once.
      {:ok, lb} = GrpcLb.new(:round_robin, [a: 1], values: :interned)
      new = GrpcLb.Native.extents_of_new(lb, List.duplicate({:a, 1}, 3_000))
      assert for({i, 1, 0} <- new, do: i) == Enum.to_list(1..2_999)
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
      # Others use pages at the same time.
      page = GrpcLb.Native.intern(lb, [:a], 0, 0xFFFFFFFF)

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

  test "pages that are retired are named some at a time, and all are erased" do
    for i <- 1..600 do
      page = GrpcLb.Native.intern(nil, [{:value, i}], 10, 0xFFFFFFFF)
      :ok = GrpcLb.Native.let_go_of_page(page)
    end

    named =
      for {_pages, _words, first} <- GrpcLb.Native.retired_pages(1_000_000), do: length(first)

    assert Enum.all?(named, &(&1 <= 512))

    # Others retire pages at the same time.
    eventually(fn -> GrpcLb.Eraser.erase() == :ok and GrpcLb.Eraser.waiting() == {0, 0} end)
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

    test "are bounded in all: what has no room is copied", %{peer: peer} do
      # A page of 64 such values takes 16 + 64 * (4 + 4) words, one of 40 takes 336.
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [total_words: 2 * 528 + 336]])
      assert Peer.run(peer, Peer.Interned, :list, [168]) == %{interned: 168, copied: 0}
      assert_nothing_left(peer)
      assert Peer.run(peer, Peer.Interned, :list, [169]) == %{interned: 128, copied: 41}
      assert_nothing_left(peer)
      assert Peer.run(peer, Peer.Interned, :list, [1_000]) == %{interned: 128, copied: 872}
      # What waits to be erased takes room.
      assert Peer.run(peer, Peer.Interned, :list, [64]).copied == 64
      assert_nothing_left(peer)
      assert Peer.run(peer, Peer.Interned, :list, [168]) == %{interned: 168, copied: 0}
      assert_nothing_left(peer)
    end

    test "of large values are few: one that takes much of what there may be is copied", %{
      peer: peer
    } do
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [total_words: 8_000]])
      large = Peer.run(peer, Peer.Interned, :list_a_large_one, [8_000])
      assert large == %{interned: 2, copied: 1}
      assert_nothing_left(peer)
    end

    @tag :concurrency
    test "are bounded in all, whoever lists them, and whatever keeps their pages", %{peer: peer} do
      # 64 values of 4 + 2 * 28 words.
      page = 16 + 64 * (4 + 60)
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [total_words: 20 * page]])
      assert Peer.run(peer, Peer.Interned, :retain, [4, 50]) == 20
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
