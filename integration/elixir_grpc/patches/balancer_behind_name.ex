def pick_channel(%Channel{ref: ref} = _channel, _opts \\ []) do
  with {_policy, balancer} <- :persistent_term.get(lb_key(ref), nil),
       {:ok, channel} <- GrpcLb.Native.pick(balancer) do
    {:ok, channel}
  else
    _no_connection_or_no_channels -> {:error, :no_connection}
  end
end

defp choose_lb(:round_robin), do: {:round_robin, on_reconcile: :reset}
defp choose_lb(_), do: :pick_first

# A process that takes the place of a killed one makes a balancer of its own; picks go on with the
# one before until then.
defp init_lb(policy, real_channels, adapter) do
  # What establish/1 says of a target that it could not resolve.
  policy = if policy == GRPC.Client.LoadBalancing.PickFirst, do: :pick_first, else: policy

  case connected_channels(real_channels) do
    [] ->
      disconnect_real_channels(real_channels, adapter)
      {:error, first_failure(real_channels) || :no_addresses}

    connected ->
      {:ok, balancer} = GrpcLb.new(policy, [])
      reconcile_lb(policy, balancer, connected)
  end
end

# Not every adapter has a process, and one with a global name may be another node's.
defp reconcile_lb(_policy, balancer, channels) do
  backends =
    for %{adapter_payload: payload} = channel <- channels do
      owner = with %{conn_pid: pid} when node(pid) == node() <- payload, do: pid, else: (_ -> nil)
      {{channel.host, channel.port}, channel, owner: owner}
    end

  with {:ok, _changes} <- GrpcLb.reconcile(balancer, backends), do: {:ok, balancer}
end
