# elixir-grpc's own round robin beside that of grpc_lb, in one run: MIX_ENV=test mix run compare.exs
#
# Three real servers and real stubs, 16 callers. The variants take turns, a short round each; the
# figures are medians over the rounds, of a pick by itself and of whole calls.

defmodule GrpcLbElixirGrpc.Compare do
  alias GRPC.Client.Connection
  alias GrpcLbElixirGrpc.{ScriptResolver, Variants}

  @rounds 15
  @callers 16
  @calls 250
  @picks 200_000

  def run do
    Logger.configure(level: :none)
    {:ok, _pid} = ScriptResolver.start_link([])
    for number <- 1..3, do: {:ok, _pid} = Whoami.start_link(number)
    target = ScriptResolver.target(Enum.map(1..3, &Whoami.address/1))

    channels =
      for variant <- Variants.all() do
        Variants.load(variant)
        opts = [resolver: ScriptResolver, lb_policy: :round_robin]
        {:ok, channel} = Connection.connect(target, opts)
        {variant, channel}
      end

    # The first rounds warm up.
    for _ <- 1..2, {variant, channel} <- channels, do: round(variant, channel)

    rounds =
      for number <- 1..@rounds, {variant, channel} <- rotate(channels, number) do
        {variant, round(variant, channel)}
      end

    print(Variants.all(), Enum.group_by(rounds, &elem(&1, 0), &elem(&1, 1)))
  end

  defp rotate(list, by) do
    {head, tail} = Enum.split(list, rem(by, length(list)))
    tail ++ head
  end

  defp round(variant, channel) do
    Variants.load(variant)
    pick_ns = in_process(fn -> time(fn -> pick(channel, @picks) end) / @picks end)
    {took, latencies} = calls(channel)
    latencies = Enum.sort(latencies)

    %{
      pick_ns: pick_ns,
      calls_per_second: @callers * @calls / took * 1.0e9,
      p50_us: percentile(latencies, 0.50) / 1000,
      p99_us: percentile(latencies, 0.99) / 1000
    }
  end

  defp pick(_channel, 0), do: :ok

  defp pick(channel, left) do
    {:ok, _channel} = Connection.pick_channel(channel)
    pick(channel, left - 1)
  end

  defp calls(channel) do
    from = now()
    callers = for _ <- 1..@callers, do: Task.async(fn -> latencies(channel) end)
    latencies = callers |> Task.await_many(:infinity) |> List.flatten()
    {now() - from, latencies}
  end

  defp latencies(channel) do
    for _ <- 1..@calls, do: time(fn -> {:ok, _server} = Whoami.ask(channel) end)
  end

  defp in_process(fun), do: Task.await(Task.async(fun), :infinity)

  defp time(fun) do
    from = now()
    fun.()
    now() - from
  end

  defp now, do: System.monotonic_time(:nanosecond)

  defp percentile(sorted, share), do: Enum.at(sorted, trunc(length(sorted) * share))

  defp print(variants, rounds) do
    IO.puts("""
    grpc #{Application.spec(:grpc, :vsn)}, grpc_lb #{Application.spec(:grpc_lb, :vsn)}, \
    Elixir #{System.version()}, OTP #{System.otp_release()}, \
    #{System.schedulers_online()} schedulers
    #{@rounds} rounds of #{@callers} callers x #{@calls} calls and of #{@picks} picks, \
    3 servers, medians

    #{line(["", "pick ns", "calls/s", "p50 us", "p99 us"])}\
    """)

    for variant <- variants do
      figures =
        for key <- [:pick_ns, :calls_per_second, :p50_us, :p99_us] do
          rounds[variant] |> Enum.map(& &1[key]) |> median() |> round()
        end

      IO.puts(line([variant | figures]))
    end
  end

  defp median(numbers), do: numbers |> Enum.sort() |> Enum.at(div(length(numbers), 2))

  defp line([first | rest]) do
    Enum.join([String.pad_trailing("#{first}", 20) | Enum.map(rest, &pad/1)])
  end

  defp pad(figure), do: String.pad_leading("#{figure}", 10)
end

GrpcLbElixirGrpc.Compare.run()
