defmodule GrpcLb.Bench.PolicyContenders do
  @moduledoc false
  # The policies that weigh backends, or look at their load, beside the rotation that does neither.
  # What is picked is a pid.

  alias GrpcLb.Bench.{Contender, Contenders, Keyed}
  alias GrpcLb.Bench.PolicyContenders.{Loaded, Weighted}

  @least_request {:least_request, choices: 2}
  @weighted {:weighted_round_robin, cursor: :per_scheduler}
  @bounded {:ring_hash, hash_balance_factor: 125}

  @doc "What the ratios of the others are to."
  def bases, do: [:native_per_scheduler]

  def all(:pid) do
    [
      Contenders.native_per_scheduler(),
      contender(:least_request, "least_request", Contenders.Native, @least_request),
      contender(:least_request_loaded, "least_request, calls in flight", Loaded, @least_request),
      contender(:weighted_equal, "weighted_round_robin, equal", Contenders.Native, @weighted),
      contender(:weighted, "weighted_round_robin, 1:2:3:...", Weighted, @weighted),
      contender(:peak_ewma, "peak_ewma", Contenders.Native, :peak_ewma),
      contender(:peak_ewma_loaded, "peak_ewma, calls in flight", Loaded, :peak_ewma),
      contender(:random, "random, equal", Contenders.Native, :random),
      contender(:random_weighted, "random, 1:2:3:...", Weighted, :random),
      contender(:ring_hash, "ring_hash, a key", Keyed, :ring_hash),
      contender(:ring_hash_bounded, "ring_hash, a key, bounded", Keyed, @bounded),
      contender(:maglev, "maglev, a key", Keyed, :maglev)
    ]
  end

  defp contender(key, title, module, policy) do
    %Contender{key: key, title: title, module: module, order: :any, opts: [policy: policy]}
  end
end

defmodule GrpcLb.Bench.PolicyContenders.Weighted do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    weighted =
      for {{id, value}, weight} <- Enum.with_index(backends, 1), do: {id, value, weight: weight}

    Native.setup(weighted, opts)
  end

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.Native.pick(balancer)
end

defmodule GrpcLb.Bench.PolicyContenders.Loaded do
  @moduledoc false
  # With calls in flight, 0 to 7 of them, so that there is something to compare.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @most 8

  @impl true
  def setup(backends, opts) do
    balancer = Native.setup(backends, opts)
    {:ok, holder} = Agent.start_link(fn -> load(balancer, length(backends)) end)
    {balancer, holder}
  end

  @impl true
  def teardown({balancer, holder}) do
    Agent.stop(holder)
    Native.teardown(balancer)
  end

  @impl true
  def pick({balancer, _holder}), do: GrpcLb.Native.pick(balancer)

  # The tickets of the calls that stay in flight.
  defp load(balancer, count) do
    tickets =
      for _ <- 1..(@most * count),
          {:ok, value, ticket} = GrpcLb.checkout(balancer),
          do: {value, ticket}

    tickets
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Enum.with_index()
    |> Enum.flat_map(fn {{_value, tickets}, index} ->
      {kept, ended} = Enum.split(tickets, rem(index, @most))
      Enum.each(ended, &GrpcLb.complete(&1, :ok))
      kept
    end)
  end
end
