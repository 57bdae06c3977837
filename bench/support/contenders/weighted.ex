defmodule GrpcLb.Bench.Contenders.Weighted do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    weighted =
      for {{id, value}, weight} <- Enum.with_index(backends, 1), do: {id, value, weight: weight}

    Native.setup(weighted, opts)
  end

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.Native.pick(balancer)
end
