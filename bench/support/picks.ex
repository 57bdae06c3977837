defmodule GrpcLb.Bench.Picks do
  @moduledoc false
  # The time of a pick: every contender of a field (a module that lists them), by one process and
  # by many, for one kind of value and one number of backends at a time.

  alias GrpcLb.Bench.{Backends, Contender, Contenders, Rounds, Stats}

  @crowd 32

  def crowd, do: @crowd

  @doc """
  One row a contender and number of processes, with nanoseconds a pick. The empty loop is taken
  off, except in picks per second, which is what callers get.

  Ratios are medians of the ratios within each round: what the machine does to both in one round
  cancels out. `against` has them to the bases of the field, of times; `against_one` to the same
  contender by one process, of picks per second.
  """
  def measure(field, kind, count, setups, rounds, run_ns) do
    backends = Backends.start(count, kind)

    times =
      for _ <- 1..setups, reduce: %{} do
        times ->
          Map.merge(times, run(field, kind, backends, rounds, run_ns), fn _key, a, b ->
            a ++ b
          end)
      end

    Backends.stop(backends)

    for processes <- [1, @crowd], contender <- field.all(kind) do
      row(field, kind, count, processes, contender, times)
    end
  end

  # Called anew several times for a case: where in memory things happen to lie makes one and the
  # same contender up to a third slower or faster, for as long as they lie there.
  defp run(field, kind, backends, rounds, run_ns) do
    contenders = for c <- [Contenders.empty() | field.all(kind)], do: {c, set_up(c, backends)}

    entries =
      for {contender, state} <- contenders, processes <- [1, @crowd] do
        %Rounds{
          key: {contender.key, processes},
          module: contender.module,
          state: state,
          processes: processes
        }
      end

    times = Rounds.run(entries, rounds, run_ns)
    for {contender, state} <- contenders, do: contender.module.teardown(state)
    times
  end

  defp set_up(contender, backends) do
    state = contender.module.setup(backends, contender.opts)
    Contender.check!(contender, state, Backends.values(backends))
    state
  end

  defp row(field, kind, count, processes, contender, times) do
    loop = Enum.min(times[{Contenders.empty().key, processes}])
    own = times[{contender.key, processes}]
    net = fn times -> Enum.map(times, &(&1 - loop)) end

    %{
      value: kind,
      backends: count,
      processes: processes,
      contender: contender.key,
      title: contender.title,
      min_ns: Enum.min(own) - loop,
      median_ns: Stats.median(own) - loop,
      picks_per_second: 1.0e9 / Stats.median(own),
      best_picks_per_second: 1.0e9 / Enum.min(own),
      against:
        for base <- field.bases(), into: %{} do
          {base, median_ratio(net.(own), net.(times[{base, processes}]))}
        end,
      against_one: median_ratio(times[{contender.key, 1}], own)
    }
  end

  defp median_ratio(times, base) do
    Stats.median(Enum.zip_with(times, base, &(&1 / &2)))
  end
end
