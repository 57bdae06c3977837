defmodule GrpcLb.Bench.Memory do
  @moduledoc false
  # The memory of a balancer, seen from outside: how much the resident set of an operating-system
  # process grows while many balancers over immediate values (small integers) are made and kept.
  # `:erlang.memory/0` does not see what Rust allocates. Each size has a VM of its own, so that
  # none is made of the memory that something else gave back. The first balancers are not counted:
  # they pay for what every VM has once. The list that keeps the balancers is counted.

  @statm "/proc/self/statm"
  @page_bytes 4096
  @sizes [{1, 40_000}, {5, 20_000}, {100, 2_000}, {1000, 200}]

  @doc "A row a size, or none where the resident set cannot be read."
  def measure do
    for {backends, balancers} <- @sizes, File.exists?(@statm) do
      bytes = in_own_vm(:growth, [backends, balancers])
      %{backends: backends, balancers: balancers, bytes: bytes, limit: limit(backends)}
    end
  end

  @doc "Bytes that one of so many balancers adds to the operating-system process that this is."
  def growth(backends, balancers) do
    values = Enum.to_list(1..backends)
    kept = make(div(balancers, 4), values, [])
    before = resident_bytes()
    kept = make(balancers, values, kept)
    grown = resident_bytes() - before
    Enum.each(kept, &GrpcLb.close/1)
    grown / balancers
  end

  defp limit(backends), do: backends * 256 + System.schedulers_online() * 128 + 1024

  defp in_own_vm(function, arguments) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    {:ok, vm, _node} = :peer.start_link(%{connection: :standard_io, args: paths})
    {:ok, _started} = :peer.call(vm, :application, :ensure_all_started, [:elixir])
    _modules = :peer.call(vm, Code, :require_file, [__ENV__.file])
    result = :peer.call(vm, __MODULE__, function, arguments, :infinity)
    :peer.stop(vm)
    result
  end

  defp make(0, _values, kept), do: kept

  defp make(count, values, kept) do
    {:ok, balancer} = GrpcLb.new(:round_robin, values)
    make(count - 1, values, [balancer | kept])
  end

  defp resident_bytes do
    :erlang.garbage_collect()
    [_size, resident | _] = @statm |> File.read!() |> String.split()
    String.to_integer(resident) * @page_bytes
  end
end
