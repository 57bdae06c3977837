defmodule GrpcLbElixirGrpc.Variants do
  @moduledoc """
  `GRPC.Client.Connection` as it is, and as the patches make it. One of them is loaded at a time.
  Connections that another one made stay as they are, so that a run can take turns between them.
  """

  alias GrpcLbElixirGrpc.Patch

  @module GRPC.Client.Connection

  # Of a variant with several the one that applies: a version of elixir-grpc differs from the next.
  @patches %{
    policy_module: ["policy_module.ex"],
    balancer_reference: ["balancer_reference.ex", "balancer_behind_name.ex"]
  }

  @doc "`:own`, and the patches."
  def all, do: [:own, :policy_module, :balancer_reference]

  @doc """
  Loads one of `all/0`. Raises if the patch does not apply to the version of elixir-grpc that is
  here, for nothing can be said of that variant then.
  """
  def load(variant) do
    binary = binary!(variant)
    :code.purge(@module)
    {:module, @module} = :code.load_binary(@module, ~c"#{variant}", binary)
    :ok
  end

  def source,
    do: File.read!(Path.join(Mix.Project.deps_paths()[:grpc], "lib/grpc/client/connection.ex"))

  @doc "The patches of a variant: the one that applies is the first, where there is one."
  def patches(variant) do
    @patches[variant]
    |> Enum.map(&File.read!(Path.join([__DIR__, "../../patches", &1])))
    |> Enum.sort_by(&match?({:error, _missing}, Patch.apply(source(), &1)))
  end

  def patch(variant), do: hd(patches(variant))

  defp binary!(variant) do
    case binary(variant) do
      {:ok, binary} ->
        binary

      {:error, missing} ->
        raise "grpc #{Application.spec(:grpc, :vsn)} does not have #{inspect(missing)}, which the " <>
                "patch #{variant} changes: what it makes of GRPC.Client.Connection is not tested"
    end
  end

  defp binary(variant) do
    key = {__MODULE__, variant}

    with nil <- :persistent_term.get(key, nil) do
      result = compile(variant)
      :persistent_term.put(key, result)
      result
    end
  end

  defp compile(:own), do: File.read(Application.app_dir(:grpc, "ebin/#{@module}.beam"))

  defp compile(variant) do
    with {:ok, source} <- Patch.apply(source(), patch(variant)) do
      # It takes the place of the module that is loaded, which is no conflict here.
      Code.put_compiler_option(:ignore_module_conflict, true)

      {[{@module, binary}], diagnostics} =
        Code.with_diagnostics(fn -> Code.compile_string(source, "#{variant}.ex") end)

      Code.put_compiler_option(:ignore_module_conflict, false)
      if diagnostics != [], do: raise("#{variant} compiles with #{inspect(diagnostics)}")
      {:ok, binary}
    end
  end
end
