defmodule GrpcLb.Stress.ConcurrencyTest do
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  @moduletag :concurrency

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
    for _ <- 1..20 do
      {:ok, lb} = GrpcLb.new(:pick_first, [{:a, %{some: "struct"}}])

      for seen <- picking_during(50, fn -> GrpcLb.pick(lb) end, fn -> GrpcLb.close(lb) end) do
        # Open, then closed, with nothing in between and no way back.
        results = for {_phase, result} <- seen, do: result
        assert Enum.dedup(results) == [{:ok, %{some: "struct"}}, {:error, :closed}]
        refute {:after, {:ok, %{some: "struct"}}} in seen
      end
    end
  end

  test "30 pickers x 200 picks while 8 backends shrink to 2" do
    all = for id <- 1..8, do: {id, %{id: id, name: "backend #{id}"}}

    for _ <- 1..20 do
      {:ok, lb} = GrpcLb.new(:round_robin, all)

      pick = fn ->
        {:ok, %{id: id}} = GrpcLb.pick(lb)
        id
      end

      shrink = fn ->
        assert {:ok, %{removed: 6, kept: 2}} = GrpcLb.reconcile(lb, Enum.take(all, 2))
      end

      seen = seen_during(30, pick, shrink, 200)
      assert for({:before, id} <- seen, uniq: true, do: id) |> Enum.sort() == Enum.to_list(1..8)
      assert for({:after, id} <- seen, uniq: true, do: id) |> Enum.sort() == [1, 2]
    end
  end

  # Each with a layer that comes and goes, or is not used at all.
  @layered [
    priorities: [overprovisioning_factor: 140],
    localities: [locality_weights: %{"zone 1" => 3}],
    subset: [subset: [size: 2]]
  ]

  defp layered(id) do
    {id, %{id: id, name: "backend #{id}"}, priority: rem(id, 2), locality: "zone #{rem(id, 3)}"}
  end

  for policy <- [:round_robin, :least_request, :ring_hash], {what, opts} <- @layered do
    test "50 pickers x 100 picks while a balancer with #{policy} and #{what} is closed" do
      for _ <- 1..5 do
        {:ok, lb} =
          GrpcLb.new(unquote(policy), Enum.map(1..8, &layered/1), unquote(Macro.escape(opts)))

        pick = fn -> with {:ok, %{id: id}} when id in 1..8 <- GrpcLb.pick(lb), do: :picked end

        for seen <- picking_during(50, pick, fn -> GrpcLb.close(lb) end) do
          assert Enum.dedup(for {_phase, result} <- seen, do: result) == [
                   :picked,
                   {:error, :closed}
                 ]

          refute {:after, :picked} in seen
        end
      end
    end

    test "30 pickers x 200 picks while 8 backends with #{policy} and #{what} shrink to 2" do
      for _ <- 1..5 do
        {:ok, lb} =
          GrpcLb.new(unquote(policy), Enum.map(1..8, &layered/1), unquote(Macro.escape(opts)))

        pick = fn ->
          {:ok, %{id: id}} = GrpcLb.pick(lb)
          id
        end

        shrink = fn ->
          assert {:ok, %{removed: 6, kept: 2}} = GrpcLb.reconcile(lb, Enum.map(1..2, &layered/1))
        end

        seen = seen_during(30, pick, shrink, 200)
        # The one of priority 0 serves, and with a subset, too, each priority has its own.
        assert for({:after, id} <- seen, uniq: true, do: id) == [2]
      end
    end
  end

  for policy <- [:ring_hash, :maglev, {:ring_hash, hash_balance_factor: 125}] do
    test "50 pickers x 100 picks of a key while #{inspect(policy)} is closed" do
      for _ <- 1..20 do
        {:ok, lb} = GrpcLb.new(unquote(policy), for(n <- 1..8, do: {"backend #{n}", n}))
        {:ok, its} = GrpcLb.pick(lb, "user 7")
        pick = fn -> GrpcLb.pick(lb, "user 7") end

        for seen <- picking_during(50, pick, fn -> GrpcLb.close(lb) end) do
          results = for {_phase, result} <- seen, do: result
          assert Enum.dedup(results) == [{:ok, its}, {:error, :closed}]
          refute {:after, {:ok, its}} in seen
        end
      end
    end

    test "30 pickers x 200 picks of keys while 8 backends of #{inspect(policy)} shrink to 2" do
      all = for n <- 1..8, do: {"backend #{n}", n}
      few = Enum.take(all, 2)
      keys = for n <- 1..16, do: "user #{n}"
      led = fn lb -> for key <- keys, do: GrpcLb.pick(lb, key) end
      {:ok, of_all} = GrpcLb.new(unquote(policy), all)
      {:ok, of_few} = GrpcLb.new(unquote(policy), few)
      {before, after_it} = {led.(of_all), led.(of_few)}

      for _ <- 1..20 do
        {:ok, lb} = GrpcLb.new(unquote(policy), all)

        # One key after the other: each leads to where the old list or the new one has it.
        pick = fn ->
          for {key, old, new} <- Enum.zip([keys, before, after_it]) do
            picked = GrpcLb.pick(lb, key)
            true = picked in [old, new]
            picked
          end
        end

        shrink = fn ->
          # By way of states: these move keys, and no other list comes of them.
          for {id, _value} <- all -- few, do: :ok = GrpcLb.set_state(lb, id, :ready)
          assert {:ok, %{removed: 6, kept: 2}} = GrpcLb.reconcile(lb, few)
        end

        for seen <- picking_during(30, pick, shrink, 13), {phase, led} <- seen do
          assert if phase == :after, do: led == after_it, else: true
        end
      end
    end
  end

  test "a pick is of the old list or the new, never of a mix" do
    # All values of a list carry its number; ids stay the same, so that everything is kept.
    list = fn number -> for id <- 1..5, do: {id, {number, String.duplicate("x", number)}} end
    {:ok, lb} = GrpcLb.new(:round_robin, list.(0))
    last_seen = :atomics.new(1, [])

    pick = fn ->
      {:ok, {number, text}} = GrpcLb.pick(lb)
      ^number = String.length(text)
      :atomics.put(last_seen, 1, number)
      number
    end

    # Some changes wait for a pick that sees them, so that picks do run between the changes, and not
    # only before and after them.
    change = fn ->
      for number <- 1..500 do
        {:ok, _} = GrpcLb.reconcile(lb, list.(number))
        if rem(number, 20) == 0, do: eventually(fn -> :atomics.get(last_seen, 1) == number end)
      end
    end

    seen =
      for seen <- picking_during(8, pick, change) do
        numbers = for {_phase, number} <- seen, do: number
        assert numbers == Enum.sort(numbers)
        assert List.last(seen) == {:after, 500}
        numbers
      end

    assert seen |> List.flatten() |> Enum.uniq() |> length() >= div(500, 20)
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
    # Two in a row have no list in common but the empty one, which is not published again.
    published = Enum.count(changes, &(&1.added + &1.removed > 0))
    assert GrpcLb.info(lb).generation == 1 + published
  end

  test "small changes on normal schedulers and large ones on dirty ones are done one after the other" do
    {:ok, lb} = GrpcLb.new(:round_robin, [])
    pickers = for _ <- 1..2, do: spawn_link(fn -> pick_for_ever(lb) end)

    results =
      together(16, fn i ->
        for round <- 1..30 do
          # Lists of 1 to 6 backends, and of 3,000: with the values of this process, of many words.
          count = if rem(i + round, 8) == 0, do: 3_000, else: rem(i + round, 7)
          list = for id <- 1..count//1, do: {id, {i, %{id => [id, "of this process"]}}}
          {:ok, changes} = GrpcLb.reconcile(lb, list)
          {:ok, added} = GrpcLb.add(lb, [{{:mine, i}, round}])
          {:ok, removed} = GrpcLb.remove(lb, [{:mine, i}])
          [changes, added, removed]
        end
      end)

    changes = List.flatten(results)
    %{backends: backends} = GrpcLb.info(lb)
    assert Enum.sum(Enum.map(changes, &(&1.added - &1.removed))) == length(backends)
    # The last reconcile is there whole, whatever was added and removed after it.
    assert length(Enum.uniq(for %{value: {i, _value}} <- backends, do: i)) <= 1
    assert Enum.map(backends, & &1.id) == Enum.to_list(1..length(backends)//1)
    for picker <- pickers, do: send(picker, :stop)
  end

  defp pick_for_ever(lb) do
    case GrpcLb.pick(lb) do
      {:ok, {_i, value}} -> [{id, [id, "of this process"]}] = Map.to_list(value)
      {:ok, round} when is_integer(round) -> :ok
      {:error, :no_backends} -> :ok
    end

    receive do
      :stop -> :ok
    after
      0 -> pick_for_ever(lb)
    end
  end

  describe "settings change under" do
    test "calls, of which none is lost" do
      {:ok, lb} = GrpcLb.new(:least_request, [:a, :b, :c, :d])
      ended = :counters.new(2, [])

      call = fn ->
        case GrpcLb.checkout(lb) do
          {:ok, :a, ticket} ->
            :ok = GrpcLb.complete(ticket, {:error, :refused})
            :counters.add(ended, 2, 1)

          {:ok, _value, ticket} ->
            :ok = GrpcLb.complete(ticket, :ok)
            :counters.add(ended, 1, 1)

          {:error, :overloaded} ->
            :ok
        end
      end

      detection = [consecutive_failures: 3, max_ejection_percent: 25, base_ejection_time: 1]

      settings = [
        [max_requests: 4],
        [max_requests_per_backend: 1],
        [outlier_detection: [interval: 1] ++ detection, panic_threshold: 50],
        [slow_start: [window: 1], policy: {:least_request, choices: 5}],
        [max_requests: nil, policy: :least_request],
        [outlier_detection: nil, panic_threshold: 0],
        [max_requests_per_backend: nil, slow_start: nil]
      ]

      change = fn ->
        together(4, fn i ->
          for round <- 1..100, opts = Enum.at(settings, rem(i + round, length(settings))) do
            {:ok, outcome} = GrpcLb.configure(lb, opts)
            outcome
          end
        end)
      end

      picking_during(16, call, change)

      backends = GrpcLb.info(lb).backends
      assert Enum.map(backends, & &1.in_flight) == [0, 0, 0, 0]
      assert Enum.sum(Enum.map(backends, & &1.successes)) == :counters.get(ended, 1)
      assert Enum.sum(Enum.map(backends, & &1.failures)) == :counters.get(ended, 2)

      # What is not given stays: off in the end is what was switched off last.
      off = [outlier_detection: nil, slow_start: nil, max_requests_per_backend: nil]
      {:ok, _outcome} = GrpcLb.configure(lb, [max_requests: 5] ++ off)
      calls = for _ <- 1..6, do: GrpcLb.checkout(lb)
      assert [{:error, :overloaded} | began] = Enum.reverse(calls)
      assert length(for {:ok, _value, ticket} <- began, do: GrpcLb.complete(ticket, :ok)) == 5
    end

    test "picks, which all go by them once the change has returned" do
      for _ <- 1..20 do
        {:ok, lb} = GrpcLb.new(:round_robin, [:a])

        call = fn ->
          with {:ok, :a, ticket} <- GrpcLb.checkout(lb), do: GrpcLb.complete(ticket, :ok)
        end

        change = fn -> assert GrpcLb.configure(lb, max_requests: 0) == {:ok, :changed} end

        for seen <- picking_during(16, call, change) do
          results = for {_phase, result} <- seen, do: result
          assert Enum.dedup(results) == [:ok, {:error, :overloaded}]
          refute {:after, :ok} in seen
        end
      end
    end

    test "each other: of many same changes one changes something" do
      for _ <- 1..20 do
        {:ok, lb} = GrpcLb.new(:random, [:a])

        outcomes =
          together(16, fn _ ->
            GrpcLb.configure(lb, max_requests: 7, outlier_detection: [consecutive_failures: 1])
          end)

        assert Enum.frequencies(outcomes) == %{{:ok, :changed} => 1, {:ok, :unchanged} => 15}
      end
    end

    test "a close" do
      for _ <- 1..20 do
        {:ok, lb} = GrpcLb.new(:random, [:a])
        change = fn -> GrpcLb.configure(lb, panic_threshold: Enum.random(0..100)) end

        seen = seen_during(8, change, fn -> GrpcLb.close(lb) end)
        assert {:after, {:error, :closed}} in seen
        refute Enum.any?(seen, &match?({:after, {:ok, _outcome}}, &1))
      end
    end
  end

  test "size and closed? see a change that has returned" do
    {:ok, lb} = GrpcLb.new(:random, [])

    together(8, fn i ->
      for round <- 1..200 do
        {:ok, _changes} = GrpcLb.add(lb, [{i, round}])
        assert GrpcLb.size(lb) in 1..8
        refute GrpcLb.closed?(lb)
      end
    end)

    assert GrpcLb.size(lb) == 8

    look = fn -> {GrpcLb.size(lb), GrpcLb.closed?(lb)} end

    for seen <- picking_during(8, look, fn -> GrpcLb.close(lb) end) do
      assert {:after, {0, true}} = List.last(seen)
      refute Enum.any?(seen, &match?({:after, {_size, false}}, &1))
      refute {:after, {8, true}} in seen
    end
  end

  test "adds and removes from many processes are each done, and picks see them in order" do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:stays, :stays}])
    seen_coming = :atomics.new(1, [])

    churn = fn ->
      together(8, fn i ->
        for round <- 1..100 do
          ids = for n <- 1..rem(i * round, 9)//1, do: {i, n}
          assert {:ok, %{added: added}} = GrpcLb.add(lb, for(id <- ids, do: {id, {:comes, id}}))
          assert added == length(ids)
          # In the first round none goes before any was picked.
          if added > 0, do: eventually(fn -> :atomics.get(seen_coming, 1) == 1 end)
          assert {:ok, %{removed: ^added}} = GrpcLb.remove(lb, ids)
        end
      end)
    end

    pick = fn ->
      case GrpcLb.pick(lb) do
        {:ok, :stays} ->
          :stays

        {:ok, {:comes, {_i, _n}}} ->
          :atomics.put(seen_coming, 1, 1)
          :comes
      end
    end

    seen = seen_during(8, pick, churn)
    assert {:before, :comes} in seen
    refute {:after, :comes} in seen
    assert [%{id: :stays}] = GrpcLb.info(lb).backends
  end

  test "members that come and die are never picked by whoever saw them die" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:stays], on_owner_death: :remove)

    deaths = fn ->
      together(8, fn _ ->
        for _ <- 1..100 do
          owner = idle()
          {:ok, %{added: 1}} = GrpcLb.add(lb, [{owner, owner, owner: owner}])
          kill([owner])
          refute Enum.any?(1..20, fn _ -> GrpcLb.pick(lb) == {:ok, owner} end)
        end
      end)
    end

    pick = fn -> with {:ok, _value} <- GrpcLb.pick(lb), do: :picked end

    assert MapSet.subset?(
             seen_during(8, pick, deaths),
             MapSet.new(before: :picked, after: :picked)
           )

    assert [%{id: :stays}] = GrpcLb.info(lb).backends
  end

  test "callers that are killed at any point leave the balancer as it should be" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:b])
    GrpcLb.Test.Peer.Leaks.kill_callers(lb)
    # Whoever was killed inside of a reconcile has finished it: the lock is free.
    assert {:ok, _} = GrpcLb.reconcile(lb, [:x, :y])
    assert Enum.sort([GrpcLb.pick(lb), GrpcLb.pick(lb)]) == [ok: :x, ok: :y]
  end

  test "owners that die under picks and reconciles are all taken out" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:stays])
    seen_owned = :atomics.new(1, [])

    pick = fn ->
      {:ok, picked} = GrpcLb.pick(lb)
      if picked != :stays, do: :atomics.put(seen_owned, 1, 1)
      if picked == :stays, do: :stays, else: :owned
    end

    deaths = fn ->
      for _ <- 1..20 do
        owners = for _ <- 1..25, do: idle()
        owned = for owner <- owners, do: {owner, owner, owner: owner}
        :atomics.put(seen_owned, 1, 0)
        {:ok, %{added: 25}} = GrpcLb.reconcile(lb, [:stays | owned])
        # They are picked, and die while they are.
        eventually(fn -> :atomics.get(seen_owned, 1) == 1 end)
        kill(owners)
        eventually(fn -> Enum.all?(1..26, fn _ -> GrpcLb.pick(lb) == {:ok, :stays} end) end)
        assert Enum.count(GrpcLb.info(lb).backends, &(&1.state == :down)) == 25
      end
    end

    seen = seen_during(8, pick, deaths)
    assert {:before, :owned} in seen
    refute {:after, :owned} in seen
  end
end
