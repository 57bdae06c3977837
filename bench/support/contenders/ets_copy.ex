defmodule GrpcLb.Bench.Contenders.EtsCopy do
  @moduledoc false
  # How elixir-grpc 1.0 picks: the balancer's state is found in a persistent_term under a module
  # and a reference, all channels are one ETS row that each pick copies, an atomic is the cursor.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Backends

  @impl true
  def setup(backends, _opts) do
    ref = make_ref()
    table = :ets.new(:channels, [:set, :public, read_concurrency: true])
    cursor = :atomics.new(1, signed: false)
    :ets.insert(table, {:channels, List.to_tuple(Backends.values(backends))})
    :persistent_term.put({__MODULE__, ref}, %{table: table, cursor: cursor})
    ref
  end

  @impl true
  def teardown(ref) do
    %{table: table} = :persistent_term.get({__MODULE__, ref})
    :persistent_term.erase({__MODULE__, ref})
    :ets.delete(table)
  end

  @impl true
  def update(ref, backends) do
    %{table: table} = :persistent_term.get({__MODULE__, ref})
    :ets.insert(table, {:channels, List.to_tuple(Backends.values(backends))})
  end

  @impl true
  def pick(ref) do
    %{table: table, cursor: cursor} = :persistent_term.get({__MODULE__, ref})
    [{:channels, channels}] = :ets.lookup(table, :channels)
    turn = :atomics.add_get(cursor, 1, 1)
    {:ok, elem(channels, rem(turn, tuple_size(channels)))}
  end
end
