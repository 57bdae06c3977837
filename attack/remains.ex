defmodule GrpcLb.Attack.Remains do
  @moduledoc "What is there before the campaign and after it."

  alias GrpcLb.Attack.Builds

  # Modules that are loaded meanwhile have some; terms that attack have none.
  @atoms 10_000
  @bytes 64_000_000

  @doc "What there is now."
  def look(builds) do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)

    %{
      native: Builds.live_counts(builds),
      processes: MapSet.new(Process.list()),
      ports: Enum.map(Port.list(), &Port.info(&1, :name)),
      tables: Enum.map(:ets.all(), &:ets.info(&1, :name)),
      persistent_terms: :persistent_term.info().count,
      keys: for({key, _value} <- :persistent_term.get(), not of_logger?(key), do: key),
      atoms: :erlang.system_info(:atom_count),
      memory: :erlang.memory(:total),
      resident: resident()
    }
  end

  # The level of each module that has logged.
  defp of_logger?({:logger_config, _module}), do: true
  defp of_logger?(_key), do: false

  @doc "What the operating system gave this VM, in bytes; `nil` where it does not say."
  def resident do
    with {:ok, statm} <- File.read("/proc/self/statm") do
      [_size, pages | _] = String.split(statm)
      String.to_integer(pages) * 4_096
    else
      _ -> nil
    end
  end

  @doc "Looks until nothing is left that was not there before, for half a minute at most. Returns what is left."
  def left(before, builds, tries \\ 15) do
    now = look(builds)

    case difference(before, now) do
      [] -> {[], now}
      left when tries == 0 -> {left, now}
      _left -> Process.sleep(2_000) && left(before, builds, tries - 1)
    end
  end

  defp difference(before, now) do
    native = for {what, n} <- now.native, n > 0, do: {what, n}

    more =
      for what <- [:ports, :tables],
          new = now[what] -- before[what],
          new != [] and length(now[what]) > length(before[what]),
          do: {what, new}

    native ++
      more ++
      literals(now.keys -- before.keys) ++
      processes(before, now) ++ grown(before, now)
  end

  defp literals([]), do: []
  defp literals(keys), do: [{:persistent_terms, length(keys), Enum.take(keys, 5)}]

  # One that was killed has another in its place.
  defp processes(before, now) do
    if MapSet.size(now.processes) <= MapSet.size(before.processes) do
      []
    else
      for pid <- MapSet.difference(now.processes, before.processes),
          info = Process.info(pid, [:registered_name, :dictionary, :current_function]),
          do:
            {:process, info[:registered_name], info[:dictionary][:"$initial_call"],
             info[:current_function]}
    end
  end

  defp grown(before, now) do
    for {what, most} <- [atoms: @atoms, memory: @bytes],
        now[what] - before[what] > most,
        do: {what, now[what] - before[what]}
  end
end
