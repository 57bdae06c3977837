defmodule GrpcLb.Bench do
  @moduledoc false
  # Runs every measurement, prints it, and writes all of them as JSON.

  alias GrpcLb.Bench.{Budget, Channel, Json, Machine, Peers, Sections, Stats, Table}

  alias GrpcLb.Bench.Parts.Core

  # `seconds` is for a case: when its budgets are open still, it ends.
  @full %{
    sizes: [1, 5, 100, 1000],
    pool_sizes: [10, 100, 1000],
    policy_sizes: [10, 100, 1000],
    call_sizes: [10],
    weights_sizes: [100, 1000],
    table_sizes: [100, 1000],
    rounds: 3,
    run_ns: 6_000_000,
    seconds: 12,
    window_picks: 1_000_000,
    reconcile_sizes: [5, 10, 100, 1000, 10_000, 100_000],
    memory_sizes: [
      {1, 40_000},
      {5, 20_000},
      {10, 10_000},
      {100, 2_000},
      {1000, 200},
      {100_000, 2}
    ],
    fleet: 10_000,
    idle_processes: 10_000,
    change_rounds: 8,
    minutes: 60
  }

  @quick %{
    sizes: [1, 5, 100],
    pool_sizes: [10, 100],
    policy_sizes: [100],
    call_sizes: [10],
    weights_sizes: [1000],
    table_sizes: [1000],
    rounds: 2,
    run_ns: 2_000_000,
    seconds: 1,
    window_picks: 200_000,
    reconcile_sizes: [5, 1000],
    memory_sizes: [{5, 20_000}, {1000, 200}],
    fleet: 1_000,
    idle_processes: 1_000,
    change_rounds: 6,
    minutes: 20
  }

  @doc """
  `argv` is empty, or `--quick` for a shorter and coarser run, or `--only picks,calls` for some
  sections, which are shown and not written. With `CHECK=1` in the environment a missed budget ends
  the VM with a status of 1.
  """
  def main(argv, json_path) do
    {options, []} = OptionParser.parse!(argv, strict: [quick: :boolean, only: :string])
    plan = if options[:quick], do: @quick, else: @full
    from = System.monotonic_time(:second)
    missing = Peers.load() ++ no_core(File.exists?(Core.file_name()))
    machine = Machine.describe()
    print_machine(machine)
    for {peer, reason} <- missing, do: IO.puts("#{peer}: NOT RUN: #{reason}")

    {sections, budgets} =
      options[:only] |> sections() |> Enum.map(&measure(&1, plan)) |> Enum.unzip()

    budgets = Enum.concat(budgets)
    print_budgets(budgets)
    print_settled(budgets)

    results = %{
      machine: machine,
      quick: plan == @quick,
      confidence: Stats.confidence(),
      seconds: System.monotonic_time(:second) - from,
      channel_words: channel_words(),
      not_run: for({peer, reason} <- missing, do: %{peer: peer, reason: reason}),
      sections: Map.new(sections),
      budgets: budgets
    }

    unless options[:only], do: write(json_path, results)
    check(budgets, System.get_env("CHECK"))
  end

  defp sections(nil), do: Sections.names()

  defp sections(names) do
    for name <- String.split(names, ",") do
      Enum.find(Sections.names(), &(to_string(&1) == name)) ||
        raise ArgumentError, "unknown section #{name}, expected of #{inspect(Sections.names())}"
    end
  end

  defp measure(name, plan) do
    {rows, budgets} = Sections.measure(name, plan)
    for {title, header, rows} <- Sections.tables(name, rows), do: Table.print(title, header, rows)
    {{name, rows}, budgets}
  end

  defp no_core(true), do: []
  defp no_core(false), do: [{"bench/peers", "there is no #{Core.file_name()}"}]

  defp write(path, results) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, Json.encode(results))
    IO.puts("\n#{results.seconds} seconds. Written to #{Path.relative_to_cwd(path)}")
  end

  defp channel_words, do: :erts_debug.flat_size(Channel.new(1, self()))

  defp print_machine(machine) do
    IO.puts("""
    #{machine.date}, grpc_lb #{machine.grpc_lb}
    #{machine.cpu}, #{machine.cores} cores, load #{machine.load}
    #{machine.os}
    Erlang/OTP #{machine.otp} (#{machine.emulator}), Elixir #{machine.elixir}
    #{machine.schedulers} schedulers, #{unless machine.schedulers_bound, do: "not "}bound to cores

    Nanoseconds a pick, empty loop taken off, garbage collection of what picks allocate included:
    the median of observations, between which of them it lies with #{percent(Stats.confidence())} %
    confidence, and the best. An observation is a set-up anew, and the best of its rounds.
    With many processes: wall clock over all picks.
    A channel is #{channel_words()} words.
    A column "x ..." has ratios within an observation to what it names: "x ETS" to the way of elixir-grpc
    1.0 (ETS + atomics + persistent_term), "x random" and "x counter" to Registry with either.\
    """)
  end

  defp percent(share), do: round(share * 100)

  defp print_budgets(rows) do
    {title, header, rows} = Budget.table(rows)
    Table.print(title, header, rows)
  end

  defp print_settled(rows) do
    open = for %{settled: false} = row <- rows, do: row.what
    IO.puts("\n#{length(rows) - length(open)} of #{length(rows)} budgets are known well enough.")
    if open != [], do: IO.puts("Time was up for: " <> Enum.join(open, "; "))
  end

  defp check(budgets, "1") do
    case Budget.missed(budgets) do
      [] ->
        IO.puts("\nCHECK: every budget is met")

      missed ->
        IO.puts(:stderr, "\nCHECK: #{length(missed)} of #{length(budgets)} budgets are missed:")
        Enum.each(missed, &IO.puts(:stderr, "  " <> Budget.sentence(&1)))
        System.halt(1)
    end
  end

  defp check(_budgets, _unasked), do: :ok
end
