defmodule GrpcLb.Bench.Contenders.PublicPick do
  @moduledoc false
  # As `Native`, through the public module.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.pick(balancer)
end
