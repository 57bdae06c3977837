defmodule GrpcLb.Bench.Parts.Tail do
  @moduledoc false
  # Percentiles of the picks of one process, while another changes the list of backends so many
  # times a second, and while nobody does. They take turns, window by window. Each pick is timed by
  # itself, so a figure holds one reading of the clock too.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Backends, Budget, Histogram, Settle, Stats}
  alias GrpcLb.Bench.Fields.Picks

  @backends 100
  @replaced 10
  @rates [0, 10, 100, 1000]
  @share 0.001
  @limit 1.5
  @shares [p50: 0.5, p90: 0.1, p99: 0.01, p99_9: 0.001, p99_99: 0.0001]

  def contenders do
    [
      Picks.native_shared(),
      Picks.native_per_scheduler(),
      Picks.elixir_grpc(),
      Picks.persistent_tuple()
    ]
  end

  @impl true
  def measure(plan) do
    {backends, spare} = Enum.split(Backends.start(@backends + @replaced, :pid), @backends)
    lists = {backends, Enum.drop(backends, @replaced) ++ spare}

    {rows, budgets} =
      Enum.unzip(for contender <- contenders(), do: measure(contender, backends, lists, plan))

    Backends.stop(backends ++ spare)
    {Enum.concat(rows), Enum.concat(budgets)}
  end

  @impl true
  def tables(rows) do
    header = [
      "",
      "changes/s",
      "reached",
      "p50",
      "p90",
      "p99",
      "p99.9",
      "p99.99",
      "max",
      "p99.9 x without"
    ]

    [
      {"picks of a pid under change, #{@backends} backends, #{@replaced} replaced at a time, " <>
         "ns with a reading of the clock", header,
       for row <- rows do
         percentiles = for {name, _share} <- @shares, do: row[name]

         [row.title, row.rate, row.rate_reached] ++
           percentiles ++ [row.max, row.against_none.median]
       end}
    ]
  end

  defp measure(contender, backends, lists, plan) do
    state = contender.module.setup(backends, contender.opts)

    observe = fn ->
      Map.new(@rates, &{&1, window(contender.module, state, lists, &1, plan.window_picks)})
    end

    {observations, budgets} = Settle.observe(observe, budgets(contender), plan.seconds)
    contender.module.teardown(state)
    {Enum.map(@rates, &row(contender, &1, observations)), budgets}
  end

  defp budgets(%{side: :ours, title: title}) do
    for {rate, limit} <- [{10, nil}, {100, @limit}, {1000, @limit}] do
      what = "slowest 0.1 %, #{rate} changes/s / none: #{title}"
      {%Budget{what: what, limit: limit, aim: @limit}, &against_none(&1, rate)}
    end
  end

  defp budgets(_peer), do: []

  defp row(contender, rate, observations) do
    merged = observations |> Enum.map(& &1[rate].durations) |> Histogram.merge()

    %{
      contender: contender.key,
      title: contender.title,
      rate: rate,
      rate_reached: Stats.median(Enum.map(observations, & &1[rate].changes_per_second)),
      max: merged |> List.last() |> elem(0) |> nanoseconds(),
      against_none: observations |> Enum.map(&against_none(&1, rate)) |> Stats.interval()
    }
    |> Map.merge(Map.new(@shares, fn {name, share} -> {name, begins(merged, share)} end))
  end

  defp against_none(windows, rate), do: slowest(windows[rate]) / slowest(windows[0])

  defp slowest(window), do: begins(window.durations, @share)

  defp begins(durations, share), do: nanoseconds(Stats.slowest(durations, share).begins)

  defp window(module, state, lists, rate, picks) do
    histogram = Histogram.new()
    changer = Task.async(fn -> change(module, state, lists, rate) end)
    sampler = Task.async(fn -> module.sample(state, picks, histogram, nil) end)
    from = now()
    Task.await(sampler, :infinity)
    seconds = (now() - from) / 1.0e9
    send(changer.pid, :stop)

    %{
      durations: Histogram.durations(histogram),
      changes_per_second: Task.await(changer, :infinity) / seconds
    }
  end

  defp change(_module, _state, _lists, 0), do: receive(do: (:stop -> 0))

  defp change(module, state, lists, rate) do
    change(module, state, lists, div(1_000_000_000, rate), now(), 0)
  end

  # A change that was late does not put off the next one.
  defp change(module, state, {next, other}, period, due, done) do
    receive do
      :stop -> done
    after
      max(0, div(due - now(), 1_000_000)) ->
        module.update(state, next)
        change(module, state, {other, next}, period, due + period, done + 1)
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)

  defp nanoseconds(native), do: native * 1.0e9 / System.convert_time_unit(1, :second, :native)
end
