defmodule GrpcLb.ElixirGrpc.Random do
  @moduledoc """
  Random choice for elixir-grpc: any channel whose connection is alive, each as likely as the
  others. See `GrpcLb.ElixirGrpc`.

      iex> {:ok, state} = GrpcLb.ElixirGrpc.Random.init(channels: [%{host: "10.0.0.1", port: 50051}])
      iex> {:ok, channel, _state} = GrpcLb.ElixirGrpc.Random.pick(state)
      iex> channel.host
      "10.0.0.1"
  """

  use GrpcLb.ElixirGrpc, policy: :random
end
