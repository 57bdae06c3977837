defmodule GrpcLb.Bench.Contenders.Run do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.run(balancer, fn value -> {:ok, value} end)
end
