defmodule GrpcLb.Bench.Tables do
  @moduledoc false
  # The time of a reconcile that builds the table of a policy that hashes, and of one that changes
  # nothing, and what a table takes.

  alias GrpcLb.Bench.Stats

  @policies [ring_hash: {:ring_hash, min_ring_size: 4_096}, maglev: :maglev]

  @doc "A row a policy and number of backends."
  def measure(counts, rounds) do
    for {name, policy} <- @policies, count <- counts do
      {list, more} = Enum.split(backends(count), -1)
      {:ok, balancer} = GrpcLb.new(policy, list)

      times =
        for _ <- 1..rounds do
          built = time(fn -> {:ok, %{added: 1}} = GrpcLb.add(balancer, more) end)
          same = time(fn -> {:ok, %{added: 0}} = GrpcLb.add(balancer, more) end)
          {:ok, %{removed: 1}} = GrpcLb.remove(balancer, more)
          {built, same}
        end

      {built, same} = Enum.unzip(times)
      %{bytes: bytes, entries: entries} = GrpcLb.info(balancer).table
      GrpcLb.close(balancer)

      %{
        policy: name,
        backends: count,
        entries: entries,
        bytes: bytes,
        built_us: Stats.median(built) / 1000,
        best_us: Enum.min(built) / 1000,
        same_us: Stats.median(same) / 1000
      }
    end
  end

  defp backends(count), do: for(n <- 1..count, do: "10.0.#{div(n, 250)}.#{rem(n, 250)}:50051")

  defp time(fun) do
    from = System.monotonic_time(:nanosecond)
    fun.()
    System.monotonic_time(:nanosecond) - from
  end
end
