defmodule GrpcLb.Test.Workers do
  @moduledoc "Processes that start at the same moment, and what they return."

  @doc """
  Runs `fun` in `n` processes that wait for each other before they start. Returns what they
  returned, after all have ended.
  """
  def together(n, fun, meanwhile \\ fn -> :ok end) do
    tasks =
      for i <- 1..n do
        Task.async(fn ->
          receive do
            :go -> fun.(i)
          end
        end)
      end

    Enum.each(tasks, &send(&1.pid, :go))
    meanwhile.()
    Task.await_many(tasks, :timer.minutes(1))
  end

  @doc "A process that does nothing until it is killed."
  def idle do
    spawn(fn -> Process.sleep(:infinity) end)
  end

  @doc "Kills processes and waits until they are dead."
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
