defmodule GrpcLbElixirGrpc.SourceTrees do
  @moduledoc """
  Where Mix finds the dependencies when `INTEGRATION_DEPS` names a folder: the source tree of an
  application `:app` is `app` in that folder, wherever its package or its parent takes it from.

  Mix checks the version of each tree against what everybody asks for, as it does with Hex.
  """

  @behaviour Mix.SCM

  @doc "The folder, if there is one."
  def folder do
    with folder when folder not in [nil, ""] <- System.get_env("INTEGRATION_DEPS"),
         do: Path.expand(folder)
  end

  # A path that this project names itself stays what it is.
  @impl true
  def accepts_options(:grpc_lb, _opts), do: nil
  def accepts_options(app, opts), do: Keyword.put(opts, :dest, Path.join(folder(), "#{app}"))

  @impl true
  def fetchable?, do: false

  @impl true
  def format(opts), do: opts[:dest]

  @impl true
  def format_lock(_opts), do: nil

  @impl true
  def checked_out?(opts), do: File.dir?(opts[:dest])

  @impl true
  def equal?(one, other), do: one[:dest] == other[:dest]

  @impl true
  def lock_status(_opts), do: :ok

  # Mix tells by what is in a tree.
  @impl true
  def managers(_opts), do: []

  @impl true
  def checkout(opts), do: Mix.raise("there is no source tree #{opts[:dest]}")

  @impl true
  def update(opts), do: checkout(opts)
end
