defmodule GrpcLb.Bench.Contenders.Keyed do
  @moduledoc false
  # Picks of one key after the other. The loops are those of a contender, and count the keys.

  @behaviour GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @keys List.to_tuple(for n <- 1..1024, do: "customer #{n * 7919}")

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.Native.pick(balancer, elem(@keys, :rand.uniform(1024) - 1))

  @impl true
  def loop(_balancer, 0, last), do: last
  def loop(balancer, count, _last), do: loop(balancer, count - 1, pick(balancer, count))

  @impl true
  def sample(_balancer, _count, _histogram, _last), do: raise("the tail of these is not measured")

  defp pick(balancer, count),
    do: GrpcLb.Native.pick(balancer, elem(@keys, Bitwise.band(count, 1023)))
end
