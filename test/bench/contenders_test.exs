Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.ContendersTest do
  # Some of them have names.
  use ExUnit.Case, async: false

  alias GrpcLb.Bench.{Backends, Contender, Fields, Peers, Timing}
  alias GrpcLb.Bench.Parts.Tail

  @plan %{
    sizes: [3],
    pool_sizes: [3],
    policy_sizes: [3],
    call_sizes: [3],
    rounds: 1,
    run_ns: 1_000_000,
    seconds: 0
  }

  setup_all do
    _missing = Peers.load()
    :ok
  end

  for field <- [Fields.Picks, Fields.Pools, Fields.Policies, Fields.Calls, Fields.Crowds] do
    test "what #{inspect(field)} times picks what it claims to pick, and can be held to its limits" do
      field = unquote(field)

      for {kind, count} <- field.cases(@plan) do
        backends = Backends.start(count, kind)
        keys = for contender <- field.contenders(kind), do: pick!(contender, backends)
        Backends.stop(backends)

        timed = for key <- keys, processes <- field.processes(), do: {key, processes}
        compared = for {_budget, own, to} <- field.ratios(kind, count), one <- [own, to], do: one
        bases = for {base, _title} <- field.bases(), do: base

        assert Enum.reject(compared, &(&1 in timed)) == []
        assert bases -- keys == []
        assert Enum.uniq(keys) == keys
      end
    end
  end

  defp pick!(contender, backends) do
    state = contender.module.setup(backends, contender.opts)
    assert Contender.check!(contender, state, Backends.values(backends)) == :ok
    assert contender.module.loop(state, 3, nil) != nil
    contender.module.teardown(state)
    contender.key
  end

  test "a contender that does not pick what it claims to is found out" do
    backends = Backends.start(5, :pid)
    random = Enum.find(Fields.Picks.contenders(:pid), &(&1.key == :registry_random))
    state = random.module.setup(backends, random.opts)

    assert_raise RuntimeError, ~r/picks wrongly/, fn ->
      for _ <- 1..50,
          do: Contender.check!(%{random | order: :rotation}, state, Backends.values(backends))
    end

    random.module.teardown(state)
    Backends.stop(backends)
  end

  test "a field is timed, told in tables, and judged" do
    {rows, budgets} = Timing.measure(Fields.Calls, @plan)

    assert length(rows) == 2 * length(Fields.Calls.contenders(:pid))
    assert length(budgets) == length(Fields.Calls.ratios(:pid, 3))
    assert [{_, header, lines}, {_, _, _}] = Timing.tables(Fields.Calls, rows)
    assert Enum.all?(lines, &(length(&1) == length(header)))
  end

  test "picks under change are sampled at each rate, and told in a table" do
    {rows, budgets} = Tail.measure(%{window_picks: 100, seconds: 0})

    assert length(rows) == 4 * length(Tail.contenders())
    assert length(budgets) == 6
    assert [{_title, header, lines}] = Tail.tables(rows)
    assert Enum.all?(lines, &(length(&1) == length(header)))
  end
end
