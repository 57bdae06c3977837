defmodule GrpcLb.Bench.Budgets do
  @moduledoc false
  # The figures that the design sets limits to, as ratios within one run. Of the cases that one
  # limit covers, each is a row.

  alias GrpcLb.Bench.Picks

  def check(results) do
    Enum.concat([
      pid_picks(results.picks),
      channel_picks(results.picks),
      crowd(results.picks),
      slowest(results.slowest_picks),
      memory(results.memory)
    ])
  end

  defp pid_picks(picks) do
    # What crossbeam-epoch costs is in the limits; the aims are for the work on performance.
    for backends <- sizes(picks),
        {key, limit, aim} <- [{:native_shared, 2.2, 1.9}, {:native_per_scheduler, 1.85, 1.6}] do
      at_most(picks, :pid, backends, key, :atomics, limit, aim)
    end
  end

  defp channel_picks(picks) do
    limits = %{1 => 0.6, 5 => 0.3, 100 => 0.012}

    for backends <- sizes(picks),
        {key, base, limit, aim} <- [
          {:native_shared, :ets_copy, limits[backends], nil},
          {:policy, :ets_copy, limits[backends], nil},
          {:policy_updated, :ets_copy, limits[backends], nil},
          {:native_shared, :persistent_tuple, nil, 1.0},
          {:policy, :persistent_tuple, nil, 1.0}
        ] do
      at_most(picks, :channel, backends, key, base, limit, aim)
    end
  end

  defp crowd(picks) do
    limit = 0.9 * System.schedulers_online()

    for backends <- sizes(picks), key <- [:native_per_scheduler, :native_shared] do
      alone = find(picks, :pid, backends, 1, key)
      crowd = find(picks, :pid, backends, Picks.crowd(), key)
      limit = if key == :native_per_scheduler, do: limit

      %{
        what: "pid, #{count(backends)}: #{crowd.title}, picks/s, #{Picks.crowd()} processes / 1",
        measured: crowd.against_one,
        measured_best: crowd.best_picks_per_second / alone.best_picks_per_second,
        bound: "at least",
        limit: limit,
        aim: nil,
        met: if(limit, do: crowd.against_one >= limit)
      }
    end
  end

  defp slowest(rows) do
    for row <- rows do
      ours? = row.contender in [:native_shared, :native_per_scheduler]
      ratio = row.changing.begins_ns / row.quiet.begins_ns

      %{
        what: "slowest 0.1 %, 100 changes/s / none: #{row.title}",
        measured: ratio,
        measured_best: nil,
        bound: "at most",
        limit: if(ours?, do: 1.5),
        aim: nil,
        met: if(ours?, do: ratio <= 1.5)
      }
    end
  end

  defp memory(rows) do
    for row <- rows do
      %{
        what: "bytes of a balancer of #{count(row.backends)}, #{row.kind} / #{row.limit}",
        measured: row.bytes / row.limit,
        measured_best: nil,
        bound: "at most",
        limit: 1.0,
        aim: nil,
        met: row.bytes <= row.limit
      }
    end
  end

  defp at_most(picks, value, backends, key, base_key, limit, aim) do
    own = find(picks, value, backends, 1, key)
    base = find(picks, value, backends, 1, base_key)
    ratio = own.against[base_key]

    %{
      what: "#{value}, #{count(backends)}: #{own.title} / #{base.title}",
      measured: ratio,
      measured_best: own.min_ns / base.min_ns,
      bound: "at most",
      limit: limit,
      aim: aim,
      met: if(limit, do: ratio <= limit)
    }
  end

  defp sizes(picks), do: picks |> Enum.map(& &1.backends) |> Enum.uniq()

  defp count(1), do: "1 backend"
  defp count(backends), do: "#{backends} backends"

  defp find(picks, value, backends, processes, key) do
    Enum.find(picks, fn row ->
      {row.value, row.backends, row.processes, row.contender} == {value, backends, processes, key}
    end)
  end
end
