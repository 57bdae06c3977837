defmodule Demo.Scenes.PickCost do
  @moduledoc false
  # What a pick costs beside the two ways to build round robin out of the BEAM's own parts, in
  # one process, over five backends: compiled loops, one after another in every round. Times are
  # shown, and never judged.

  @behaviour Demo.Scene

  alias Demo.View.{Style, Text}

  defmodule Channel do
    @moduledoc false
    # 45 words with its strings, maps and lists, as a gRPC channel has.
    defstruct host: nil,
              port: nil,
              scheme: "http",
              cred: nil,
              ref: nil,
              adapter: nil,
              adapter_payload: nil,
              codec: nil,
              interceptors: [],
              compressor: nil,
              accepted_compressors: [],
              headers: []
  end

  @backends 5
  @rounds 40
  @picks 10_000

  @type way :: String.t()
  @type result :: {way(), %{minimum: float(), median: float()}}

  @impl true
  def title, do: "The cost"

  @impl true
  def announcement(_options) do
    ["a pick, beside round robin out of the BEAM's own parts"]
  end

  @impl true
  def play(style, _options) do
    measured = measure()

    %{
      sentence: sentence(measured),
      tables: [{"Nanoseconds a pick, in one process", lines(style, measured)}],
      checks: []
    }
  end

  # What there is to remember.
  @spec sentence([{String.t(), [result()]}]) :: String.t()
  def sentence([{value, [{_own_way, own}, {_ets_way, ets} | _]} | _]) do
    "A pick of #{value} takes #{round(own.median)} ns, and out of an ETS table #{round(ets.median)} ns."
  end

  # Nanoseconds a pick, by what is picked; the first way is the library's.
  @spec measure() :: [{value :: String.t(), [result()]}]
  def measure do
    [
      {"a pid", compare(for _ <- 1..@backends, do: self())},
      {"a 45-word channel", compare(for number <- 1..@backends, do: channel(number))}
    ]
  end

  @spec lines(Style.t(), [{String.t(), [result()]}]) :: [IO.chardata()]
  def lines(style, measured) do
    Enum.flat_map(measured, fn {value, [{_way, own} | _] = results} ->
      head = cells("pick of " <> value, ["minimum", "ratio", "median", "ratio"])

      [
        Style.paint(style, :faint, head)
        | for {way, result} <- results do
            cells(way, [
              Text.decimal(result.minimum, 9) <> " ns",
              Text.decimal(result.minimum / own.minimum, 6) <> "x",
              Text.decimal(result.median, 9) <> " ns",
              Text.decimal(result.median / own.median, 6) <> "x"
            ])
          end
      ]
    end)
  end

  defp compare(values) do
    {:ok, balancer} = GrpcLb.new(:round_robin, Enum.with_index(values, &{&2, &1}))
    table = :ets.new(:channels, read_concurrency: true)
    :ets.insert(table, {:channels, List.to_tuple(values)})
    state = {__MODULE__, make_ref()}
    :persistent_term.put(state, {table, :atomics.new(1, [])})
    tuple = {__MODULE__, make_ref()}
    :persistent_term.put(tuple, {List.to_tuple(values), :atomics.new(1, [])})

    ways = [
      {"grpc_lb", fn -> native(balancer, @picks) end},
      {"ETS + atomics + persistent_term", fn -> ets(state, @picks) end},
      {"persistent_term tuple + atomics", fn -> tuple(tuple, @picks) end}
    ]

    _warm_up = Enum.each(ways, &time/1)
    rounds = for _ <- 1..@rounds, do: Enum.map(ways, &time/1)

    :persistent_term.erase(state)
    :persistent_term.erase(tuple)
    :ets.delete(table)
    :ok = GrpcLb.close(balancer)

    for {{way, _loop}, times} <- Enum.zip(ways, Enum.zip_with(rounds, & &1)) do
      {way, %{minimum: Enum.min(times), median: median(times)}}
    end
  end

  # One loop does not pay for the garbage of another.
  defp time({_way, loop}) do
    :erlang.garbage_collect()
    from = System.monotonic_time(:nanosecond)
    loop.()
    (System.monotonic_time(:nanosecond) - from) / @picks
  end

  defp native(_balancer, 0), do: :ok

  defp native(balancer, picks) do
    {:ok, _value} = GrpcLb.pick(balancer)
    native(balancer, picks - 1)
  end

  # As elixir-grpc 1.0: where the table and the cursor are stands in a persistent term, and the
  # lookup copies every channel out of the table.
  defp ets(_state, 0), do: :ok

  defp ets(state, picks) do
    {:ok, _value} = ets_pick(state)
    ets(state, picks - 1)
  end

  defp ets_pick(state) do
    {table, cursor} = :persistent_term.get(state)
    [{:channels, channels}] = :ets.lookup(table, :channels)
    {:ok, elem(channels, rem(:atomics.add_get(cursor, 1, 1), tuple_size(channels)))}
  end

  # The fastest there is without native code, but every change of the list makes every process
  # of the node collect its garbage.
  defp tuple(_state, 0), do: :ok

  defp tuple(state, picks) do
    {:ok, _value} = tuple_pick(state)
    tuple(state, picks - 1)
  end

  defp tuple_pick(state) do
    {channels, cursor} = :persistent_term.get(state)
    {:ok, elem(channels, rem(:atomics.add_get(cursor, 1, 1), tuple_size(channels)))}
  end

  defp channel(number) do
    %Channel{
      host: "10.0.0.#{number}",
      port: 50_051,
      ref: make_ref(),
      adapter: :adapter,
      adapter_payload: %{conn_pid: self()},
      codec: :proto,
      accepted_compressors: [:gzip]
    }
  end

  defp median(times), do: times |> Enum.sort() |> Enum.at(div(length(times), 2))

  defp cells(title, numbers) do
    columns = Enum.zip_with(numbers, [13, 8, 13, 8], &String.pad_leading/2)
    ["  ", String.pad_trailing(title, 34) | columns]
  end
end
