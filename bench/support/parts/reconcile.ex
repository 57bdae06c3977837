defmodule GrpcLb.Bench.Parts.Reconcile do
  @moduledoc false
  # The time to change the list of backends, whose ids are integers and whose values are channel
  # structs, by number of backends: one backend replaced, all of them, and none. Beside it what
  # the two fastest all-BEAM ways pay for a new list, which is the same whatever changed; the
  # global garbage collection that follows on a persistent_term is not in its figure.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Backends, Budget, Channel, Settle, Stats}
  alias GrpcLb.Bench.Fields.Picks

  @settle_ms 2

  # Where nothing changed, a quarter of it.
  @one_replaced_us %{5 => 12.0, 1000 => 200.0, 10_000 => 2500.0}

  @impl true
  def measure(plan) do
    {rows, budgets} =
      Enum.unzip(for count <- plan.reconcile_sizes, do: measure(count, plan.seconds))

    {Enum.concat(rows), Enum.concat(budgets)}
  end

  @impl true
  def tables(rows) do
    [
      {"change of the list, channels", ["", "backends", "changed", "us", "from", "to", "best"],
       for row <- rows do
         [row.title, row.backends, row.change, row.us, row.low_us, row.high_us, row.min_us]
       end}
    ]
  end

  defp cases(backends) do
    count = length(backends)
    one_replaced = channels(0..0) ++ tl(backends)
    all_replaced = channels((count + 1)..(2 * count))

    [
      {Picks.native_shared(), "one replaced", one_replaced},
      {Picks.native_shared(), "all replaced", all_replaced},
      {Picks.native_shared(), "none replaced", backends},
      {Picks.interned_shared(), "one replaced", one_replaced},
      {Picks.interned_shared(), "none replaced", backends},
      {Picks.elixir_grpc(), "any", one_replaced},
      {Picks.persistent_tuple(), "any", one_replaced}
    ]
  end

  defp measure(count, seconds) do
    backends = channels(1..count)

    set_up =
      for {contender, change, other} <- cases(backends) do
        {contender, change, other, contender.module.setup(backends, contender.opts)}
      end

    {observations, verdicts} =
      Settle.observe(fn -> observe(set_up, backends) end, budgets(set_up, count), seconds)

    for {contender, _change, _other, state} <- set_up, do: contender.module.teardown(state)

    {for({contender, change, _, _} <- set_up, do: row(contender, change, count, observations)),
     verdicts}
  end

  defp budgets(set_up, count) do
    for {%{side: :ours} = contender, change, _other, _state} <- set_up,
        is_map_key(@one_replaced_us, count),
        change != "all replaced" do
      limit = @one_replaced_us[count] / if(change == "one replaced", do: 1, else: 4)
      what = "change of #{Backends.count(count)}, #{change}: #{contender.title}"
      {%Budget{what: what, limit: limit, unit: "us"}, &us(&1, contender, change)}
    end
  end

  # A quick change is made several times, and there and back.
  defp observe(set_up, backends) do
    repeats = if length(backends) > 1000, do: 1, else: 5

    for {contender, change, other, state} <- set_up, into: %{} do
      times =
        for _ <- 1..repeats, list <- [other, backends] do
          time(contender.module, state, list)
        end

      {{contender.key, change}, times}
    end
  end

  # A change leaves work behind, for other processes too: it is let finish before the next one.
  defp time(module, state, backends) do
    from = System.monotonic_time(:nanosecond)
    module.update(state, backends)
    to = System.monotonic_time(:nanosecond)
    Process.sleep(@settle_ms)
    (to - from) / 1000
  end

  defp us(times, contender, change), do: Stats.median(times[{contender.key, change}])

  defp row(contender, change, count, observations) do
    us = observations |> Enum.map(&us(&1, contender, change)) |> Stats.interval()

    %{
      backends: count,
      contender: contender.key,
      title: contender.title,
      side: contender.side,
      price: contender.price,
      change: change,
      us: us.median,
      low_us: us.low,
      high_us: us.high,
      min_us: observations |> Enum.flat_map(& &1[{contender.key, change}]) |> Enum.min()
    }
  end

  defp channels(ids), do: for(id <- ids, do: {id, Channel.new(id, self())})
end
