defmodule GrpcLb.Bench.Fields.Pools do
  @moduledoc false
  # The ways to share a pool of processes. What is picked is a pid.

  @behaviour GrpcLb.Bench.Field

  alias GrpcLb.Bench.{Backends, Budget, Contender}
  alias GrpcLb.Bench.Contenders.{Pg, Pool, Poolboy, WorkerPool}
  alias GrpcLb.Bench.Fields.Picks

  # By the number of members, against the ways with a Registry.
  @registry %{10 => 0.1, 100 => 0.02}
  @by_reference 1.6

  @impl true
  def title(_kind, members), do: "pool of #{Backends.count(members, "member", "members")}"

  @impl true
  def cases(plan), do: for(size <- plan.pool_sizes, do: {:pid, size})

  @impl true
  def processes, do: [1, Picks.crowd()]

  @impl true
  def contenders(:pid) do
    [
      Contender.new(:pool, "Pool.pick(name), shared cursor", Pool, :rotation,
        opts: [name: Pool.Shared, policy: {:round_robin, cursor: :shared}]
      ),
      Contender.new(
        :pool_per_scheduler,
        "Pool.pick(name), per-scheduler cursor",
        Pool,
        :near_rotation,
        opts: [name: Pool.PerScheduler, policy: {:round_robin, cursor: :per_scheduler}]
      ),
      Picks.public(),
      Picks.registry_random(),
      Picks.registry_counter(),
      Contender.new(:pg, ":pg + Enum.random", Pg, :any, side: :peer)
    ] ++ Poolboy.contenders() ++ WorkerPool.contenders()
  end

  @impl true
  def bases do
    [registry_random: "x random", registry_counter: "x counter", public: "x GrpcLb.pick"]
  end

  # One process has the same rotation with either cursor.
  @impl true
  def ratios(:pid, members) do
    for {key, processes} <- [
          {:pool, 1},
          {:pool, Picks.crowd()},
          {:pool_per_scheduler, Picks.crowd()}
        ],
        {base, limit} <- limits(key, members) do
      callers = Backends.count(processes, "process", "processes")
      what = "pool of #{members}, #{callers}: #{name(key)} / #{name(base)}"
      {%Budget{what: what, limit: limit}, {key, processes}, {base, processes}}
    end
  end

  defp limits(:pool, members), do: [{:public, @by_reference} | registry(members)]
  defp limits(:pool_per_scheduler, members), do: registry(members)

  defp registry(members) when is_map_key(@registry, members) do
    for base <- [:registry_random, :registry_counter], do: {base, @registry[members]}
  end

  defp registry(_members), do: []

  defp name(key), do: Enum.find(contenders(:pid), &(&1.key == key)).title
end
