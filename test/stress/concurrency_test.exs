defmodule GrpcLb.Stress.ConcurrencyTest do
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  @moduletag :concurrency
  @moduletag timeout: 120_000

  test "16 processes x 250 picks differ by at most 1, and info knows the counts" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])

    counts =
      16
      |> together(fn _ -> for _ <- 1..250, do: elem(GrpcLb.pick(lb), 1) end)
      |> List.flatten()
      |> Enum.frequencies()

    assert counts |> Map.values() |> Enum.sum() == 4_000
    assert Enum.max(Map.values(counts)) - Enum.min(Map.values(counts)) <= 1
    assert Map.new(GrpcLb.info(lb).backends, &{&1.id, &1.picks}) == counts
  end

  test "with a cursor a scheduler they differ by at most the number of schedulers" do
    {:ok, lb} = GrpcLb.new({:round_robin, cursor: :per_scheduler}, [:a, :b, :c])

    counts =
      64
      |> together(fn _ -> for _ <- 1..1_000, do: elem(GrpcLb.pick(lb), 1) end)
      |> List.flatten()
      |> Enum.frequencies()

    spread = Enum.max(Map.values(counts)) - Enum.min(Map.values(counts))
    assert spread <= System.schedulers()
    assert Map.new(GrpcLb.info(lb).backends, &{&1.id, &1.picks}) == counts
  end

  test "50 pickers x 100 picks while the balancer is closed" do
    for _ <- 1..50 do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, {:b, %{some: "struct"}}])

      results =
        together(50, fn _ -> for(_ <- 1..100, do: GrpcLb.pick(lb)) end, fn ->
          GrpcLb.close(lb)
          assert GrpcLb.pick(lb) == {:error, :closed}
        end)

      for picks <- results do
        {open, closed} = Enum.split_while(picks, &match?({:ok, _}, &1))
        assert Enum.all?(open, &(&1 in [ok: :a, ok: %{some: "struct"}]))
        assert Enum.all?(closed, &(&1 == {:error, :closed}))
      end
    end
  end

  test "30 pickers x 200 picks while 8 backends shrink to 2" do
    all = for id <- 1..8, do: {id, %{id: id, name: "backend #{id}"}}
    survivors = Enum.take(all, 2)

    for _ <- 1..50 do
      {:ok, lb} = GrpcLb.new(:round_robin, all)
      shrunk = :atomics.new(1, [])

      results =
        together(
          30,
          fn _ ->
            for _ <- 1..200 do
              survivors_only = :atomics.get(shrunk, 1) == 1
              {survivors_only, GrpcLb.pick(lb)}
            end
          end,
          fn ->
            assert {:ok, %{removed: 6, kept: 2}} = GrpcLb.reconcile(lb, survivors)
            :atomics.put(shrunk, 1, 1)
          end
        )

      for {survivors_only, result} <- List.flatten(results) do
        assert {:ok, %{id: id}} = result
        assert not survivors_only or id <= 2
      end
    end
  end

  test "a pick is of the old list or the new, never of a mix" do
    # All values of a list carry its number; ids stay the same, so that everything is kept.
    list = fn number -> for id <- 1..5, do: {id, {number, String.duplicate("x", number)}} end
    {:ok, lb} = GrpcLb.new(:round_robin, list.(0))

    results =
      together(
        16,
        fn _ ->
          for _ <- 1..2_000 do
            {:ok, {number, text}} = GrpcLb.pick(lb)
            ^number = String.length(text)
            number
          end
        end,
        fn -> for number <- 1..200, do: GrpcLb.reconcile(lb, list.(number)) end
      )

    for numbers <- results, do: assert(numbers == Enum.sort(numbers))
    assert {:ok, {200, _}} = GrpcLb.pick(lb)
  end

  test "reconciles from many processes are done one after the other" do
    {:ok, lb} = GrpcLb.new(:round_robin, [])

    results =
      together(32, fn i ->
        for round <- 1..50 do
          {:ok, changes} =
            GrpcLb.reconcile(lb, for(id <- 1..rem(i + round, 7)//1, do: {{i, id}, id}))

          changes
        end
      end)

    changes = List.flatten(results)
    balance = Enum.sum(Enum.map(changes, &(&1.added - &1.removed)))
    # Only if each saw what the one before it had left do the changes add up to what is there.
    assert balance == length(GrpcLb.info(lb).backends)
    assert GrpcLb.info(lb).generation == 1 + 32 * 50
  end

  test "callers that are killed at any point leave nothing behind" do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, Map.new(1..50, &{&1, "#{&1}"})}, :b, :c])

    pick_for_ever = fn pick_for_ever ->
      {:ok, _} = GrpcLb.pick(lb)
      pick_for_ever.(pick_for_ever)
    end

    reconcile_for_ever = fn reconcile_for_ever ->
      {:ok, _} = GrpcLb.reconcile(lb, [:b, :c, {:d, "some text"}])
      {:ok, _} = GrpcLb.reconcile(lb, [{:a, %{}}, :b])
      GrpcLb.info(lb)
      reconcile_for_ever.(reconcile_for_ever)
    end

    for _ <- 1..100 do
      pickers = for _ <- 1..10, do: spawn(fn -> pick_for_ever.(pick_for_ever) end)
      writers = for _ <- 1..3, do: spawn(fn -> reconcile_for_ever.(reconcile_for_ever) end)
      for _ <- 1..20, do: GrpcLb.pick(lb)
      kill(pickers ++ writers)
    end

    # Whoever was killed inside of a reconcile has finished it: the lock is free.
    assert {:ok, _} = GrpcLb.reconcile(lb, [:x, :y])
    assert Enum.sort([GrpcLb.pick(lb), GrpcLb.pick(lb)]) == [ok: :x, ok: :y]
  end

  test "owners that die under picks and reconciles are all taken out" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:stays])

    together(
      8,
      fn _ -> for _ <- 1..5_000, do: {:ok, _} = GrpcLb.pick(lb) end,
      fn ->
        for _ <- 1..20 do
          owners = for _ <- 1..25, do: idle()
          owned = for owner <- owners, do: {owner, owner, owner: owner}
          {:ok, %{added: 25}} = GrpcLb.reconcile(lb, [:stays | owned])
          kill(owners)

          eventually(fn ->
            Enum.count(GrpcLb.info(lb).backends, &(&1.state == :down)) == 25
          end)

          assert for(_ <- 1..5, do: GrpcLb.pick(lb)) == List.duplicate({:ok, :stays}, 5)
        end
      end
    )
  end
end
