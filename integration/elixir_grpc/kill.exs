# What the kill of one of three servers costs 16 callers: with elixir-grpc's own round robin, with the
# policy module in its place, and with the adapter. In one run: MIX_ENV=test mix run kill.exs [KILLS]

defmodule GrpcLbElixirGrpc.KillFigures do
  alias GRPC.Client.Adapters.{Gun, Mint}
  alias GRPC.Client.Connection
  alias GrpcLbElixirGrpc.{Kill, ScriptResolver, Servers, Variants}

  @timeout_ms 10_000
  @detection [consecutive_failures: 5]

  @ways [
    {"elixir-grpc's round robin, Gun", :own, Gun},
    {"elixir-grpc's round robin, Mint", :own, Mint},
    {"policy module, Gun", :policy_module, Gun},
    {"adapter, Gun", :own, {:adapter, Gun}},
    {"adapter, Mint", :own, {:adapter, Mint}}
  ]

  def run(arguments) do
    rounds = arguments |> List.first("1") |> String.to_integer()
    Logger.configure(level: :none)
    {:ok, _pid} = ScriptResolver.start_link([])

    IO.puts("""
    grpc #{Application.spec(:grpc, :vsn)}, Elixir #{System.version()}, OTP #{System.otp_release()}, \
    #{System.schedulers_online()} schedulers, medians over #{rounds} kills

    #{row(["", "calls", "failed, begun before", "failed, begun after", "slowest ms", "serves again ms"])}\
    """)

    for {name, variant, adapter} <- @ways do
      kills = for _ <- 1..rounds, do: kill(variant, adapter)

      figures =
        for key <- [:calls, :failed_begun_before, :failed_begun_after, :slowest_ms, :back_ms] do
          kills |> Enum.map(& &1[key]) |> Enum.sort() |> Enum.at(div(rounds, 2))
        end

      IO.puts(row([name | figures]))
    end
  end

  defp kill(variant, adapter) do
    Variants.load(variant)
    servers = Servers.start(for number <- 1..3, do: [number: number])
    target = ScriptResolver.target(Enum.map(servers, &Servers.address/1))
    opts = [resolver: ScriptResolver, lb_policy: :round_robin] ++ adapter(adapter)
    {:ok, channel} = Connection.connect(target, opts)
    {figures, again} = Kill.run(servers, fn -> one(channel) end)
    Connection.disconnect(channel)
    [first, _killed, third] = servers
    for server <- [first, again, third], do: Servers.kill(server)
    figures
  end

  defp adapter({:adapter, inner}) do
    options = [adapter: inner, outlier_detection: @detection]
    [adapter: GrpcLb.ElixirGrpc.Adapter, adapter_opts: [grpc_lb: options]]
  end

  defp adapter(inner), do: [adapter: inner]

  defp one(channel) do
    request = %Work.Request{sleep_ms: 5}

    with {:ok, reply} <- Work.Stub.one(channel, request, timeout: @timeout_ms) do
      {:ok, reply.server}
    end
  end

  defp row(cells), do: "| " <> Enum.join(cells, " | ") <> " |"
end

GrpcLbElixirGrpc.KillFigures.run(System.argv())
