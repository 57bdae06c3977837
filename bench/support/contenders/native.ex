defmodule GrpcLb.Bench.Contenders.Native do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(backends, opts) do
    # What the cases before have left would have this one's values copied: in a minute there are more of
    # them than in a year of a connection.
    GrpcLb.Eraser.erase()
    {:ok, balancer} = GrpcLb.new(opts[:policy], backends, Keyword.get(opts, :around, []))
    balancer
  end

  @impl true
  def teardown(balancer), do: GrpcLb.close(balancer)

  @impl true
  def update(balancer, backends), do: {:ok, _changes} = GrpcLb.reconcile(balancer, backends)

  @impl true
  def pick(balancer), do: GrpcLb.Native.pick(balancer)
end
