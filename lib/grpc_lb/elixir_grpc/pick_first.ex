defmodule GrpcLb.ElixirGrpc.PickFirst do
  @moduledoc """
  Pick first for elixir-grpc: the first channel whose connection is alive. See
  `GrpcLb.ElixirGrpc`.

      iex> channels = for host <- ["10.0.0.1", "10.0.0.2"], do: %{host: host, port: 50051}
      iex> {:ok, state} = GrpcLb.ElixirGrpc.PickFirst.init(channels: channels)
      iex> for _ <- 1..3, {:ok, channel, _} = GrpcLb.ElixirGrpc.PickFirst.pick(state), do: channel.host
      ["10.0.0.1", "10.0.0.1", "10.0.0.1"]
  """

  use GrpcLb.ElixirGrpc, policy: :pick_first
end
