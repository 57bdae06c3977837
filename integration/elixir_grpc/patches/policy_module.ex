defp choose_lb(:round_robin), do: GrpcLb.ElixirGrpc.RoundRobin
defp choose_lb(:random), do: GrpcLb.ElixirGrpc.Random
defp choose_lb(_), do: GrpcLb.ElixirGrpc.PickFirst
