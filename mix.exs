defmodule GrpcLb.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :grpc_lb,
      version: @version,
      elixir: "~> 1.14",
      description: "Client-side load balancing for the BEAM, the whole decision in one NIF call",
      package: package(),
      # The NIF is built after the Elixir code, because the task that builds it is part of it.
      compilers: Mix.compilers() ++ [:grpc_lb_native],
      elixirc_paths: elixirc_paths(Mix.env()),
      # Parts of OTP that the compiler task starts, and no other part of this needs.
      xref: [exclude: [:httpc, :public_key, :crypto]],
      start_permanent: Mix.env() == :prod,
      deps: []
    ]
  end

  def application do
    [mod: {GrpcLb.Application, []}]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["Apache-2.0"],
      files:
        ~w(lib native/*/src native/*/benches native/*/Cargo.toml native/*/build.rs Cargo.toml Cargo.lock
                mix.exs .formatter.exs guides README.md CHANGELOG.md CONTRIBUTING.md LICENSE)
    ]
  end
end
