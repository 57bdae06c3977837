defmodule GrpcLb.Test.Workers do
  @moduledoc "Processes that start at the same moment, and what they return."

  @doc """
  Runs `fun` in `n` processes that wait for each other before they start. Returns what they
  returned, after all have ended.
  """
  def together(n, fun) do
    tasks =
      for i <- 1..n do
        Task.async(fn ->
          receive do
            :go -> fun.(i)
          end
        end)
      end

    Enum.each(tasks, &send(&1.pid, :go))
    Task.await_many(tasks, :infinity)
  end

  @doc """
  Has `n` processes call `pick` again and again while `change` runs: all of them have begun before
  it starts, and each goes on for `after_change` calls once it has returned.

  Returns for each process what it saw, in order and without repetitions, as `{phase, result}`. The
  phase is `:after` for a call that began after `change` had returned, and `:before` otherwise.
  """
  def picking_during(n, pick, change, after_change \\ 100) do
    for seen <- seen_by_each(n, pick, change, after_change, []), do: Enum.reverse(seen)
  end

  @doc """
  As `picking_during/4`. Returns the set of all that they saw: where results take turns, what they saw in
  order is as long as the machine has `change` wait.
  """
  def seen_during(n, pick, change, after_change \\ 100) do
    n
    |> seen_by_each(pick, change, after_change, MapSet.new())
    |> Enum.reduce(&MapSet.union/2)
  end

  defp seen_by_each(n, pick, change, after_change, none) do
    changed = :atomics.new(1, [])
    test = self()

    tasks =
      for _ <- 1..n do
        Task.async(fn ->
          # So many busy processes would leave all others, of other tests as well, few turns.
          Process.flag(:priority, :low)
          first = see({:before, pick.()}, none)
          send(test, {:picking, self()})
          pick_until(changed, pick, after_change, first)
        end)
      end

    for %Task{pid: pid, ref: monitor} <- tasks do
      receive do
        {:picking, ^pid} -> :ok
        {:DOWN, ^monitor, :process, ^pid, reason} -> exit(reason)
      end
    end

    change.()
    :atomics.put(changed, 1, 1)
    Task.await_many(tasks, :infinity)
  end

  defp pick_until(_changed, _pick, 0, seen), do: seen

  defp pick_until(changed, pick, left, seen) do
    case :atomics.get(changed, 1) do
      0 -> pick_until(changed, pick, left, see({:before, pick.()}, seen))
      1 -> pick_until(changed, pick, left - 1, see({:after, pick.()}, seen))
    end
  end

  defp see(one, %MapSet{} = seen), do: MapSet.put(seen, one)
  defp see(same, [same | _] = seen), do: seen
  defp see(other, seen), do: [other | seen]

  @doc "A process that does nothing until it is killed."
  def idle do
    spawn(fn -> Process.sleep(:infinity) end)
  end

  @doc """
  Kills processes and waits until they are dead. Then they have no name and no ETS table, and cannot
  be found. What they had on their heaps, such as tickets, and their ports are freed later, and others
  may yet have to hear of it: `GrpcLb.Test.Eventually`.
  """
  def kill(pids) do
    monitors = for pid <- pids, do: {pid, Process.monitor(pid)}
    Enum.each(pids, &Process.exit(&1, :kill))

    for {pid, monitor} <- monitors do
      receive do
        {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
      end
    end

    :ok
  end
end
