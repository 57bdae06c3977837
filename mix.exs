defmodule GrpcLb.MixProject do
  use Mix.Project

  @version "0.2.0"
  # What Hex shows of the package, source and all.
  @source_url "https://hex.pm/packages/grpc_lb"

  @guides Enum.map(
            ~w(installing choosing_a_policy connections elixir_grpc transports routing_pools
               sticky_routing testing observing performance architecture),
            &"guides/#{&1}.md"
          )

  def project do
    [
      app: :grpc_lb,
      version: @version,
      elixir: "~> 1.14",
      name: "grpc_lb",
      description: "Client-side load balancing for the BEAM, the whole decision in one NIF call",
      source_url: @source_url,
      homepage_url: @source_url,
      package: package(),
      docs: docs(),
      # The NIF is built after the Elixir code, because the task that builds it is part of it.
      compilers: Mix.compilers() ++ [:grpc_lb_native],
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: []
    ] ++ started_where_needed()
  end

  # Parts of OTP that the compiler task and the dashboard start, and no other part of this needs. How the
  # compiler is told has another name in newer versions.
  defp started_where_needed do
    modules = [:httpc, :public_key, :crypto, :inets, :httpd_util]

    if Version.match?(System.version(), ">= 1.19.0-rc.0"),
      do: [elixirc_options: [no_warn_undefined: modules]],
      else: [xref: [exclude: modules]]
  end

  def application do
    [mod: {GrpcLb.Application, []}]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{
        "Documentation" => "https://hexdocs.pm/grpc_lb",
        "Changelog" => "https://hexdocs.pm/grpc_lb/changelog.html"
      },
      files:
        ~w(lib native/*/src native/*/benches native/*/Cargo.toml native/*/build.rs Cargo.toml Cargo.lock
                mix.exs .formatter.exs guides livebook README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md
                LICENSE checksum-*.exs)
    ]
  end

  defp docs do
    [
      main: "readme",
      extras:
        ["README.md"] ++
          @guides ++
          ["livebook/grpc_lb.livemd", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"],
      assets: %{"guides/assets" => "guides/assets"},
      groups_for_extras: [Guides: @guides],
      groups_for_modules: [
        Balancers: [
          GrpcLb,
          GrpcLb.Backend,
          GrpcLb.Policy,
          GrpcLb.LoadReport,
          GrpcLb.Clock,
          GrpcLb.Native
        ],
        Connections: [
          GrpcLb.Connection,
          GrpcLb.Transport,
          GrpcLb.Address,
          GrpcLb.HostPort,
          GrpcLb.Target,
          ~r/^GrpcLb\.Resolver/
        ],
        Pools: [~r/^GrpcLb\.Pool/],
        "In production": [~r/^GrpcLb\.(Telemetry|Metrics|Log|Dashboard)/],
        "elixir-grpc": [~r/^GrpcLb\.ElixirGrpc/]
      ]
    ]
  end
end
