defmodule GrpcLb.Bench.Parts.Fleet do
  @moduledoc false
  # Many balancers in one VM, each over the same few channels: what one takes, and what it costs to
  # pick from one after the other, which finds none of them in a cache.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Channel, Stats, Vm}

  @backends 5
  @rounds 9
  @kinds [:copied, :interned]
  @policy {:round_robin, cursor: :per_scheduler}

  @impl true
  def measure(plan) do
    rows = for kind <- @kinds, do: Vm.run(__MODULE__, :costs, [plan.fleet, kind])
    {rows, []}
  end

  @impl true
  def tables(rows) do
    [
      {"balancers of #{@backends} channels in one VM",
       [
         "",
         "values",
         "bytes each",
         "made us",
         "changed us",
         "pick ns, one after the other",
         "one of them"
       ],
       for row <- rows do
         [
           row.balancers,
           row.values,
           row.bytes,
           row.made_us,
           row.changed_us,
           row.pick_in_turn_ns,
           row.pick_ns
         ]
       end}
    ]
  end

  @doc "Figures of so many balancers in the VM that this is, which has none left at the end."
  def costs(count, values) do
    channels = for id <- 1..@backends, do: {id, Channel.new(id, self())}
    others = for id <- 2..(@backends + 1), do: {id, Channel.new(id, self())}
    {:ok, _first} = GrpcLb.new(@policy, channels, values: values)
    before = Vm.resident_bytes()

    {made_ns, fleet} =
      time(fn ->
        for _ <- 1..count do
          {:ok, balancer} = GrpcLb.new(@policy, channels, values: values)
          balancer
        end
      end)

    grown = before && Vm.resident_bytes() - before
    {changed_ns, _} = time(fn -> Enum.each(fleet, &GrpcLb.reconcile(&1, others)) end)
    one = List.duplicate(hd(fleet), count)

    row = %{
      balancers: count,
      values: values,
      bytes: grown && grown / count,
      made_us: made_ns / count / 1000,
      changed_us: changed_ns / count / 1000,
      pick_in_turn_ns: pick_ns(fleet, count),
      pick_ns: pick_ns(one, count)
    }

    Enum.each(fleet, &GrpcLb.close/1)
    row
  end

  defp pick_ns(balancers, count) do
    times =
      for _ <- 1..@rounds do
        {ns, :ok} = time(fn -> Enum.each(balancers, &GrpcLb.Native.pick/1) end)
        ns / count
      end

    Stats.median(times)
  end

  defp time(fun) do
    from = System.monotonic_time(:nanosecond)
    result = fun.()
    {System.monotonic_time(:nanosecond) - from, result}
  end
end
