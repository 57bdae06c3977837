defmodule GrpcLb.Bench.PoolBudgets do
  @moduledoc false
  # The limits of a pick by the name of a pool, as `GrpcLb.Bench.Budgets` has those of others.

  alias GrpcLb.Bench.Picks

  # By the number of members, against the ways with a Registry.
  @registry %{10 => 0.1, 100 => 0.02}
  @by_reference 1.6

  def check(rows) do
    for own <- rows, base <- bases(own), do: check(rows, own, base)
  end

  # One process has the same rotation with either cursor.
  defp bases(%{contender: :pool} = own), do: registry(own) ++ [:public]

  defp bases(%{contender: :pool_per_scheduler} = own) do
    if own.processes == Picks.crowd(), do: registry(own), else: []
  end

  defp bases(_other), do: []

  defp registry(%{backends: members}) when is_map_key(@registry, members) do
    [:registry_random, :registry_counter]
  end

  defp registry(_own), do: []

  defp check(rows, own, base_key) do
    base = Enum.find(rows, &(key(&1) == %{key(own) | contender: base_key}))
    ratio = own.against[base_key]
    limit = if base_key == :public, do: @by_reference, else: @registry[own.backends]

    %{
      what: "pool of #{own.backends}, #{own.processes} processes: #{own.title} / #{base.title}",
      measured: ratio,
      measured_best: own.min_ns / base.min_ns,
      bound: "at most",
      limit: limit,
      aim: nil,
      met: ratio <= limit
    }
  end

  defp key(row), do: Map.take(row, [:backends, :processes, :contender])
end
