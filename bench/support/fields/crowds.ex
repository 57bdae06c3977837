defmodule GrpcLb.Bench.Fields.Crowds do
  @moduledoc false
  # Picks a second by more and more processes. What is picked is a pid.

  @behaviour GrpcLb.Bench.Field

  alias GrpcLb.Bench.Backends
  alias GrpcLb.Bench.Fields.Picks

  @impl true
  def title(_kind, backends), do: "throughput, pick of a pid, #{Backends.count(backends)}"

  @impl true
  def cases(_plan), do: [{:pid, 5}]

  @impl true
  def processes, do: [1, 2, 4, 8, 16, 32]

  @impl true
  def contenders(:pid) do
    [
      Picks.unit(),
      Picks.native_shared(),
      Picks.native_per_scheduler(),
      Picks.elixir_grpc(),
      Picks.persistent_tuple(),
      Picks.registry_random()
    ]
  end

  @impl true
  def bases, do: [atomics: "x atomics"]

  # Those of one and of 32 processes are with the picks.
  @impl true
  def ratios(:pid, _backends), do: []
end
