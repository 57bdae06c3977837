defmodule GrpcLb.Waiters do
  @moduledoc false
  # Who waits until there is enough to pick. Whoever adds something looks here and tells those who
  # have waited for it. The table is nearly always empty, and picks do not read it.

  @type t :: :ets.table()

  @doc "Makes the table. It belongs to the calling process, which waiters watch."
  @spec new() :: t()
  def new, do: :ets.new(__MODULE__, [:public, read_concurrency: true])

  @doc "Tells those waiters for whom there are enough now. `count` counts."
  @spec notify(t(), (() -> non_neg_integer())) :: :ok
  def notify(table, count) do
    case :ets.tab2list(table) do
      [] -> :ok
      waiters -> notify_each(table, waiters, count.())
    end
  rescue
    # The owner ended just now, and the table with it.
    ArgumentError -> :ok
  end

  defp notify_each(table, waiters, count) do
    Enum.each(waiters, fn {ref, pid, n} ->
      cond do
        # It was killed while it waited, and has left its row.
        not Process.alive?(pid) -> :ets.delete(table, ref)
        n <= count -> send(ref, {ref, :enough})
        true -> :ok
      end
    end)
  end

  @doc """
  Waits until there are `n`. `count` counts, and `owner` is the process that made the table.
  """
  @spec await(t(), pid(), non_neg_integer(), timeout(), (() -> non_neg_integer())) ::
          :ok | {:error, :timeout | :not_running}
  def await(table, owner, n, timeout, count) do
    # The alias ends with the monitor: what is sent later than that goes nowhere.
    ref = :erlang.monitor(:process, owner, alias: :demonitor)

    try do
      # In this order: who joins after the count was taken finds the waiter in the table.
      :ets.insert(table, {ref, self(), n})
      if count.() >= n, do: :ok, else: wait(ref, timeout)
    rescue
      ArgumentError -> {:error, :not_running}
    after
      Process.demonitor(ref, [:flush])
      forget(table, ref)
      flush(ref)
    end
  end

  defp wait(ref, timeout) do
    receive do
      {^ref, :enough} -> :ok
      {:DOWN, ^ref, :process, _owner, _reason} -> {:error, :not_running}
    after
      timeout -> {:error, :timeout}
    end
  end

  defp forget(table, ref) do
    :ets.delete(table, ref)
  rescue
    ArgumentError -> true
  end

  defp flush(ref) do
    receive do
      {^ref, :enough} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
