defmodule GrpcLb.Bench.Contenders.Ets do
  @moduledoc false
  # As `Counters`, in a table.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    table = :ets.new(:in_flight, [:set, :public, write_concurrency: true])
    for {id, _value} <- backends, do: :ets.insert(table, {id, 0})
    {Native.setup(backends, opts), table}
  end

  @impl true
  def teardown({balancer, table}) do
    :ets.delete(table)
    Native.teardown(balancer)
  end

  @impl true
  def pick({balancer, table}) do
    {:ok, pid} = GrpcLb.Native.pick(balancer)
    :ets.update_counter(table, pid, 1)

    try do
      {:ok, pid}
    after
      :ets.update_counter(table, pid, -1)
    end
  end
end
