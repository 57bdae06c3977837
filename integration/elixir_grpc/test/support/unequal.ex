defmodule GrpcLbElixirGrpc.Unequal do
  @moduledoc """
  Three servers, one of them slow and one failing, and 16 callers: what they see in two seconds.
  """

  alias GrpcLbElixirGrpc.{Load, Servers}

  @callers 16
  @ms 2_000
  @users 100
  @slow 2

  @type figures :: %{
          calls: non_neg_integer(),
          failed: non_neg_integer(),
          slow_percent: float(),
          p50_ms: non_neg_integer(),
          p99_ms: non_neg_integer()
        }

  @doc "The policies, those that go by what servers do last."
  @spec policies() :: [GrpcLb.Policy.t()]
  def policies do
    [
      :random,
      :round_robin,
      :pick_first,
      :maglev,
      {:ring_hash, hash_balance_factor: 125},
      {:weighted_round_robin, weights: :reported, blackout_period: 0},
      :least_request,
      :peak_ewma
    ]
  end

  @doc "Whether a slow server gets less of the calls."
  @spec knows_slow?(GrpcLb.Policy.t()) :: boolean()
  def knows_slow?({:weighted_round_robin, _opts}), do: true
  def knows_slow?(policy), do: policy in [:least_request, :peak_ewma]

  @doc "The options of the adapter. Pick first sees no outliers: it keeps to one until that is lost."
  @spec options(GrpcLb.Policy.t()) :: keyword()
  def options(:pick_first), do: [policy: :pick_first]

  def options(policy) do
    [
      policy: policy,
      hash_key: {:header, "user-id"},
      outlier_detection: [consecutive_failures: 5]
    ]
  end

  @doc "The servers; the slow one reports that it has much to do."
  @spec servers() :: [Servers.t()]
  def servers do
    Servers.start([
      [number: 1, utilization: 0.2],
      [number: @slow, sleep_ms: 50, utilization: 0.8],
      [number: 3, status: 14]
    ])
  end

  @doc "Calls, with the metadata of one of many users, and without a pause."
  @spec run((metadata :: map() -> {:ok, pos_integer()} | {:error, term()})) :: figures()
  def run(call) do
    calls =
      Load.for_ms(@ms, @callers, fn ->
        call.(%{"user-id" => "user #{:rand.uniform(@users)}"})
      end)

    answered = for %{result: {:ok, server}} <- calls, do: server
    latencies = calls |> Enum.map(&(&1.ended - &1.begun)) |> Enum.sort()

    %{
      calls: length(calls),
      failed: length(calls) - length(answered),
      slow_percent: Float.round(100 * Enum.count(answered, &(&1 == @slow)) / length(answered), 1),
      p50_ms: percentile(latencies, 0.5),
      p99_ms: percentile(latencies, 0.99)
    }
  end

  defp percentile(sorted, share), do: Enum.at(sorted, trunc(length(sorted) * share))
end
