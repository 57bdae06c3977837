defmodule GrpcLb.ElixirGrpc.Holder do
  @moduledoc false
  # Holds the balancer of one connection of elixir-grpc, under the connection's name, and starts a
  # subchannel for every address, again when it is killed. Ends with the last address, or when the
  # connection is gone.

  use GenServer, restart: :temporary
  use GrpcLb.Redacted, show: [:name, :addresses]

  alias GrpcLb.ElixirGrpc.{Adapter, Addresses, Call, Owner, Subchannel}
  alias GrpcLb.Secret

  @supervisor GrpcLb.ElixirGrpc.Holders

  # A process of elixir-grpc that was started anew has resolved again by then: every 30 seconds.
  @forget_ms 60_000

  # How long an adapter may take to disconnect.
  @stop_ms 3_000

  # A crash is logged with this, and there may be credentials in the options.
  @derive {Inspect, only: [:name, :addresses]}
  @enforce_keys [:name, :options, :balancer, :owner]
  defstruct @enforce_keys ++
              [:channel, :opts, addresses: %{}, subchannels: MapSet.new(), awaiting: []]

  @doc "The supervisor of all holders, for the application."
  @spec supervisor() :: Supervisor.child_spec()
  def supervisor do
    Supervisor.child_spec({DynamicSupervisor, name: @supervisor}, id: @supervisor)
  end

  @doc "What calls of the connection need. One look at a table, without a process."
  @spec lookup(name :: term()) :: {:ok, Call.connection()} | :error
  def lookup(name) do
    case Registry.lookup(GrpcLb.Registry, {Adapter, name}) do
      [{_holder, %{} = connection}] -> {:ok, connection}
      _none_or_not_ready -> :error
    end
  rescue
    # The application is not running.
    ArgumentError -> :error
  end

  @doc """
  Connects to the channel's address, if that is not done already. Returns the subchannel.

  `opts` are those of the inner adapter. What differs in a later call for the same name is not looked at.
  """
  @spec connect(channel :: map(), options :: map(), opts :: keyword()) ::
          {:ok, pid()} | {:error, reason :: term()}
  def connect(channel, options, opts) do
    case start(channel.ref, options) do
      {:ok, holder} -> connect(holder, channel, options, opts)
      {:error, {:already_started, holder}} -> connect(holder, channel, options, opts)
      {:error, reason} -> {:error, reason}
    end
  end

  defp start(name, options) do
    DynamicSupervisor.start_child(@supervisor, {__MODULE__, {name, Secret.hide(options)}})
  catch
    # The application is not running.
    :exit, {reason, _call} -> {:error, reason}
  end

  defp connect(holder, channel, options, opts) do
    GenServer.call(holder, {:connect, channel, opts}, :infinity)
  catch
    # It ended with an address that went at this moment.
    :exit, {reason, _call} when reason in [:noproc, :normal] -> connect(channel, options, opts)
    :exit, {reason, _call} -> {:error, reason}
  end

  @doc "Removes an address. The holder has ended when it was the last."
  @spec disconnect(name :: term(), Addresses.address()) :: :ok
  def disconnect(name, address) do
    with [{holder, _connection}] <- Registry.lookup(GrpcLb.Registry, {Adapter, name}) do
      GenServer.call(holder, {:disconnect, address}, :infinity)
    end

    :ok
  rescue
    # The application is not running.
    ArgumentError -> :ok
  catch
    :exit, {_reason, _call} -> :ok
  end

  @doc """
  The connection of this process takes no more calls: none is sent there from now on, and its subchannel
  connects anew.
  """
  @spec going_away(holder :: pid(), process :: pid()) :: :ok
  def going_away(holder, process) do
    GenServer.call(holder, {:going_away, process}, :infinity)
  catch
    # Nor are there others.
    :exit, {_reason, _call} -> :ok
  end

  @doc """
  A subchannel has connected. `fields` are what calls have to know, `owner` is the process without which
  they cannot be made, and `process` the one that elixir-grpc knows, if there are such.
  """
  @spec up(holder :: pid(), subchannel :: pid(), %{
          fields: map(),
          owner: pid() | nil,
          process: pid() | nil
        }) :: :ok
  def up(holder, subchannel, up), do: GenServer.cast(holder, {:up, subchannel, up})

  @doc "A subchannel has a load report."
  @spec report(holder :: pid(), subchannel :: pid(), report :: binary()) :: :ok
  def report(holder, subchannel, report),
    do: GenServer.cast(holder, {:report, subchannel, report})

  @doc "A subchannel has no connection: it is about to connect, or it could not and waits."
  @spec down(holder :: pid(), subchannel :: pid(), :connecting | :transient_failure) :: :ok
  def down(holder, subchannel, state), do: GenServer.cast(holder, {:down, subchannel, state})

  @doc """
  Waits while an address is connected to that was connected before: whether there may be something to
  pick now. A call waits so where gRPC's would, in a channel that is CONNECTING.
  """
  @spec await(holder :: pid(), timeout()) :: boolean()
  def await(holder, timeout) do
    GenServer.call(holder, :await, timeout)
  catch
    :exit, {_reason, _call} -> false
  end

  @doc false
  def start_link({name, options}) do
    via = {:via, Registry, {GrpcLb.Registry, {Adapter, name}}}
    GenServer.start_link(__MODULE__, {name, options}, name: via)
  end

  @impl true
  def init({name, options}) do
    options = Secret.reveal(options)
    Process.flag(:trap_exit, true)

    {:ok, balancer} =
      GrpcLb.new(
        options.policy,
        [],
        [owner: self(), name: options.name || name] ++ options.settings
      )

    connection =
      options
      |> Map.take([:adapter, :classify, :hash_key, :retry_unsent, :reports?])
      |> Map.merge(%{balancer: balancer, holder: self()})

    Registry.update_value(GrpcLb.Registry, {Adapter, name}, fn _ -> connection end)
    owner = %Owner{name: name}
    {:ok, %__MODULE__{name: name, options: options, balancer: balancer, owner: owner}}
  end

  @impl true
  def handle_call({:connect, channel, opts}, {caller, _tag} = from, state) do
    # Those of all addresses are the same, but for the address.
    state = %{state | channel: state.channel || channel, opts: state.opts || opts}
    state = %{state | owner: Owner.watch(state.owner, caller)}
    address = {channel.host, channel.port}
    # Before there is a process of elixir-grpc, its first addresses are connected to for it.
    by = Owner.find(state.name)

    case state.addresses do
      %{^address => %{waiting: nil} = known} ->
        known = %{known | leaving?: false, by: by}
        {:reply, {:ok, known.subchannel}, put_address(state, address, known)}

      %{^address => known} ->
        {:noreply,
         put_address(state, address, %{known | waiting: [from | known.waiting], by: by})}

      _new ->
        known = Addresses.first(from, by)
        {:noreply, state |> put_address(address, known) |> start_subchannel(address, :first)}
    end
  end

  def handle_call({:disconnect, address}, {caller, _tag}, state) do
    cond do
      not is_map_key(state.addresses, address) ->
        {:reply, :ok, state}

      not Addresses.all_leaving?(Map.delete(state.addresses, address)) ->
        {:reply, :ok, remove(state, address)}

      Owner.find(state.name) == nil ->
        {:stop, :normal, :ok, state}

      # New addresses take the place of all old ones, and elixir-grpc connects to them last; or else
      # its process ends now.
      true ->
        state = put_in(state.addresses[address].leaving?, true)
        {:reply, :ok, %{state | owner: Owner.watch(state.owner, caller)}}
    end
  end

  def handle_call({:going_away, process}, _from, state) do
    case Addresses.of_process(state.addresses, process) do
      {:ok, address} ->
        Subchannel.replace(state.addresses[address].subchannel, process)
        {:reply, :ok, set_state(state, address, :connecting)}

      :error ->
        {:reply, :ok, state}
    end
  end

  def handle_call(:await, from, state) do
    if Addresses.connecting?(state.addresses),
      do: {:noreply, %{state | awaiting: [from | state.awaiting]}},
      else: {:reply, false, state}
  end

  @impl true
  def handle_cast({:up, subchannel, up}, state) do
    case Addresses.of_subchannel(state.addresses, subchannel) do
      {:ok, address} ->
        # Connected to again it is a new server, of which nothing is known.
        GrpcLb.remove(state.balancer, [address])

        case GrpcLb.add(state.balancer, [{address, up.fields, backend(state, address, up)}]) do
          {:ok, _changes} ->
            known = state.addresses[address]
            for from <- known.waiting || [], do: GenServer.reply(from, {:ok, subchannel})
            known = %{known | waiting: nil, process: up.process, connecting?: false}
            state = put_address(state, address, known)
            {:noreply, state |> remove_all(Addresses.leaving(state.addresses)) |> awaited()}

          # By somebody who had it from `GrpcLb.ElixirGrpc.Adapter.balancer/1`.
          {:error, :closed} ->
            {:stop, :normal, state}
        end

      :error ->
        {:noreply, state}
    end
  end

  def handle_cast({:down, subchannel, to}, state) do
    case Addresses.of_subchannel(state.addresses, subchannel) do
      {:ok, address} -> {:noreply, set_state(state, address, to)}
      :error -> {:noreply, state}
    end
  end

  def handle_cast({:report, subchannel, report}, state) do
    with {:ok, address} <- Addresses.of_subchannel(state.addresses, subchannel),
         do: GrpcLb.report(state.balancer, address, report)

    {:noreply, state}
  end

  @impl true
  def handle_info({:EXIT, pid, reason}, state) do
    state = %{state | subchannels: MapSet.delete(state.subchannels, pid)}

    case Addresses.of_subchannel(state.addresses, pid) do
      {:ok, address} -> subchannel_ended(state, address, state.addresses[address], reason)
      :error -> {:noreply, state}
    end
  end

  def handle_info(
        {:DOWN, monitor, :process, _pid, _reason},
        %{owner: %{monitor: monitor}} = state
      ) do
    if Addresses.all_leaving?(state.addresses) do
      {:stop, :normal, state}
    else
      Process.send_after(self(), :forget, @forget_ms)
      {:noreply, %{state | owner: Owner.ended(state.owner)}}
    end
  end

  def handle_info(:look_for_owner, state) do
    case Owner.look(state.owner) do
      {:ok, owner} -> {:noreply, %{state | owner: owner}}
      :gone -> {:stop, :normal, state}
    end
  end

  # What the process knew that was killed, and the one in its place has not asked for since. As long as
  # that has none, all is kept: it may be that it cannot resolve.
  def handle_info(:forget, state) do
    unknown = Addresses.unknown_to(state.addresses, state.owner.pid)

    if length(unknown) == map_size(state.addresses) do
      Process.send_after(self(), :forget, @forget_ms)
      {:noreply, state}
    else
      {:noreply, remove_all(state, unknown)}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    unregister(state)
    GrpcLb.close(state.balancer)
    for pid <- state.subchannels, do: Process.exit(pid, :shutdown)

    for pid <- state.subchannels do
      receive do
        {:EXIT, ^pid, _reason} -> :ok
      after
        @stop_ms -> Process.exit(pid, :kill)
      end
    end
  end

  defp backend(%{options: %{sticky?: false}}, _address, up), do: [owner: up.owner]

  # Hashed as gRPC's other clients do, so that one key leads all of them to one server (gRFC A42).
  defp backend(_sticky, address, up), do: [owner: up.owner, hash_key: text(address)]

  defp text({host, port}) when is_binary(host),
    do: if(host =~ ":", do: "[#{host}]:#{port}", else: "#{host}:#{port}")

  defp text(_path), do: nil

  # It was killed.
  defp subchannel_ended(state, address, %{waiting: nil}, _reason) do
    state = set_state(state, address, :transient_failure)
    {:noreply, start_subchannel(state, address, :again)}
  end

  defp subchannel_ended(state, address, known, reason) do
    addresses = Map.delete(state.addresses, address)
    # Whoever is told that there is no connection finds none.
    if addresses == %{}, do: unregister(state)
    for from <- known.waiting, do: GenServer.reply(from, {:error, why(reason)})
    go_on(%{state | addresses: addresses})
  end

  defp go_on(%{addresses: none} = state) when none == %{}, do: {:stop, :normal, state}
  defp go_on(state), do: {:noreply, state}

  defp unregister(state), do: Registry.unregister(GrpcLb.Registry, {Adapter, state.name})

  defp start_subchannel(state, {host, port} = address, how) do
    channel = %{state.channel | host: host, port: port}
    {:ok, pid} = Subchannel.start_link(self(), channel, state.opts, state.options, how)
    state = %{state | subchannels: MapSet.put(state.subchannels, pid)}
    update_in(state.addresses[address], &%{&1 | subchannel: pid, process: nil})
  end

  defp remove_all(state, addresses), do: Enum.reduce(addresses, state, &remove(&2, &1))

  defp remove(state, address) do
    {known, addresses} = Map.pop(state.addresses, address)
    GrpcLb.remove(state.balancer, [address])
    Subchannel.drain(known.subchannel, state.options.drain_timeout)
    awaited(%{state | addresses: addresses})
  end

  defp set_state(state, address, to) do
    GrpcLb.set_state(state.balancer, address, to)
    awaited(put_in(state.addresses[address].connecting?, to == :connecting))
  end

  # Who finds nothing to pick asks again.
  defp awaited(state) do
    for from <- state.awaiting, do: GenServer.reply(from, true)
    %{state | awaiting: []}
  end

  defp put_address(state, address, known), do: put_in(state.addresses[address], known)

  defp why({:shutdown, {:not_connected, reason}}), do: reason
  defp why(reason), do: reason
end
