defmodule FantaTCP.MixProject do
  use Mix.Project

  def project do
    [
      app: :fanta_tcp,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: [{:grpc_lb, path: "../.."}]
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
