defmodule GrpcLb.ElixirGrpc.Holder do
  @moduledoc false
  # Holds the balancer of one connection of elixir-grpc, under the connection's name, and starts a
  # subchannel for every address. Ends with the last address, or when the connection is gone.

  use GenServer, restart: :temporary
  use GrpcLb.Redacted, show: [:name, :addresses]

  alias GrpcLb.ElixirGrpc.{Adapter, Call, Subchannel}
  alias GrpcLb.Secret

  @supervisor GrpcLb.ElixirGrpc.Holders

  # A supervisor that starts a killed connection anew does that at once.
  @grace_ms 1_000

  # How long an adapter may take to disconnect.
  @stop_ms 3_000

  # A crash is logged with this, and there may be credentials in the options.
  @derive {Inspect, only: [:name, :addresses]}
  @enforce_keys [:name, :options, :balancer]
  defstruct @enforce_keys ++ [:watched, :monitor, addresses: %{}, subchannels: %{}]

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

  @doc "Removes the address of a subchannel. The holder has ended when it was the last."
  @spec disconnect(name :: term(), subchannel :: pid()) :: :ok
  def disconnect(name, subchannel) do
    with [{holder, _connection}] <- Registry.lookup(GrpcLb.Registry, {Adapter, name}) do
      GenServer.call(holder, {:disconnect, subchannel}, :infinity)
    end

    :ok
  rescue
    # The application is not running.
    ArgumentError -> :ok
  catch
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

  @doc "A subchannel has lost its connection."
  @spec down(holder :: pid(), subchannel :: pid()) :: :ok
  def down(holder, subchannel), do: GenServer.cast(holder, {:down, subchannel})

  @doc false
  def start_link({name, options}) do
    via = {:via, Registry, {GrpcLb.Registry, {Adapter, name}}}
    GenServer.start_link(__MODULE__, {name, options}, name: via)
  end

  @impl true
  def init({name, options}) do
    options = Secret.reveal(options)
    Process.flag(:trap_exit, true)
    {:ok, balancer} = GrpcLb.new(options.policy, [], [owner: self()] ++ options.settings)

    connection =
      options
      |> Map.take([:adapter, :classify, :hash_key, :retry_unsent, :reports?])
      |> Map.put(:balancer, balancer)

    Registry.update_value(GrpcLb.Registry, {Adapter, name}, fn _ -> connection end)
    {:ok, %__MODULE__{name: name, options: options, balancer: balancer}}
  end

  @impl true
  def handle_call({:connect, channel, opts}, {caller, _tag} = from, state) do
    state = watch(state, process_of_elixir_grpc(state.name) || caller)
    address = {channel.host, channel.port}

    case state.addresses do
      %{^address => %{waiting: nil, subchannel: subchannel} = known} ->
        {:reply, {:ok, subchannel}, put_address(state, address, %{known | leaving?: false})}

      %{^address => known} ->
        {:noreply, put_address(state, address, %{known | waiting: [from | known.waiting]})}

      _new ->
        {:ok, subchannel} = start_subchannel(channel, opts, state.options)
        state = put_in(state.subchannels[subchannel], %{address: address, process: nil})
        known = %{subchannel: subchannel, waiting: [from], leaving?: false}
        {:noreply, put_address(state, address, known)}
    end
  end

  def handle_call({:disconnect, subchannel}, _from, state) do
    with {:ok, address} <- listed(state, subchannel),
         true <-
           Enum.all?(state.addresses, fn {other, known} -> other == address or known.leaving? end),
         pid when pid != nil <- process_of_elixir_grpc(state.name) do
      # New addresses take the place of all old ones, and elixir-grpc connects to them last; or else
      # its process ends now.
      known = %{state.addresses[address] | leaving?: true}
      {:reply, :ok, state |> watch(pid) |> put_address(address, known)}
    else
      :error -> {:reply, :ok, state}
      false -> {:reply, :ok, remove(state, elem(listed(state, subchannel), 1))}
      nil -> {:stop, :normal, :ok, state}
    end
  end

  @impl true
  def handle_cast({:up, subchannel, up}, state) do
    state = put_in(state.subchannels[subchannel].process, up.process)

    case listed(state, subchannel) do
      {:ok, address} ->
        # Connected to again it is a new server, of which nothing is known.
        GrpcLb.remove(state.balancer, [address])

        case GrpcLb.add(state.balancer, [{address, up.fields, owner: up.owner}]) do
          {:ok, _changes} ->
            known = state.addresses[address]
            for from <- known.waiting || [], do: GenServer.reply(from, {:ok, subchannel})
            {:noreply, state |> put_address(address, %{known | waiting: nil}) |> remove_leaving()}

          # By somebody who had it from `GrpcLb.ElixirGrpc.Adapter.balancer/1`.
          {:error, :closed} ->
            {:stop, :normal, state}
        end

      :error ->
        {:noreply, state}
    end
  end

  def handle_cast({:down, subchannel}, state) do
    with {:ok, address} <- listed(state, subchannel) do
      GrpcLb.set_state(state.balancer, address, :transient_failure)
    end

    {:noreply, state}
  end

  @impl true
  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.subchannels, pid) do
    {%{process: process}, subchannels} = Map.pop(state.subchannels, pid)
    # One that was killed has not disconnected.
    if process, do: Process.exit(process, :shutdown)

    address = listed(state, pid)
    state = %{state | subchannels: subchannels}

    with {:ok, address} <- address do
      GrpcLb.remove(state.balancer, [address])
      {known, addresses} = Map.pop(state.addresses, address)
      # Whoever is told that there is no connection finds none.
      if addresses == %{}, do: unregister(state)
      for from <- known.waiting || [], do: GenServer.reply(from, {:error, why(reason)})
      go_on(%{state | addresses: addresses})
    else
      :error -> {:noreply, state}
    end
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{monitor: monitor} = state) do
    if Enum.all?(state.addresses, fn {_address, known} -> known.leaving? end) do
      {:stop, :normal, state}
    else
      Process.send_after(self(), :look_for_connection, @grace_ms)
      {:noreply, %{state | watched: nil, monitor: nil}}
    end
  end

  def handle_info(:look_for_connection, state) do
    case process_of_elixir_grpc(state.name) do
      nil when state.watched == nil -> {:stop, :normal, state}
      nil -> {:noreply, state}
      pid -> {:noreply, watch(state, pid)}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    unregister(state)
    GrpcLb.close(state.balancer)
    subchannels = Map.keys(state.subchannels)
    for pid <- subchannels, do: Process.exit(pid, :shutdown)

    for pid <- subchannels do
      receive do
        {:EXIT, ^pid, _reason} -> :ok
      after
        @stop_ms -> Process.exit(pid, :kill)
      end
    end
  end

  defp go_on(%{addresses: none} = state) when none == %{}, do: {:stop, :normal, state}
  defp go_on(state), do: {:noreply, state}

  defp unregister(state), do: Registry.unregister(GrpcLb.Registry, {Adapter, state.name})

  defp start_subchannel(channel, opts, options) do
    Subchannel.start_link(self(), channel, options.adapter, opts, options.backoff)
  end

  defp remove_leaving(state) do
    leaving = for {address, %{leaving?: true}} <- state.addresses, do: address
    Enum.reduce(leaving, state, &remove(&2, &1))
  end

  defp remove(state, address) do
    {known, addresses} = Map.pop(state.addresses, address)
    GrpcLb.remove(state.balancer, [address])
    Subchannel.drain(known.subchannel, state.options.drain_timeout)
    %{state | addresses: addresses}
  end

  defp put_address(state, address, known), do: put_in(state.addresses[address], known)

  # One that drains has an address that is listed no longer, or has another subchannel.
  defp listed(state, subchannel) do
    with %{address: address} <- state.subchannels[subchannel],
         %{^address => %{subchannel: ^subchannel}} <- state.addresses do
      {:ok, address}
    else
      _not_listed -> :error
    end
  end

  defp why({:shutdown, {:not_connected, reason}}), do: reason
  defp why(reason), do: reason

  # elixir-grpc connects in its own process, or, before there is one, in that of the caller: then it
  # is looked for later.
  defp watch(%{watched: watched} = state, watched), do: state

  defp watch(state, pid) do
    if state.monitor, do: Process.demonitor(state.monitor, [:flush])

    if process_of_elixir_grpc(state.name) != pid do
      Process.send_after(self(), :look_for_connection, @grace_ms)
    end

    %{state | watched: pid, monitor: Process.monitor(pid)}
  end

  defp process_of_elixir_grpc(name) do
    with registry when registry != nil <- Process.whereis(GRPC.Client.Registry),
         [{pid, _value}] <- Registry.lookup(GRPC.Client.Registry, {GRPC.Client.Connection, name}) do
      pid
    else
      _none -> nil
    end
  end
end
