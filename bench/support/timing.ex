defmodule GrpcLb.Bench.Timing do
  @moduledoc false
  # The time of a pick: every contender of a field, by each number of processes, one case at a time.
  #
  # An observation is a set-up anew, for where in memory things happen to lie makes one and the same
  # contender up to a third slower or faster for as long as they lie there. Of the rounds in one
  # observation the best counts: all that others do to a round makes it slower.

  alias GrpcLb.Bench.{Backends, Contender, Rounds, Settle, Stats}
  alias GrpcLb.Bench.Contenders.EmptyLoop

  @empty %Contender{key: :empty_loop, title: "(empty loop)", module: EmptyLoop, order: :none}
  @loops 100
  @loop_ns 1_000_000

  # Nothing takes less, and nothing is divided by zero, where the machine is busy with others.
  @least_ns 0.1

  @doc """
  Rows and budgets of a field. A row is a contender and a number of processes, with nanoseconds a
  pick. The empty loop is taken off, except in picks per second, which is what callers get. Figures
  are medians of the observations, ratios those of the ratios within each.
  """
  def measure(field, plan) do
    loops = loops(field)

    {rows, budgets} =
      for {kind, backends} <- field.cases(plan) do
        measure(field, kind, backends, loops, plan)
      end
      |> Enum.unzip()

    {Enum.concat(rows), Enum.concat(budgets)}
  end

  @doc "The tables of rows, one a case and number of processes."
  def tables(field, rows) do
    {bases, titles} = Enum.unzip(field.bases())
    header = ["", "ns", "from", "to", "best"] ++ titles ++ ["M/s"]

    for {{kind, backends, processes}, rows} <- chunks(rows) do
      title =
        "#{field.title(kind, backends)}, #{Backends.count(processes, "process", "processes")}"

      {title, header,
       for row <- rows do
         against = Enum.map(bases, &row.against[&1].median)

         [row.title, row.median_ns, row.low_ns, row.high_ns, row.min_ns] ++
           against ++ [row.per_second / 1.0e6]
       end}
    end
  end

  defp chunks(rows) do
    rows
    |> Enum.chunk_by(&{&1.value, &1.backends, &1.processes})
    |> Enum.map(fn [row | _] = rows -> {{row.value, row.backends, row.processes}, rows} end)
  end

  defp measure(field, kind, count, loops, plan) do
    backends = Backends.start(count, kind)

    ratios =
      for {budget, own, to} <- field.ratios(kind, count),
          do: {budget, &ratio(&1, own, to, loops)}

    observe = fn -> observe(field, kind, backends, plan) end
    {observations, budgets} = Settle.observe(observe, ratios, plan.seconds)
    Backends.stop(backends)

    rows =
      for processes <- field.processes(), contender <- field.contenders(kind) do
        row(field, kind, count, {contender, processes}, observations, loops)
      end

    {rows, budgets}
  end

  # The best time of each contender and number of processes.
  defp observe(field, kind, backends, plan) do
    contenders = for c <- field.contenders(kind), do: {c, set_up(c, backends)}
    entries = for {c, state} <- contenders, n <- field.processes(), do: entry(c, state, n)
    times = Rounds.run(entries, plan.rounds, plan.run_ns)
    for {contender, state} <- contenders, do: contender.module.teardown(state)
    Map.new(times, fn {timed, times} -> {timed, Enum.min(times)} end)
  end

  # What the loop around nothing takes, by number of processes.
  defp loops(field) do
    field.processes()
    |> Enum.map(&entry(@empty, nil, &1))
    |> Rounds.run(@loops, @loop_ns)
    |> Map.new(fn {{_empty, processes}, times} -> {processes, Enum.min(times)} end)
  end

  defp entry(contender, state, processes) do
    %Rounds{
      key: {contender.key, processes},
      module: contender.module,
      state: state,
      processes: processes
    }
  end

  defp set_up(contender, backends) do
    state = contender.module.setup(backends, contender.opts)
    Contender.check!(contender, state, Backends.values(backends))
    state
  end

  defp row(field, kind, count, {contender, processes}, observations, loops) do
    timed = {contender.key, processes}
    times = Enum.map(observations, &net(&1, timed, loops))
    own = Stats.interval(times)

    %{
      value: kind,
      backends: count,
      processes: processes,
      contender: contender.key,
      title: contender.title,
      side: contender.side,
      price: contender.price,
      median_ns: own.median,
      low_ns: own.low,
      high_ns: own.high,
      min_ns: Enum.min(times),
      per_second: 1.0e9 / Stats.median(Enum.map(observations, & &1[timed])),
      against:
        for {base, _title} <- field.bases(), into: %{} do
          ratios = Enum.map(observations, &ratio(&1, timed, {base, processes}, loops))
          {base, Stats.interval(ratios)}
        end
    }
  end

  # With another number of processes, what callers get: the loop is theirs.
  defp ratio(times, {_own, processes} = own, {_base, processes} = base, loops) do
    net(times, own, loops) / net(times, base, loops)
  end

  defp ratio(times, own, base, _loops), do: times[own] / times[base]

  defp net(times, {_contender, processes} = timed, loops) do
    max(times[timed] - loops[processes], @least_ns)
  end
end
