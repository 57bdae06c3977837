defmodule Demo.MixProject do
  use Mix.Project

  def project do
    [
      app: :grpc_lb_demo,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: [{:grpc_lb, path: "../.."}]
    ]
  end

  # Mix is more than the tool that builds it here: the demo is a task.
  def application, do: [extra_applications: [:logger, :mix]]
end
