defmodule GrpcLb.Bench do
  @moduledoc false
  # Runs every measurement, prints it, and writes it as JSON.

  alias GrpcLb.Bench.{
    Budgets,
    CallContenders,
    Channel,
    Contenders,
    Json,
    Machine,
    Memory,
    Picks,
    PolicyBudgets,
    PolicyContenders,
    PoolBudgets,
    PoolContenders,
    Reconcile,
    Table,
    Tables,
    Tail,
    Weights
  }

  @full %{
    sizes: [1, 5, 100, 1000],
    pool_sizes: [10, 100, 1000],
    policy_sizes: [10, 100, 1000],
    call_sizes: [10],
    weights_sizes: [100, 1000],
    weights_rounds: 15,
    table_sizes: [100, 1000],
    setups: 5,
    rounds: 5,
    run_ns: 10_000_000,
    windows: 8,
    window_picks: 1_500_000,
    reconcile_sizes: [5, 100, 1000, 10_000],
    reconcile_rounds: 15
  }

  @quick %{
    sizes: [1, 5, 100],
    pool_sizes: [10, 100],
    policy_sizes: [10, 100],
    call_sizes: [10],
    weights_sizes: [1000],
    weights_rounds: 5,
    table_sizes: [1000],
    setups: 3,
    rounds: 3,
    run_ns: 4_000_000,
    windows: 3,
    window_picks: 500_000,
    reconcile_sizes: [5, 100],
    reconcile_rounds: 5
  }

  @doc "`argv` is empty, or `--quick` for a shorter and coarser run."
  def main(argv, json_path) do
    {options, []} = OptionParser.parse!(argv, strict: [quick: :boolean])
    plan = if options[:quick], do: @quick, else: @full
    machine = Machine.describe()
    print_machine(machine)

    picks =
      for kind <- [:pid, :channel], size <- plan.sizes do
        rows = measure(Contenders, kind, size, plan)
        print_picks(kind, size, rows)
        rows
      end

    pools =
      for size <- plan.pool_sizes do
        rows = measure(PoolContenders, :pid, size, plan)
        print_pools(size, rows)
        rows
      end

    policies =
      for size <- plan.policy_sizes do
        rows = measure(PolicyContenders, :pid, size, plan)
        print_policies(size, rows)
        rows
      end

    calls =
      for size <- plan.call_sizes do
        rows = measure(CallContenders, :pid, size, plan)
        print_calls(size, rows)
        rows
      end

    unless PoolContenders.poolboy?() do
      IO.puts("\npoolboy: not measured, it is not installed (Debian package erlang-poolboy)")
    end

    slowest = Tail.measure(plan.windows, plan.window_picks)
    print_slowest(slowest)

    reconciles = Reconcile.measure(plan.reconcile_sizes, plan.reconcile_rounds)
    print_reconciles(reconciles)

    weights = Weights.measure(plan.weights_sizes, plan.weights_rounds)
    print_weights(weights)

    tables = Tables.measure(plan.table_sizes, plan.weights_rounds)
    print_tables(tables)

    memory = Memory.measure()
    print_memory(memory)

    results = %{
      machine: machine,
      quick: plan == @quick,
      channel_words: channel_words(),
      memory: memory,
      picks: List.flatten(picks),
      pools: List.flatten(pools),
      policies: List.flatten(policies),
      calls: List.flatten(calls),
      weights: weights,
      tables: tables,
      slowest_picks: slowest,
      reconciles: reconciles
    }

    budgets =
      Budgets.check(results) ++
        PoolBudgets.check(results.pools) ++
        PolicyBudgets.check(results.policies, results.calls, weights, tables)

    print_budgets(budgets)

    File.mkdir_p!(Path.dirname(json_path))
    File.write!(json_path, Json.encode(Map.put(results, :budgets, budgets)))
    IO.puts("\nWritten to #{Path.relative_to_cwd(json_path)}")
  end

  defp measure(field, kind, size, plan) do
    Picks.measure(field, kind, size, plan.setups, plan.rounds, plan.run_ns)
  end

  defp channel_words, do: :erts_debug.flat_size(Channel.new(1, self()))

  defp print_machine(machine) do
    IO.puts("""
    #{machine.date}, grpc_lb #{machine.grpc_lb}
    #{machine.cpu}, #{machine.cores} cores, load #{machine.load}
    #{machine.os}
    Erlang/OTP #{machine.otp} (#{machine.emulator}), Elixir #{machine.elixir}
    #{machine.schedulers} schedulers, #{unless machine.schedulers_bound, do: "not "}bound to cores

    Nanoseconds a pick, empty loop taken off, garbage collection of what picks allocate included.
    With #{Picks.crowd()} processes: wall clock over all picks.
    A channel is #{channel_words()} words.
    "x atomics" and "x ETS" are ratios to :atomics.add_get/3 and to the way of elixir-grpc 1.0
    (ETS + atomics + persistent_term) in the same case: medians of the ratios within each round.
    Of pools, "x random" and "x counter" are to Registry with either.\
    """)
  end

  defp print_picks(kind, size, rows) do
    ratios = [{"x atomics", :atomics}, {"x ETS", :ets_copy}]
    print_contenders("pick of a #{kind}, #{size} backends", rows, ratios)
  end

  defp print_pools(size, rows) do
    titles = ["x random", "x counter", "x GrpcLb.pick"]
    print_contenders("pool of #{size} members", rows, Enum.zip(titles, PoolContenders.bases()))
  end

  defp print_policies(size, rows) do
    ratios = [{"x round_robin", :native_per_scheduler}]
    print_contenders("pick by weight or load, #{size} backends", rows, ratios)
  end

  defp print_calls(size, rows) do
    ratios = [{"x atomics", :atomics}, {"x reference", :reference}]
    print_contenders("a call in flight, #{size} backends", rows, ratios)
  end

  # A table a number of processes, with these ratios, by title.
  defp print_contenders(title, rows, ratios) do
    {titles, bases} = Enum.unzip(ratios)

    for {processes, rows} <- rows |> Enum.group_by(& &1.processes) |> Enum.sort() do
      Table.print(
        "#{title}, #{processes} processes",
        ["", "min ns", "median ns"] ++ titles ++ ["M/s"],
        for row <- rows do
          against = Enum.map(bases, &row.against[&1])
          [row.title, row.min_ns, row.median_ns] ++ against ++ [row.picks_per_second / 1.0e6]
        end
      )
    end
  end

  defp print_slowest(rows) do
    Table.print(
      "slowest 0.1 % of picks (each with a reading of the clock): quiet / 100 changes a second",
      ["", "begin ns", "mean ns", "begin ns", "mean ns", "ratio of begin"],
      for row <- rows do
        %{quiet: quiet, changing: changing} = row
        ratio = changing.begins_ns / quiet.begins_ns
        [row.title, quiet.begins_ns, quiet.mean_ns, changing.begins_ns, changing.mean_ns, ratio]
      end
    )
  end

  defp print_reconciles(rows) do
    Table.print(
      "change of the list, channels",
      ["", "backends", "changed", "min us", "median us"],
      for(row <- rows, do: [row.title, row.backends, row.change, row.min_us, row.median_us])
    )
  end

  defp print_weights(rows) do
    Table.print(
      "update of weights by load reports",
      ["backends", "min us", "median us"],
      for(row <- rows, do: [row.backends, row.min_us, row.median_us])
    )
  end

  defp print_tables(rows) do
    Table.print(
      "tables of policies that hash: built by one backend more, and where that changes nothing",
      ["policy", "backends", "entries", "bytes", "min us", "median us", "unchanged us"],
      for row <- rows do
        [row.policy, row.backends, row.entries, row.bytes, row.best_us, row.built_us, row.same_us]
      end
    )
  end

  defp print_memory([]), do: IO.puts("\nmemory: not measured, for want of /proc/self/statm")

  defp print_memory(rows) do
    Table.print(
      "memory of a balancer (growth of the resident set over many)",
      ["ids and values", "backends", "balancers", "bytes each", "limit"],
      for(row <- rows, do: [row.kind, row.backends, row.balancers, row.bytes, row.limit])
    )
  end

  defp print_budgets(rows) do
    Table.print(
      "budgets (medians of the ratios within each round; in brackets those of the best rounds)",
      ["", "measured", "", "", "limit", "aim", ""],
      for row <- rows do
        best = if row.measured_best, do: "(#{Float.round(row.measured_best, 4)})"
        [row.what, row.measured, best, row.bound, row.limit, row.aim, verdict(row)]
      end
    )
  end

  defp verdict(%{met: true}), do: "met"
  defp verdict(%{met: false}), do: "MISSED"
  defp verdict(%{met: nil, aim: nil}), do: "-"
  defp verdict(%{met: nil, aim: aim, measured: measured}) when measured <= aim, do: "aim met"
  defp verdict(%{met: nil}), do: "aim missed"
end
