defmodule GrpcLb.PolicyTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Policy

  doctest GrpcLb.Policy

  defp picks(lb, n), do: for(_ <- 1..n, do: elem(GrpcLb.pick(lb), 1))

  describe "to_native/1" do
    test "says what is wrong and what is allowed" do
      for {policy, message} <- [
            {:rr, "unknown policy :rr, expected :round_robin or :pick_first or :random"},
            {{:rr, []}, "unknown policy {:rr, []}"},
            {"round_robin", "unknown policy"},
            {{:round_robin, %{}}, "options of :round_robin must be a keyword list, got: %{}"},
            {{:round_robin, choices: 2},
             "unknown option :choices of :round_robin, expected :cursor or :start or :on_reconcile"},
            {{:random, seed: 1}, "unknown option :seed of :random, it has none"},
            {{:round_robin, start: 0},
             "option :start of :round_robin must be :first or :random, got: 0"},
            {{:pick_first, shuffle: 1},
             "option :shuffle of :pick_first must be false or true, got: 1"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, fn ->
          GrpcLb.new(policy, [])
        end
      end
    end

    test "documents every option" do
      {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Policy)

      for option <- ~w(shuffle cursor start on_reconcile) do
        assert docs =~ "`:#{option}` (default"
      end
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

      assert picks(keep, 3) == [:e, :a, :b]
      assert picks(reset, 3) == [:a, :b, :c]
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
      GrpcLb.reconcile(lb, [:b, :a])
      assert picks(lb, 2) == [:b, :b]
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
      n = 10
      picked = 100_000
      {:ok, lb} = GrpcLb.new(:random, Enum.to_list(1..n))
      counts = lb |> picks(picked) |> Enum.frequencies()
      assert map_size(counts) == n

      # Chi-square with 9 degrees of freedom: above 39.3 once in 100,000 runs of a fair policy.
      expected = picked / n

      chi_square =
        for {_, count} <- counts, reduce: 0 do
          sum -> sum + (count - expected) ** 2 / expected
        end

      assert chi_square < 39.3
    end
  end
end
