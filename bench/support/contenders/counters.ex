defmodule GrpcLb.Bench.Contenders.Counters do
  @moduledoc false
  # What users write by hand: a counter a backend. One whose caller is killed stays too high.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    indexed = for {{id, value}, index} <- Enum.with_index(backends, 1), do: {id, {index, value}}
    {Native.setup(indexed, opts), :counters.new(length(backends), [:write_concurrency])}
  end

  @impl true
  def teardown({balancer, _counters}), do: Native.teardown(balancer)

  @impl true
  def pick({balancer, counters}) do
    {:ok, {index, value}} = GrpcLb.Native.pick(balancer)
    :counters.add(counters, index, 1)

    try do
      {:ok, value}
    after
      :counters.sub(counters, index, 1)
    end
  end
end
