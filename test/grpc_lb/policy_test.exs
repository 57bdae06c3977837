defmodule GrpcLb.PolicyTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.{Clock, Policy}

  doctest GrpcLb.Policy

  defp picks(lb, n), do: for(_ <- 1..n, do: elem(GrpcLb.pick(lb), 1))

  @names [:round_robin, :weighted_round_robin, :least_request, :peak_ewma, :random, :pick_first]

  describe "to_native/1" do
    test "spells out every option, with the defaults that the specifications have" do
      round_robin = %{cursor: :shared, start: :first, on_reconcile: :keep}
      peak_ewma = %{decay: 10_000, default_rtt: 30, penalty: {:times, 90.0}}

      weighted = %{
        weights: :static,
        cursor: :shared,
        blackout_period: 10_000,
        weight_expiration_period: 180_000,
        weight_update_period: 1_000,
        error_utilization_penalty: 1.0,
        metric_names: [],
        reports: :per_call
      }

      reported = %{
        weights: :reported,
        blackout_period: 0,
        weight_expiration_period: 1,
        weight_update_period: 100,
        error_utilization_penalty: 0.0,
        metric_names: ["named_metrics.a"],
        reports: :out_of_band
      }

      for {policy, options} <- [
            {:random, %{}},
            {{:random, []}, %{}},
            {:pick_first, %{shuffle: false}},
            {{:pick_first, shuffle: true}, %{shuffle: true}},
            {:round_robin, round_robin},
            {{:round_robin, cursor: :per_scheduler, start: :random, on_reconcile: :reset},
             %{cursor: :per_scheduler, start: :random, on_reconcile: :reset}},
            {:least_request, %{choices: 2, bias: 1.0}},
            {{:least_request, choices: 3, bias: 0}, %{choices: 3, bias: 0.0}},
            {:peak_ewma, peak_ewma},
            {{:peak_ewma, decay: 1, default_rtt: 2, penalty: 0},
             %{decay: 1, default_rtt: 2, penalty: 0}},
            {{:peak_ewma, penalty: {:times, 3}},
             %{decay: 10_000, default_rtt: 30, penalty: {:times, 3.0}}},
            {:weighted_round_robin, weighted},
            {{:weighted_round_robin, cursor: :per_scheduler},
             %{weighted | cursor: :per_scheduler}},
            {{:weighted_round_robin, weights: :reported}, %{weighted | weights: :reported}},
            {{:weighted_round_robin, Enum.to_list(reported)}, Map.merge(weighted, reported)}
          ] do
        name = if is_tuple(policy), do: elem(policy, 0), else: policy
        assert Policy.to_native(policy) === {name, options}
      end
    end

    test "clamps what the specifications clamp" do
      for {choices, used} <- [{2, 2}, {10, 10}, {11, 10}, {0xFFFFFFFF, 10}, {:all, :all}] do
        assert {:least_request, %{choices: ^used}} =
                 Policy.to_native({:least_request, choices: choices})
      end

      for {period, used} <- [{0, 100}, {99, 100}, {100, 100}, {101, 101}] do
        policy = {:weighted_round_robin, weights: :reported, weight_update_period: period}
        assert {_, %{weight_update_period: ^used}} = Policy.to_native(policy)
      end
    end

    test "says what is wrong and what is allowed" do
      reported = &{:weighted_round_robin, [weights: :reported] ++ &1}

      for {policy, message} <- [
            {:rr, "unknown policy :rr, expected :round_robin or :weighted_round_robin or "},
            {{:rr, []}, "unknown policy {:rr, []}, expected "},
            {"round_robin", "unknown policy \"round_robin\""},
            {nil, "unknown policy nil"},
            {{:round_robin, [], []}, "unknown policy {:round_robin, [], []}"},
            {{:round_robin, %{}}, "options of :round_robin must be a keyword list, got: %{}"},
            {{:round_robin, choices: 2},
             "unknown option :choices of :round_robin, expected :cursor or :start or :on_reconcile"},
            {{:random, seed: 1}, "unknown option :seed of :random, it has none"},
            {{:round_robin, start: 0},
             "option :start of :round_robin must be :first or :random, got: 0"},
            {{:round_robin, cursor: nil}, "option :cursor of :round_robin must be "},
            {{:round_robin, on_reconcile: :forget}, "option :on_reconcile of :round_robin"},
            {{:pick_first, shuffle: 1},
             "option :shuffle of :pick_first must be false or true, got: 1"},
            {{:least_request, choices: 1},
             "option :choices of :least_request must be an integer from 2 to 4294967295, or :all, got: 1"},
            {{:least_request, choices: 2.0}, "option :choices of :least_request"},
            {{:least_request, bias: -0.1},
             "option :bias of :least_request must be a number from 0, got: -0.1"},
            {{:least_request, bias: :none}, "option :bias of :least_request"},
            {{:least_request, choice_count: 2}, "unknown option :choice_count of :least_request"},
            {{:peak_ewma, decay: 0},
             "option :decay of :peak_ewma must be a number of milliseconds from 1 to 4294967295"},
            {{:peak_ewma, default_rtt: 0}, "option :default_rtt of :peak_ewma must be "},
            {{:peak_ewma, penalty: {:times, -1}}, "option :penalty of :peak_ewma must be "},
            {{:peak_ewma, penalty: -1}, "option :penalty of :peak_ewma must be "},
            {{:peak_ewma, penalty: :infinity}, "option :penalty of :peak_ewma must be "},
            {{:weighted_round_robin, weights: :dynamic},
             "option :weights of :weighted_round_robin must be :static or :reported"},
            {{:weighted_round_robin, start: :random},
             "unknown option :start of :weighted_round_robin, expected :weights or :cursor or"},
            {{:weighted_round_robin, cursor: :mine}, "option :cursor of :weighted_round_robin"},
            {reported.(blackout_period: -1), "option :blackout_period of :weighted_round_robin"},
            {reported.(weight_expiration_period: 1.5), "option :weight_expiration_period"},
            {reported.(weight_update_period: -1), "option :weight_update_period"},
            {reported.(error_utilization_penalty: -1),
             "option :error_utilization_penalty of :weighted_round_robin must be a number from 0"},
            {reported.(metric_names: "a"),
             "option :metric_names of :weighted_round_robin must be a list of strings"},
            {reported.(metric_names: [:a]), "option :metric_names"},
            {reported.(metric_names: List.duplicate("a", 65)), "option :metric_names"},
            {reported.(metric_names: [String.duplicate("a", 256)]), "option :metric_names"},
            {reported.(reports: :both),
             "option :reports of :weighted_round_robin must be :per_call or :out_of_band"}
          ] do
        error = assert_raise ArgumentError, fn -> apply(GrpcLb, :new, [policy, []]) end
        assert String.starts_with?(error.message, message), error.message
      end
    end

    test "refuses what only counts for reported weights where weights are static" do
      for weights <- [[], [weights: :static]],
          {option, setting} <- [
            reports: :per_call,
            blackout_period: 10_000,
            weight_expiration_period: 10_000,
            weight_update_period: 10_000,
            error_utilization_penalty: 1,
            metric_names: []
          ] do
        policy = {:weighted_round_robin, weights ++ [{option, setting}]}
        error = assert_raise ArgumentError, fn -> Policy.to_native(policy) end

        assert error.message ==
                 "option #{inspect(option)} of :weighted_round_robin is for weights: :reported " <>
                   "only, got it with weights: :static"
      end
    end

    test "documents every policy and every option" do
      {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Policy)

      for name <- @names do
        assert docs =~ "| `#{inspect(name)}` |"
        assert docs =~ "\n## `#{inspect(name)}`\n"
      end

      for option <- ~w(cursor start on_reconcile weights reports blackout_period choices bias
                       weight_expiration_period weight_update_period error_utilization_penalty
                       decay default_rtt penalty shuffle) do
        assert docs =~ "\n  * `:#{option}` (default"
      end

      assert docs =~ "\n  * `:metric_names` - "
    end
  end

  describe "round_robin" do
    test "rotates exactly, from the first backend" do
      for n <- [1, 2, 3, 5, 100] do
        {:ok, lb} = GrpcLb.new(:round_robin, Enum.to_list(1..n))
        assert picks(lb, 3 * n) == Enum.flat_map(1..3, fn _ -> Enum.to_list(1..n) end)
      end
    end

    test "goes on where it is after a reconcile, or starts again" do
      {:ok, keep} = GrpcLb.new(:round_robin, [:a, :b, :c])
      {:ok, reset} = GrpcLb.new({:round_robin, on_reconcile: :reset}, [:a, :b, :c])

      for lb <- [keep, reset], do: picks(lb, 4)
      for lb <- [keep, reset], do: GrpcLb.reconcile(lb, [:a, :b, :c, :d, :e])

      # After a, b, c and a comes b.
      assert picks(keep, 5) == [:b, :c, :d, :e, :a]
      assert picks(reset, 3) == [:a, :b, :c]
    end

    test "loses no turn to one that comes and goes" do
      changes = [
        fn lb, there -> GrpcLb.set_state(lb, :c, (there && :ready) || :transient_failure) end,
        fn lb, there -> (there && GrpcLb.add(lb, [:c])) || GrpcLb.remove(lb, [:c]) end,
        fn lb, there -> GrpcLb.reconcile(lb, (there && [:a, :c, :b]) || [:a, :b]) end
      ]

      for change <- changes, every <- 1..3 do
        {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])

        taken =
          for n <- 1..600 do
            if rem(n, every) == 0, do: change.(lb, rem(n, 2 * every) == 0)
            {:ok, id} = GrpcLb.pick(lb)
            id
          end

        assert %{a: a, b: b} = Enum.frequencies(taken)
        assert abs(a - b) <= 1
      end
    end

    test "a random start is one among all that are there at the first pick" do
      firsts =
        for seed <- 1..60, cursor <- [:shared, :per_scheduler] do
          {:ok, lb} = GrpcLb.new({:round_robin, start: :random, cursor: cursor}, [], seed: seed)
          for list <- [[:b], [:b, :c], [:a, :b, :c]], do: {:ok, _} = GrpcLb.reconcile(lb, list)
          {:ok, first} = GrpcLb.pick(lb)
          # From then on it goes on, whatever comes.
          {:ok, _} = GrpcLb.reconcile(lb, [:d, :a, :b, :c])
          next = %{a: :b, b: :c, c: :a}[first]
          if cursor == :shared, do: assert(GrpcLb.pick(lb) == {:ok, next})
          first
        end

      # 40 of each are expected. With the first there was, it would be :b only.
      assert %{a: a, b: b, c: c} = Enum.frequencies(firsts)
      assert Enum.min([a, b, c]) > 20
    end

    test "can start anywhere" do
      starts =
        for _ <- 1..200, into: MapSet.new() do
          {:ok, lb} = GrpcLb.new({:round_robin, start: :random}, [:a, :b, :c])
          [first | _] = rotation = picks(lb, 3)
          assert Enum.sort(rotation) == [:a, :b, :c]
          first
        end

      assert MapSet.size(starts) == 3
    end

    test "with a cursor a scheduler rotates too" do
      {:ok, lb} = GrpcLb.new({:round_robin, cursor: :per_scheduler}, [:a, :b, :c])
      schedulers = System.schedulers()
      counts = lb |> picks(3_000) |> Enum.frequencies() |> Map.values()
      assert Enum.max(counts) - Enum.min(counts) <= schedulers
    end
  end

  describe "pick_first" do
    test "takes the first that is ready" do
      {:ok, lb} = GrpcLb.new(:pick_first, [:a, :b])
      assert picks(lb, 3) == [:a, :a, :a]
    end

    test "stays with it while it is listed and ready" do
      {:ok, lb} = GrpcLb.new(:pick_first, [:a, :b])
      GrpcLb.reconcile(lb, [:c, :b, :a])
      GrpcLb.add(lb, [:d])
      assert picks(lb, 2) == [:a, :a]
      GrpcLb.set_state(lb, :a, :transient_failure)
      assert picks(lb, 2) == [:c, :c]
      GrpcLb.set_state(lb, :a, :ready)
      assert picks(lb, 2) == [:c, :c]
      GrpcLb.remove(lb, [:c])
      assert picks(lb, 2) == [:b, :b]
      # One that comes back is another one.
      GrpcLb.reconcile(lb, [:a])
      GrpcLb.reconcile(lb, [:b, :a])
      assert picks(lb, 2) == [:a, :a]
    end

    test "goes on from an owner that died, and not back" do
      owner = spawn(fn -> Process.sleep(:infinity) end)
      {:ok, lb} = GrpcLb.new(:pick_first, [{:a, :a, owner: owner}, {:b, :b}, {:c, :c}])
      assert picks(lb, 1) == [:a]
      Process.exit(owner, :kill)
      eventually(fn -> picks(lb, 1) == [:b] end)
      GrpcLb.reconcile(lb, [:a, :c, :b])
      assert picks(lb, 1) == [:b]
    end

    test "shuffled, takes any, and stays with it while it is listed" do
      firsts =
        for _ <- 1..200, into: MapSet.new() do
          {:ok, lb} = GrpcLb.new({:pick_first, shuffle: true}, [:a, :b, :c])
          [first] = lb |> picks(5) |> Enum.uniq()
          GrpcLb.reconcile(lb, [:c, :b, :a])
          assert picks(lb, 1) == [first]
          GrpcLb.reconcile(lb, [:a, :b, :c] -- [first])
          assert [other] = lb |> picks(5) |> Enum.uniq()
          assert other != first
          first
        end

      assert MapSet.size(firsts) == 3
    end
  end

  describe "random" do
    test "takes all alike" do
      {:ok, lb} = GrpcLb.new(:random, Enum.to_list(1..10))
      # With 9 degrees of freedom: above 60.7 once in 10^9 runs of a fair policy.
      assert chi_square(picks(lb, 100_000), Map.new(1..10, &{&1, 0.1})) < 60.7
    end

    test "takes each as often as its weight says" do
      {:ok, lb} = GrpcLb.new(:random, for(i <- 1..4, do: {i, i, weight: i}))
      # With 3 degrees of freedom: above 44.9 once in 10^9 runs of a fair policy.
      assert chi_square(picks(lb, 100_000), Map.new(1..4, &{&1, &1 / 10})) < 44.9
    end

    test "goes by the weights of the present list" do
      # The other one is due once in 40 million runs.
      {:ok, lb} = GrpcLb.new(:random, [{:a, :a, weight: 0xFFFFFFFF}, :b])
      assert lb |> picks(100) |> Enum.uniq() == [:a]
      GrpcLb.reconcile(lb, [:a, {:b, :b, weight: 0xFFFFFFFF}])
      assert lb |> picks(100) |> Enum.uniq() == [:b]
    end
  end

  describe "weighted_round_robin" do
    test "takes each as often as its weight says, exactly" do
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, weighted(a: 1, b: 2, c: 5))
      assert_shares(picks(lb, 8_000), %{a: 1_000, b: 2_000, c: 5_000}, 2)
    end

    test "with a cursor a scheduler, too" do
      policy = {:weighted_round_robin, cursor: :per_scheduler}
      {:ok, lb} = GrpcLb.new(policy, weighted(a: 1, b: 2, c: 5))
      off = 2 * System.schedulers()
      assert_shares(picks(lb, 8_000), %{a: 1_000, b: 2_000, c: 5_000}, off)
    end

    @tag :concurrency
    test "shares one rotation between all callers" do
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, weighted(a: 1, b: 3))
      picks = GrpcLb.Test.Workers.together(8, fn _ -> picks(lb, 1_000) end)
      assert_shares(List.flatten(picks), %{a: 2_000, b: 6_000}, 2)
    end

    test "is round robin where weights are equal" do
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, weighted(a: 7, b: 7, c: 7))
      assert_shares(picks(lb, 300), %{a: 100, b: 100, c: 100}, 0)
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, [:a])
      assert picks(lb, 3) == [:a, :a, :a]
    end

    test "goes by the weights of the present list" do
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, weighted(a: 1, b: 3))
      picks(lb, 100)
      GrpcLb.reconcile(lb, weighted(a: 3, b: 1))
      assert_shares(picks(lb, 400), %{a: 300, b: 100}, 2)
      GrpcLb.add(lb, weighted(c: 4))
      assert_shares(picks(lb, 800), %{a: 300, b: 100, c: 400}, 2)
      GrpcLb.remove(lb, [:a])
      assert_shares(picks(lb, 500), %{b: 100, c: 400}, 2)
    end

    test "takes the weights of the list as they are" do
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, weighted(canary: 1, main: 999))
      assert_shares(picks(lb, 10_000), %{canary: 10, main: 9_990}, 0)
      heavy = {:heavy, :heavy, weight: 0xFFFFFFFF}
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, Enum.to_list(1..2_000) ++ [heavy])
      assert Enum.count(picks(lb, 1_000), &(&1 == :heavy)) >= 999
    end

    test "goes on across changes of the list" do
      light = for id <- 1..8, do: {id, id, weight: 1}
      list = [{:a, :a, weight: 10}] ++ light ++ [{:b, :b, weight: 10}]
      {:ok, lb} = GrpcLb.new(:weighted_round_robin, list)

      taken =
        for _ <- 1..2_800 do
          {:ok, _} = GrpcLb.reconcile(lb, list)
          {:ok, id} = GrpcLb.pick(lb)
          id
        end

      assert_shares(taken, Map.new(list, fn {id, _, weight: w} -> {id, 100 * w} end), 0)
    end

    test "goes by what backends report, and not by the list" do
      policy =
        {:weighted_round_robin, weights: :reported, blackout_period: 0, weight_update_period: 100}

      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(policy, weighted(a: 1, b: 9), clock: clock)
      # Of neither it is known.
      assert_shares(picks(lb, 100), %{a: 50, b: 50}, 0)
      GrpcLb.report(lb, :a, %{rps_fractional: 300, cpu_utilization: 1})
      GrpcLb.report(lb, :b, %{rps_fractional: 100, cpu_utilization: 1})
      weights = fn -> Enum.map(GrpcLb.info(lb).backends, & &1.current_weight) end
      Clock.advance(clock, 100)
      assert weights.() == [300.0, 100.0]
      assert_shares(picks(lb, 400), %{a: 300, b: 100}, 2)

      # One of which nothing is known gets the mean of the others.
      GrpcLb.add(lb, [:c])
      assert_shares(picks(lb, 600), %{a: 300, b: 100, c: 200}, 2)
    end
  end

  test "a backend of weight 0 stands by, whatever the policy" do
    for policy <- GrpcLb.Policy.names() do
      {:ok, lb} = GrpcLb.new(policy, [{:spare, :spare, weight: 0}, :a, {:b, :b, weight: 9}])
      assert %{weight: 0, current_weight: weight} = hd(GrpcLb.info(lb).backends)
      assert weight == 0
      refute :spare in picks(lb, 200)
      for id <- [:a, :b], do: :ok = GrpcLb.set_state(lb, id, :transient_failure)
      assert Enum.uniq(picks(lb, 10)) == [:spare]
      :ok = GrpcLb.set_state(lb, :b, :ready)
      assert Enum.uniq(picks(lb, 200)) == [:b]
    end
  end

  describe "least_request" do
    test "takes the one with fewer calls in flight of two that it draws" do
      {:ok, lb} = GrpcLb.new(:least_request, [:a, :b])
      {:ok, busy, ticket} = GrpcLb.checkout(lb)
      for _ <- 1..1_000, do: assert(GrpcLb.run(lb, & &1) != busy)
      :ok = GrpcLb.complete(ticket, :ok)
    end

    test "finds the least loaded of a short list when it looks at all" do
      {:ok, lb} = GrpcLb.new({:least_request, choices: :all}, Enum.to_list(1..64))
      held = for _ <- 1..63, do: GrpcLb.checkout(lb)
      busy = for {:ok, id, _ticket} <- held, do: id
      assert [idle] = Enum.to_list(1..64) -- busy
      for _ <- 1..100, do: assert(GrpcLb.run(lb, & &1) == idle)

      # Of a longer one it draws ten.
      :ok = GrpcLb.complete(elem(hd(held), 2), :ok)
      {:ok, _} = GrpcLb.add(lb, [65])
      for _ <- 1..65, do: assert({:ok, _id} = GrpcLb.pick(lb))
    end

    test "gives a light one its share" do
      {:ok, lb} = GrpcLb.new(:least_request, weighted(canary: 1, main: 1_000))
      # 10 are due; above 35 once in 10^9 runs.
      assert Enum.count(1..10_000, fn _ -> GrpcLb.run(lb, & &1) == :canary end) <= 35
    end

    test "keeps off one that hangs" do
      {:ok, lb} = GrpcLb.new(:least_request, [:hung, :well])

      kept =
        Enum.reduce(1..4_000, [], fn _, kept ->
          case GrpcLb.checkout(lb) do
            {:ok, :hung, ticket} ->
              [ticket | kept]

            {:ok, :well, ticket} ->
              :ok = GrpcLb.complete(ticket, :ok)
              kept
          end
        end)

      assert length(kept) == 1
    end

    test "spreads calls that last" do
      {:ok, lb} = GrpcLb.new({:least_request, choices: 10}, Enum.to_list(1..5))
      held = hold(lb, 1_000)
      for {_id, n} <- held, do: assert(n in 190..210)
      assert map_size(held) == 5
    end

    test "gives those of larger weight more" do
      {:ok, lb} = GrpcLb.new({:least_request, choices: 10}, weighted(a: 3, b: 1))
      assert %{a: a, b: b} = hold(lb, 400)
      assert a in 290..310 and b in 90..110

      # in_flight ^ 2 / weight: the square root of the weight is what counts.
      {:ok, lb} = GrpcLb.new({:least_request, choices: 10, bias: 2}, weighted(a: 9, b: 1))
      assert %{a: a, b: b} = hold(lb, 400)
      assert a in 290..310 and b in 90..110
    end

    test "is fair to those that are idle" do
      {:ok, lb} = GrpcLb.new(:least_request, Enum.to_list(1..10))
      # As for random.
      assert chi_square(picks(lb, 100_000), Map.new(1..10, &{&1, 0.1})) < 60.7
    end
  end

  describe "peak_ewma" do
    test "avoids who fails, and forgives in time" do
      clock = Clock.manual()
      opts = [decay: 200, penalty: 1_000]
      {:ok, lb} = GrpcLb.new({:peak_ewma, opts}, [:a, :b], seed: 1, clock: clock)
      {:ok, failing, ticket} = GrpcLb.checkout(lb)
      GrpcLb.complete(ticket, {:error, 1})
      assert Enum.uniq(for _ <- 1..20, do: GrpcLb.run(lb, & &1)) == [:a, :b] -- [failing]
      Clock.advance(clock, 10_000)

      # Each takes a millisecond.
      calls = for _ <- 1..20, do: GrpcLb.run(lb, &{Clock.advance(clock, 1), &1})
      assert {:ok, failing} in calls
    end

    test "avoids who is slow, at the first slow answer" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new({:peak_ewma, default_rtt: 1}, [:a, :b], clock: clock)
      for _ <- 1..10, do: GrpcLb.run(lb, & &1)

      slow =
        GrpcLb.run(lb, fn value ->
          Clock.advance(clock, 500)
          value
        end)

      assert Enum.uniq(for _ <- 1..500, do: GrpcLb.run(lb, & &1)) == [:a, :b] -- [slow]
    end

    test "spreads calls that last, by weight" do
      # On a clock that stands: the silence of who has calls in flight counts, too.
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:peak_ewma, [:a, :b], clock: clock)
      assert hold(lb, 100) == %{a: 50, b: 50}
      {:ok, lb} = GrpcLb.new(:peak_ewma, weighted(a: 3, b: 1), clock: clock)
      assert %{a: a, b: b} = hold(lb, 400)
      assert a in 299..301 and b in 99..101
    end

    test "takes any of those that it knows nothing of" do
      {:ok, lb} = GrpcLb.new(:peak_ewma, Enum.to_list(1..10))
      # As for random.
      assert chi_square(picks(lb, 100_000), Map.new(1..10, &{&1, 0.1})) < 60.7
    end
  end

  defp weighted(weights), do: for({id, weight} <- weights, do: {id, id, weight: weight})

  # Checks out so many calls that do not end before this does. How many each backend got.
  defp hold(lb, n) do
    calls = for _ <- 1..n, do: GrpcLb.checkout(lb)
    for {:ok, _value, ticket} <- calls, do: :ok = GrpcLb.complete(ticket, :ok)
    Enum.frequencies_by(calls, &elem(&1, 1))
  end

  defp assert_shares(picks, shares, off_by) do
    counts = Enum.frequencies(picks)
    assert Enum.sort(Map.keys(counts)) == Enum.sort(Map.keys(shares))

    for {value, share} <- shares do
      assert abs(counts[value] - share) <= off_by, "#{inspect(counts)} for #{inspect(shares)}"
    end
  end

  defp chi_square(picks, probabilities) do
    counts = Enum.frequencies(picks)
    assert Enum.all?(Map.keys(counts), &is_map_key(probabilities, &1))

    for {value, probability} <- probabilities, reduce: 0 do
      sum ->
        expected = length(picks) * probability
        sum + (Map.get(counts, value, 0) - expected) ** 2 / expected
    end
  end
end
