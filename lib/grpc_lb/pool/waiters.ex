defmodule GrpcLb.Pool.Waiters do
  @moduledoc false
  # Who waits for members. Whoever adds a member looks here and tells the waiters how many there
  # are now; the table is nearly always empty, and picks have nothing to do with it.

  @type t :: :ets.table()

  @doc "Makes the table. It belongs to the calling process, which waiters watch."
  @spec new() :: t()
  def new, do: :ets.new(__MODULE__, [:public, read_concurrency: true])

  @doc "Tells all waiters that `balancer` has `count` members."
  @spec notify(t(), GrpcLb.balancer(), non_neg_integer()) :: :ok
  def notify(table, balancer, count) do
    for {ref, pid} <- :ets.tab2list(table) do
      # One that was killed while it waited has left its row.
      if Process.alive?(pid), do: send(ref, {ref, balancer, count}), else: :ets.delete(table, ref)
    end

    :ok
  rescue
    # The pool ended just now, and the table with it.
    ArgumentError -> :ok
  end

  @doc """
  Waits until the balancers have `n` members together. `count` says how many each has: a map of
  numbers by balancer. `owner` is the process that made the table.
  """
  @spec await(t(), pid(), non_neg_integer(), timeout(), (() -> counts)) ::
          :ok | {:error, :timeout | :not_running}
        when counts: %{GrpcLb.balancer() => non_neg_integer()}
  def await(table, owner, n, timeout, count) do
    # The alias ends with the monitor: what is sent later than that goes nowhere.
    ref = :erlang.monitor(:process, owner, alias: :demonitor)

    try do
      # In this order: who joins after the count was taken finds the waiter in the table.
      :ets.insert(table, {ref, self()})
      wait(ref, n, deadline(timeout), count, count.())
    rescue
      ArgumentError -> {:error, :not_running}
    after
      Process.demonitor(ref, [:flush])
      forget(table, ref)
      flush(ref)
    end
  end

  defp wait(ref, n, deadline, count, counts) do
    if total(counts) >= n do
      :ok
    else
      receive do
        {^ref, balancer, members} ->
          counts = Map.put(counts, balancer, members)
          wait(ref, n, deadline, count, checked(counts, n, count))

        {:DOWN, ^ref, :process, _owner, _reason} ->
          {:error, :not_running}
      after
        left(deadline) -> {:error, :timeout}
      end
    end
  end

  # Where there are two balancers, the other one can have lost members: nobody tells that.
  defp checked(counts, n, count) do
    if map_size(counts) > 1 and total(counts) >= n, do: count.(), else: counts
  end

  defp total(counts), do: counts |> Map.values() |> Enum.sum()

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  defp forget(table, ref) do
    :ets.delete(table, ref)
  rescue
    ArgumentError -> true
  end

  defp flush(ref) do
    receive do
      {^ref, _balancer, _count} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
