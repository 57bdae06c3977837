defmodule GrpcLb.Bench.Contenders.Ticket do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer) do
    {:ok, value, ticket} = GrpcLb.Native.checkout(balancer)
    :ok = GrpcLb.Native.complete(ticket, :ok, nil)
    {:ok, value}
  end
end
