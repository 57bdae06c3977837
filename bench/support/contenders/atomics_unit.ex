defmodule GrpcLb.Bench.Contenders.AtomicsUnit do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(_backends, _opts), do: :atomics.new(1, signed: false)

  @impl true
  def teardown(_cursor), do: :ok

  @impl true
  def pick(cursor), do: :atomics.add_get(cursor, 1, 1)
end
