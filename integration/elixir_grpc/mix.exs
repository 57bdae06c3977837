Code.require_file("source_trees.exs", __DIR__)

if GrpcLbElixirGrpc.SourceTrees.folder(), do: Mix.SCM.prepend(GrpcLbElixirGrpc.SourceTrees)

defmodule GrpcLbElixirGrpc.MixProject do
  use Mix.Project

  def project do
    [
      app: :grpc_lb_elixir_grpc,
      version: "0.1.0",
      elixir: "~> 1.15",
      elixirc_paths: ["test/support"],
      deps: [
        {:grpc, "~> 1.0 and >= 1.0.2"},
        {:grpc_server, "~> 1.0 and >= 1.0.2"},
        {:gun, "~> 2.4"},
        {:mint, "~> 1.9"},
        {:grpc_lb, path: "../.."}
      ]
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
