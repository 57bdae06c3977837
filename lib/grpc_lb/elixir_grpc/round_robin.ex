defmodule GrpcLb.ElixirGrpc.RoundRobin do
  @moduledoc """
  Round robin for elixir-grpc: one channel after the other, from the first, and from the first
  again after each update, as elixir-grpc's own. See `GrpcLb.ElixirGrpc`.

      iex> channels = for host <- ["10.0.0.1", "10.0.0.2"], do: %{host: host, port: 50051}
      iex> {:ok, state} = GrpcLb.ElixirGrpc.RoundRobin.init(channels: channels)
      iex> for _ <- 1..3, {:ok, channel, _} = GrpcLb.ElixirGrpc.RoundRobin.pick(state), do: channel.host
      ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
  """

  use GrpcLb.ElixirGrpc, policy: {:round_robin, on_reconcile: :reset}
end
