defmodule GrpcLb.Bench.Fields.Policies do
  @moduledoc false
  # The policies that weigh backends, look at their load, or at a key, beside the rotation that does
  # none of it. What is picked is a pid.

  @behaviour GrpcLb.Bench.Field

  alias GrpcLb.Bench.{Backends, Budget, Contender}
  alias GrpcLb.Bench.Contenders.{Keyed, Loaded, Native, Weighted}
  alias GrpcLb.Bench.Fields.Picks

  @least_request {:least_request, choices: 2}
  @weighted {:weighted_round_robin, cursor: :per_scheduler}
  @bounded {:ring_hash, hash_balance_factor: 125}

  # Of picks without a key, to that of round_robin.
  @picks %{
    least_request: 1.5,
    least_request_loaded: 1.5,
    weighted_equal: 1.5,
    weighted: 1.5,
    peak_ewma: 2.0,
    peak_ewma_loaded: 2.0,
    random_weighted: nil,
    ring_hash_bounded: nil
  }

  # Of picks with a key, by the number of backends.
  @keyed %{100 => %{ring_hash: 3.0, maglev: 1.5}, 1000 => %{ring_hash: 4.0, maglev: 2.0}}

  @impl true
  def title(_kind, backends), do: "pick by weight, load or key, #{Backends.count(backends)}"

  @impl true
  def cases(plan), do: for(size <- plan.policy_sizes, do: {:pid, size})

  @impl true
  def processes, do: [1, Picks.crowd()]

  @impl true
  def contenders(:pid) do
    [
      Picks.native_per_scheduler(),
      contender(:least_request, "least_request", Native, @least_request),
      contender(:least_request_loaded, "least_request, calls in flight", Loaded, @least_request),
      contender(:weighted_equal, "weighted_round_robin, equal", Native, @weighted),
      contender(:weighted, "weighted_round_robin, 1:2:3:...", Weighted, @weighted),
      contender(:peak_ewma, "peak_ewma", Native, :peak_ewma),
      contender(:peak_ewma_loaded, "peak_ewma, calls in flight", Loaded, :peak_ewma),
      contender(:random, "random, equal", Native, :random),
      contender(:random_weighted, "random, 1:2:3:...", Weighted, :random),
      contender(:ring_hash, "ring_hash, a key", Keyed, :ring_hash),
      contender(:ring_hash_bounded, "ring_hash, a key, bounded", Keyed, @bounded),
      contender(:maglev, "maglev, a key", Keyed, :maglev)
    ]
  end

  @impl true
  def bases, do: [native_per_scheduler: "x round_robin"]

  # The same by many processes is shown, and has no limit: what it is to is a line that all write.
  @impl true
  def ratios(:pid, backends) do
    base = Picks.native_per_scheduler()

    for contender <- contenders(:pid),
        {:ok, limit} <- [Map.fetch(limits(backends), contender.key)] do
      what = "pick, #{Backends.count(backends)}: #{contender.title} / #{base.title}"
      {%Budget{what: what, limit: limit}, {contender.key, 1}, {base.key, 1}}
    end
  end

  defp limits(backends), do: Map.merge(@picks, Map.get(@keyed, backends, %{}))

  defp contender(key, title, module, policy) do
    Contender.new(key, title, module, :any, opts: [policy: policy])
  end
end
