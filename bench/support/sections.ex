defmodule GrpcLb.Bench.Sections do
  @moduledoc false
  # What a run consists of, in its order: fields of contenders, and other parts.

  alias GrpcLb.Bench.{Fields, Parts, Timing}

  @fields [
    picks: Fields.Picks,
    pools: Fields.Pools,
    policies: Fields.Policies,
    calls: Fields.Calls,
    throughput: Fields.Crowds
  ]

  @parts [
    slowest_picks: Parts.Tail,
    reconciles: Parts.Reconcile,
    weights: Parts.Weights,
    tables: Parts.Tables,
    memory: Parts.Memory,
    fleet: Parts.Fleet,
    under_change: Parts.UnderChange,
    hour: Parts.Hour,
    core: Parts.Core
  ]

  def names, do: Keyword.keys(@fields) ++ Keyword.keys(@parts)

  @doc "The rows of a section, and its budgets."
  def measure(name, plan) do
    {rows, budgets} =
      case @fields[name] do
        nil -> @parts[name].measure(plan)
        field -> Timing.measure(field, plan)
      end

    {rows, Enum.map(budgets, &Map.put(&1, :section, name))}
  end

  @doc "The tables of its rows, as `{title, header, rows}`."
  def tables(name, rows) do
    case @fields[name] do
      nil -> @parts[name].tables(rows)
      field -> Timing.tables(field, rows)
    end
  end
end
