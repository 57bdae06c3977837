defmodule GrpcLb.Bench.Vm do
  @moduledoc false
  # Runs a function in a VM of its own, so that nothing it finds is left of something else.

  @statm "/proc/self/statm"
  @page_bytes 4096

  @doc """
  What `function` says. `flags` are the emulator's. Erasures of interned values may come each
  `:erased_every` milliseconds, one minute as a rule.
  """
  def run(module, function, arguments, options \\ []) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    flags = options |> Keyword.get(:flags, []) |> Enum.map(&to_charlist/1)
    {:ok, vm, _node} = :peer.start_link(%{connection: :standard_io, args: flags ++ paths})

    with {:ok, every} <- Keyword.fetch(options, :erased_every) do
      :ok = :peer.call(vm, :application, :load, [:grpc_lb])
      :ok = :peer.call(vm, :application, :set_env, [:grpc_lb, :interned, [every: every]])
    end

    {:ok, _started} = :peer.call(vm, :application, :ensure_all_started, [:grpc_lb], :infinity)
    result = :peer.call(vm, module, function, arguments, :infinity)
    :peer.stop(vm)
    result
  end

  @doc """
  Bytes of the resident set of the operating-system process that this is, or nil where that cannot
  be read. `:erlang.memory/0` does not see what Rust allocates.
  """
  def resident_bytes do
    :erlang.garbage_collect()

    case File.read(@statm) do
      {:ok, text} ->
        [_size, resident | _] = String.split(text)
        String.to_integer(resident) * @page_bytes

      {:error, _} ->
        nil
    end
  end
end
