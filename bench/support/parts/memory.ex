defmodule GrpcLb.Bench.Parts.Memory do
  @moduledoc false
  # The memory of a balancer, seen from outside: how much the resident set of an operating-system
  # process grows while many balancers are made and kept: over immediate terms (small integers are
  # ids and values), over backends with a string as id and a pid as value, and over immediate terms
  # with all that can be remembered of a backend: outlier detection, and weights by load reports.
  # Each size has a VM of its own, so that none is made of the memory that something else gave
  # back. The first balancers are not counted: they pay for what every VM has once. The list that
  # keeps the balancers is counted.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Backends, Budget, Vm}

  @kinds [:integers, :strings_and_pids, :integers_watched]

  @impl true
  def measure(plan) do
    rows =
      for kind <- @kinds,
          {backends, balancers} <- plan.memory_sizes,
          # The others take more, so fewer will do.
          balancers = if(kind == :integers, do: balancers, else: max(1, div(balancers, 4))),
          bytes = Vm.run(__MODULE__, :growth, [kind, backends, balancers]) do
        %{
          kind: kind,
          backends: backends,
          balancers: balancers,
          bytes: bytes,
          limit: limit(kind, backends)
        }
      end

    {rows, Enum.map(rows, &budget/1)}
  end

  @impl true
  def tables([]), do: [{"memory: not measured, for want of /proc/self/statm", [""], []}]

  def tables(rows) do
    [
      {"memory of a balancer (growth of the resident set over many)",
       ["ids and values", "backends", "balancers", "bytes each", "a backend", "limit"],
       for row <- rows do
         [row.kind, row.backends, row.balancers, row.bytes, row.bytes / row.backends, row.limit]
       end}
    ]
  end

  defp budget(row) do
    what = "bytes of a balancer of #{Backends.count(row.backends)}, #{row.kind}"
    Budget.judge_once(%Budget{what: what, limit: row.limit, unit: "B"}, row.bytes)
  end

  @doc "Bytes that one of so many balancers adds to the operating-system process that this is."
  def growth(kind, backends, balancers) do
    values = for number <- 1..backends, do: backend(kind, number)
    kept = make(kind, max(1, div(balancers, 4)), values, [])
    before = Vm.resident_bytes()
    kept = make(kind, balancers, values, kept)
    grown = before && Vm.resident_bytes() - before
    Enum.each(kept, &GrpcLb.close/1)
    grown && grown / balancers
  end

  defp backend(:strings_and_pids, number), do: {"10.0.0.#{number}:50051", self()}
  defp backend(_integers, number), do: {number, number}

  # Beyond the ids and values themselves, which take as many words as in a process.
  # What is watched of a backend takes room.
  defp limit(kind, backends) do
    a_backend = if kind == :integers_watched, do: 384, else: 256
    {id, value} = backend(kind, backends)
    words = :erts_debug.flat_size(id) + :erts_debug.flat_size(value)
    backends * (a_backend + words * 8) + System.schedulers_online() * 128 + 1024
  end

  defp make(_kind, 0, _values, kept), do: kept

  defp make(kind, count, values, kept) do
    {:ok, balancer} = new(kind, values)
    make(kind, count - 1, values, [balancer | kept])
  end

  defp new(:integers_watched, values) do
    policy = {:weighted_round_robin, weights: :reported}
    GrpcLb.new(policy, values, outlier_detection: [consecutive_failures: 5])
  end

  defp new(_kind, values), do: GrpcLb.new(:round_robin, values)
end
