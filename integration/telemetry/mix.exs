Code.require_file("../elixir_grpc/source_trees.exs", __DIR__)

if GrpcLbElixirGrpc.SourceTrees.folder(), do: Mix.SCM.prepend(GrpcLbElixirGrpc.SourceTrees)

defmodule GrpcLbTelemetry.MixProject do
  use Mix.Project

  def project do
    [
      app: :grpc_lb_telemetry,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: [
        {:telemetry, "~> 1.2"},
        {:telemetry_metrics, "~> 1.0"},
        {:telemetry_poller, "~> 1.1"},
        {:grpc_lb, path: "../.."}
      ]
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
