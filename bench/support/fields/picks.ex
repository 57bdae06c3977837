defmodule GrpcLb.Bench.Fields.Picks do
  @moduledoc false
  # The ways to pick one backend after the other, by reference.

  @behaviour GrpcLb.Bench.Field

  alias GrpcLb.Bench.{Backends, Budget, Contender}

  alias GrpcLb.Bench.Contenders.{
    AtomicsUnit,
    ElixirGrpc,
    EtsCopy,
    Native,
    OneProcess,
    PersistentTuple,
    PublicPick,
    RegistryCounter,
    RegistryRandom
  }

  @crowd 32

  @shared {:round_robin, cursor: :shared}
  @per_scheduler {:round_robin, cursor: :per_scheduler}
  @interned [values: :interned]

  def crowd, do: @crowd

  @doc "The unit: the cheapest thing that any rotation over shared state has to do."
  def unit, do: Contender.new(:atomics, ":atomics.add_get/3", AtomicsUnit, :counter, side: :scale)

  def native_shared do
    title = "Native.pick, shared cursor"
    Contender.new(:native_shared, title, Native, :rotation, opts: [policy: @shared])
  end

  def native_per_scheduler do
    title = "Native.pick, per-scheduler cursor"
    opts = [policy: @per_scheduler]
    Contender.new(:native_per_scheduler, title, Native, :near_rotation, opts: opts)
  end

  @doc "The same with values that are not copied."
  def interned_shared do
    opts = [policy: @shared, around: @interned]
    Contender.new(:interned_shared, "interned, shared cursor", Native, :rotation, opts: opts)
  end

  def interned_per_scheduler do
    title = "interned, per-scheduler cursor"
    opts = [policy: @per_scheduler, around: @interned]
    Contender.new(:interned_per_scheduler, title, Native, :near_rotation, opts: opts)
  end

  def public do
    title = "GrpcLb.pick, shared cursor"
    Contender.new(:public, title, PublicPick, :rotation, opts: [policy: @shared])
  end

  def elixir_grpc do
    Contender.new(:ets_copy, "ETS + atomics + persistent_term", EtsCopy, :rotation, side: :peer)
  end

  def persistent_tuple do
    Contender.new(
      :persistent_tuple,
      "persistent_term tuple + atomics",
      PersistentTuple,
      :rotation,
      side: :peer,
      price: "a global garbage collection at every change"
    )
  end

  def registry_random do
    Contender.new(:registry_random, "Registry + Enum.random", RegistryRandom, :any, side: :peer)
  end

  def registry_counter do
    title = "Registry + ETS counter"
    Contender.new(:registry_counter, title, RegistryCounter, :rotation, side: :peer)
  end

  @impl true
  def title(kind, backends), do: "pick of a #{kind}, #{Backends.count(backends)}"

  @impl true
  def cases(plan), do: for(kind <- [:pid, :channel], size <- plan.sizes, do: {kind, size})

  @impl true
  def processes, do: [1, @crowd]

  @impl true
  def contenders(:channel), do: contenders(:pid) ++ policies()

  def contenders(:pid) do
    [
      unit(),
      native_shared(),
      native_per_scheduler(),
      interned_shared(),
      interned_per_scheduler(),
      Contender.new(:native_random, "Native.pick, random", Native, :any, opts: [policy: :random]),
      public(),
      elixir_grpc(),
      persistent_tuple(),
      registry_random(),
      registry_counter(),
      Contender.new(:one_process, "one GenServer", OneProcess, :rotation, side: :peer)
    ]
  end

  # The policy module for elixir-grpc, with the channels that `init/1` was given, and with channels
  # that came later, so that none is in the state.
  defp policies do
    same = "ElixirGrpc.RoundRobin"
    others = "ElixirGrpc.RoundRobin, all updated"

    [
      Contender.new(:policy, same, ElixirGrpc, :rotation, opts: [init: :same]),
      Contender.new(:policy_updated, others, ElixirGrpc, :rotation, opts: [init: :others])
    ]
  end

  @impl true
  def bases do
    [atomics: "x atomics", ets_copy: "x ETS", persistent_tuple: "x tuple"]
  end

  @impl true
  def ratios(:pid, backends) do
    # What crossbeam-epoch costs is in the limits; the aims are for the work on performance.
    [
      at_most(:pid, backends, :native_shared, :atomics, 2.2, 1.9),
      at_most(:pid, backends, :native_per_scheduler, :atomics, 1.85, 1.6),
      crowd(backends, :native_shared, nil),
      crowd(backends, :native_per_scheduler, 0.9 * System.schedulers_online())
    ]
  end

  def ratios(:channel, backends) do
    copied = %{1 => 0.6, 5 => 0.3, 100 => 0.012}[backends]
    interned = %{1 => 0.15, 5 => 0.08, 100 => 0.003}[backends]

    for {key, base, limit} <- [
          {:native_shared, :ets_copy, copied},
          {:policy, :ets_copy, copied},
          {:policy_updated, :ets_copy, copied},
          {:interned_shared, :ets_copy, interned},
          {:interned_per_scheduler, :ets_copy, interned},
          {:interned_shared, :persistent_tuple, 1.0},
          {:interned_per_scheduler, :persistent_tuple, 1.0},
          {:interned_shared, :atomics, 1.9},
          {:interned_per_scheduler, :atomics, 1.6}
        ] do
      at_most(:channel, backends, key, base, limit)
    end
  end

  defp at_most(kind, backends, key, base, limit, aim \\ nil) do
    what = "#{kind}, #{Backends.count(backends)}: #{name(kind, key)} / #{name(kind, base)}"
    {%Budget{what: what, limit: limit, aim: aim}, {key, 1}, {base, 1}}
  end

  defp crowd(backends, key, limit) do
    what =
      "pid, #{Backends.count(backends)}: #{name(:pid, key)}, picks/s, #{@crowd} processes / 1"

    {%Budget{what: what, limit: limit, bound: :at_least}, {key, 1}, {key, @crowd}}
  end

  defp name(kind, key), do: Enum.find(contenders(kind), &(&1.key == key)).title
end
