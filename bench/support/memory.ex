defmodule GrpcLb.Bench.Memory do
  @moduledoc false
  # The memory of a balancer, seen from outside: how much the resident set of an operating-system
  # process grows while many balancers are made and kept: over immediate terms (small integers are
  # ids and values), over backends with a string as id and a pid as value, and over immediate terms
  # with all that can be remembered of a backend: outlier detection, and weights by load reports.
  # `:erlang.memory/0` does not see what Rust allocates. Each size has a VM of its own, so that
  # none is made of the memory that something else gave back. The first balancers are not counted:
  # they pay for what every VM has once. The list that keeps the balancers is counted.

  @statm "/proc/self/statm"
  @page_bytes 4096
  @sizes [{1, 40_000}, {5, 20_000}, {100, 2_000}, {1000, 200}]
  @kinds [:integers, :strings_and_pids, :integers_watched]

  @doc "A row a size, or none where the resident set cannot be read."
  def measure do
    for kind <- @kinds, {backends, balancers} <- @sizes, File.exists?(@statm) do
      # The others take more, so fewer will do.
      balancers = if kind == :integers, do: balancers, else: div(balancers, 4)
      bytes = in_own_vm(:growth, [kind, backends, balancers])

      %{
        kind: kind,
        backends: backends,
        balancers: balancers,
        bytes: bytes,
        limit: limit(kind, backends)
      }
    end
  end

  @doc "Bytes that one of so many balancers adds to the operating-system process that this is."
  def growth(kind, backends, balancers) do
    values = for number <- 1..backends, do: backend(kind, number)
    kept = make(kind, div(balancers, 4), values, [])
    before = resident_bytes()
    kept = make(kind, balancers, values, kept)
    grown = resident_bytes() - before
    Enum.each(kept, &GrpcLb.close/1)
    grown / balancers
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

  defp in_own_vm(function, arguments) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    {:ok, vm, _node} = :peer.start_link(%{connection: :standard_io, args: paths})
    {:ok, _started} = :peer.call(vm, :application, :ensure_all_started, [:elixir])
    _modules = :peer.call(vm, Code, :require_file, [__ENV__.file])
    result = :peer.call(vm, __MODULE__, function, arguments, :infinity)
    :peer.stop(vm)
    result
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

  defp resident_bytes do
    :erlang.garbage_collect()
    [_size, resident | _] = @statm |> File.read!() |> String.split()
    String.to_integer(resident) * @page_bytes
  end
end
