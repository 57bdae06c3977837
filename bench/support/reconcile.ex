defmodule GrpcLb.Bench.Reconcile do
  @moduledoc false
  # The time to change the list of backends, whose ids are integers and whose values are channel
  # structs, by number of backends: one backend replaced, all of them, and none. Beside it what
  # the two fastest all-BEAM ways pay for a new list, which is the same whatever changed; the
  # global garbage collection that follows on a persistent_term is not in its figure.

  alias GrpcLb.Bench.{Channel, Contenders, Stats}

  @settle_ms 2

  def measure(counts, rounds), do: Enum.flat_map(counts, &rows(&1, rounds))

  defp rows(count, rounds) do
    backends = channels(1..count)
    one_replaced = channels(0..0) ++ tl(backends)
    all_replaced = channels((count + 1)..(2 * count))

    cases = [
      {Contenders.native_shared(), "one replaced", one_replaced},
      {Contenders.native_shared(), "all replaced", all_replaced},
      {Contenders.native_shared(), "none replaced", backends},
      {Contenders.elixir_grpc(), "any", one_replaced},
      {Contenders.persistent_tuple(), "any", one_replaced}
    ]

    set_up =
      for {c, label, other} <- cases, do: {c, label, other, c.module.setup(backends, c.opts)}

    times =
      for _ <- 1..rounds, {contender, label, other, state} <- set_up, reduce: %{} do
        times ->
          there = time(contender.module, state, other)
          back = time(contender.module, state, backends)
          Map.update(times, {contender.key, label}, [there, back], &[there, back | &1])
      end

    for {contender, _label, _other, state} <- set_up, do: contender.module.teardown(state)

    for {contender, label, _other} <- cases do
      times = times[{contender.key, label}]

      %{
        backends: count,
        contender: contender.key,
        title: contender.title,
        change: label,
        min_us: Enum.min(times) / 1000,
        median_us: Stats.median(times) / 1000
      }
    end
  end

  defp channels(ids), do: for(id <- ids, do: {id, Channel.new(id, self())})

  # A change leaves work behind, for other processes too: it is let finish before the next one.
  defp time(module, state, backends) do
    from = System.monotonic_time(:nanosecond)
    module.update(state, backends)
    to = System.monotonic_time(:nanosecond)
    Process.sleep(@settle_ms)
    to - from
  end
end
