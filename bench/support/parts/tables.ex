defmodule GrpcLb.Bench.Parts.Tables do
  @moduledoc false
  # The time of a reconcile that builds the table of a policy that hashes, and of one that changes
  # nothing, and what a table takes.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Backends, Budget, Settle, Stats}

  @policies [ring_hash: {:ring_hash, min_ring_size: 4_096}, maglev: :maglev]

  # Of the table of so many backends.
  @limits_us %{1000 => 20_000.0}

  @impl true
  def measure(plan) do
    {rows, budgets} =
      Enum.unzip(
        for {name, policy} <- @policies, count <- plan.table_sizes do
          measure(name, policy, count, plan.seconds)
        end
      )

    {rows, Enum.concat(budgets)}
  end

  @impl true
  def tables(rows) do
    [
      {"tables of policies that hash: built by one backend more, and where that changes nothing",
       ["policy", "backends", "entries", "bytes", "us", "from", "to", "unchanged us"],
       for row <- rows do
         [row.policy, row.backends, row.entries, row.bytes, row.us, row.low_us, row.high_us] ++
           [row.unchanged_us]
       end}
    ]
  end

  defp measure(name, policy, count, seconds) do
    {list, more} = Enum.split(backends(count), -1)
    {:ok, balancer} = GrpcLb.new(policy, list)

    observe = fn ->
      built = time(fn -> {:ok, %{added: 1}} = GrpcLb.add(balancer, more) end)
      unchanged = time(fn -> {:ok, %{added: 0}} = GrpcLb.add(balancer, more) end)
      {:ok, %{removed: 1}} = GrpcLb.remove(balancer, more)
      %{built: built, unchanged: unchanged}
    end

    what = "table of #{name} of #{Backends.count(count)}"
    budget = %Budget{what: what, limit: @limits_us[count], unit: "us"}
    {times, budgets} = Settle.observe(observe, [{budget, & &1.built}], seconds)
    %{bytes: bytes, entries: entries} = GrpcLb.info(balancer).table
    GrpcLb.close(balancer)
    built = times |> Enum.map(& &1.built) |> Stats.interval()

    row = %{
      policy: name,
      backends: count,
      entries: entries,
      bytes: bytes,
      us: built.median,
      low_us: built.low,
      high_us: built.high,
      unchanged_us: Stats.median(Enum.map(times, & &1.unchanged))
    }

    {row, budgets}
  end

  defp backends(count), do: for(n <- 1..count, do: "10.0.#{div(n, 250)}.#{rem(n, 250)}:50051")

  defp time(fun) do
    from = System.monotonic_time(:nanosecond)
    fun.()
    (System.monotonic_time(:nanosecond) - from) / 1000
  end
end
