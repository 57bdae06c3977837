# What servers cost 16 callers that are killed, restarted, slow or failing: with elixir-grpc's own round
# robin, with the policy module in its place, and with the adapter. In one run:
#
#   MIX_ENV=test mix run figures.exs [ROUNDS]
#
# The figures are medians over the rounds.

defmodule GrpcLbElixirGrpc.Figures do
  alias GRPC.Client.Adapters.{Gun, Mint}
  alias GRPC.Client.Connection
  alias GrpcLbElixirGrpc.{Kill, Restart, ScriptResolver, Servers, Unequal, Variants}

  @timeout_ms 10_000
  @detection [outlier_detection: [consecutive_failures: 5]]

  @ways [
    {"elixir-grpc's round robin, Gun", :own, Gun},
    {"elixir-grpc's round robin, Mint", :own, Mint},
    {"policy module, Gun", :policy_module, Gun},
    {"adapter, Gun", :own, {[adapter: Gun] ++ @detection}},
    {"adapter, Mint", :own, {[adapter: Mint] ++ @detection}}
  ]

  def run(arguments) do
    rounds = arguments |> List.first("1") |> String.to_integer()
    Logger.configure(level: :none)
    {:ok, _pid} = ScriptResolver.start_link([])

    IO.puts("""
    grpc #{Application.spec(:grpc, :vsn)}, Elixir #{System.version()}, OTP #{System.otp_release()}, \
    #{System.schedulers_online()} schedulers, medians over #{rounds} rounds
    """)

    table(
      "One of three servers is killed",
      [
        calls: "calls",
        failed_begun_before: "failed, begun before",
        failed_begun_after: "failed, begun after",
        slowest_ms: "slowest ms",
        back_ms: "serves again ms"
      ],
      @ways,
      rounds,
      &kill/1
    )

    table(
      "Three servers are restarted in order",
      [calls: "calls", failed: "failed", slowest_ms: "slowest ms", back_ms: "serves again ms"],
      @ways,
      rounds,
      &restart/1
    )

    table(
      "One of three servers is slow and one fails",
      [
        calls: "calls in 2 s",
        failed: "failed",
        slow_percent: "% answered by the slow one",
        p50_ms: "p50 ms",
        p99_ms: "p99 ms"
      ],
      [hd(@ways) | for(policy <- Unequal.policies(), do: way(policy))],
      rounds,
      &unequal/1
    )
  end

  defp way(policy), do: {inspect(policy), :own, {[adapter: Gun] ++ Unequal.options(policy)}}

  defp table(title, columns, ways, rounds, round) do
    IO.puts("\n#{title}\n\n" <> row(["" | Keyword.values(columns)]))

    for {name, variant, adapter} <- ways do
      Variants.load(variant)
      figures = for _ <- 1..rounds, do: round.(adapter)
      IO.puts(row([name | for({key, _title} <- columns, do: median(figures, key))]))
    end
  end

  defp median(figures, key),
    do: figures |> Enum.map(& &1[key]) |> Enum.sort() |> Enum.at(div(length(figures), 2))

  defp kill(adapter) do
    servers = three_servers()
    channel = connect(servers, adapter)
    {figures, again} = Kill.run(servers, fn -> one(channel, sleep_ms: 5) end)
    [first, _killed, third] = servers
    finish(channel, [first, again, third])
    figures
  end

  defp restart(adapter) do
    servers = three_servers()
    channel = connect(servers, adapter)
    {figures, servers} = Restart.run(servers, fn -> one(channel, sleep_ms: 5) end)
    finish(channel, servers)
    figures
  end

  defp unequal(adapter) do
    servers = Unequal.servers()
    channel = connect(servers, adapter)
    figures = Unequal.run(&one(channel, [], metadata: &1))
    finish(channel, servers)
    figures
  end

  defp three_servers, do: Servers.start(for number <- 1..3, do: [number: number])

  defp connect(servers, adapter) do
    target = ScriptResolver.target(Enum.map(servers, &Servers.address/1))
    opts = [resolver: ScriptResolver, lb_policy: :round_robin] ++ adapter(adapter)
    {:ok, channel} = Connection.connect(target, opts)
    channel
  end

  defp adapter({options}),
    do: [adapter: GrpcLb.ElixirGrpc.Adapter, adapter_opts: [grpc_lb: options]]

  defp adapter(inner), do: [adapter: inner]

  defp finish(channel, servers) do
    Connection.disconnect(channel)
    Enum.each(servers, &Servers.kill/1)
  end

  defp one(channel, request, opts \\ []) do
    opts = [timeout: @timeout_ms] ++ opts

    with {:ok, reply} <- Work.Stub.one(channel, struct!(Work.Request, request), opts) do
      {:ok, reply.server}
    end
  end

  defp row(cells), do: "| " <> Enum.join(cells, " | ") <> " |"
end

GrpcLbElixirGrpc.Figures.run(System.argv())
