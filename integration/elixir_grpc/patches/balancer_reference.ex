def pick_channel(%Channel{ref: ref} = _channel, _opts \\ []) do
  case GrpcLb.Native.pick(ref) do
    {:ok, channel} -> {:ok, channel}
    {:error, _no_backends_or_closed} -> {:error, :no_connection}
  end
rescue
  # Not a balancer, but the name that the connection was given.
  ArgumentError ->
    case Registry.lookup(GRPC.Client.Registry, {__MODULE__, ref}) do
      [{_pid, balancer}] when is_reference(balancer) -> pick_channel(%Channel{ref: balancer})
      _no_connection -> {:error, :no_connection}
    end
end

defp choose_lb(:round_robin), do: {:round_robin, on_reconcile: :reset}
defp choose_lb(_), do: :pick_first

defp build_direct_state(%__MODULE__{} = state, target, opts, adapter) do
  {host, port} = EndpointResolver.split_host_port(target)

  with {:ok, channel} <- connect_real_channel(state.virtual_channel, host, port, opts, adapter) do
    channels = %{build_address_key(host, port) => {:connected, channel}}
    {:ok, %__MODULE__{state | real_channels: channels, lb_mod: choose_lb(:pick_first)}}
  end
end

# The supervisor keeps the balancer with the child's arguments, and so from one process of a
# connection to the next. The name leads to the balancer.
def child_spec(initial_state) do
  {:ok, balancer} = GrpcLb.new(initial_state.lb_mod, [])
  name = {__MODULE__, initial_state.virtual_channel.ref}
  via = {:via, Registry, {GRPC.Client.Registry, name, balancer}}
  args = [__MODULE__, %{initial_state | lb_state: balancer}, [name: via]]

  %{id: name, start: {GenServer, :start_link, args}, restart: :transient}
end

# The balancer leads to the process, for whoever has a channel: see via/1.
def init(%__MODULE__{lb_state: balancer} = state) do
  Process.flag(:trap_exit, true)
  {:ok, _balancer} = reconcile_lb(state.lb_mod, balancer, connected_channels(state.real_channels))
  {:ok, _owner} = Registry.register(GRPC.Client.Registry, {__MODULE__, balancer}, nil)

  if function_exported?(state.resolver, :init, 2) do
    opts = [connection_pid: self(), connect_opts: state.connect_opts]
    {:ok, resolver_state} = state.resolver.init(state.resolver_target, opts)
    {:ok, %{state | resolver_state: resolver_state}}
  else
    {:ok, state}
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

# A connection that was given a name goes by it.
defp finalize_connection(%Channel{ref: name}, opts) do
  with [{_pid, balancer}] <- Registry.lookup(GRPC.Client.Registry, {__MODULE__, name}),
       {:ok, channel} <- pick_channel(%Channel{ref: balancer}, opts) do
    {:ok, %Channel{channel | ref: if(opts[:name], do: name, else: balancer)}}
  else
    _gone_or_no_channels -> {:error, :no_connection}
  end
end

def handle_call({:disconnect, %Channel{adapter: adapter} = channel}, _from, state) do
  GrpcLb.close(state.lb_state)

  if state.resolver_state && function_exported?(state.resolver, :shutdown, 1) do
    state.resolver.shutdown(state.resolver_state)
  end

  disconnect_real_channels(state.real_channels, adapter)
  disconnected = %Channel{channel | adapter_payload: %{conn_pid: nil}}
  {:reply, {:ok, disconnected}, state, {:continue, :stop}}
end

# After a crash the next process goes on with the balancer.
def terminate(reason, %{lb_state: balancer}) do
  if reason in [:normal, :shutdown], do: GrpcLb.close(balancer)
  :ok
end
