defmodule GrpcLb.Bench.Contenders.PersistentTuple do
  @moduledoc false
  # The fastest that the BEAM has by itself: cursor and values are one persistent_term under an
  # atom, so a pick copies nothing. Each change of the list costs a global garbage collection.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Backends

  @impl true
  def setup(backends, _opts), do: put(:atomics.new(1, signed: false), backends)

  @impl true
  def teardown(_state), do: :persistent_term.erase(__MODULE__)

  @impl true
  def update(_state, backends) do
    {cursor, _values} = :persistent_term.get(__MODULE__)
    put(cursor, backends)
  end

  @impl true
  def pick(_state) do
    {cursor, values} = :persistent_term.get(__MODULE__)
    turn = :atomics.add_get(cursor, 1, 1)
    {:ok, elem(values, rem(turn, tuple_size(values)))}
  end

  defp put(cursor, backends) do
    :persistent_term.put(__MODULE__, {cursor, List.to_tuple(Backends.values(backends))})
  end
end
