defmodule GrpcLb.Connection.Server do
  @moduledoc false
  # The process of a connection. It never waits for a resolver or a transport: these run in processes
  # of their own and send messages, which are sorted here. What they lead to is in `Discovery` and
  # `Backends`.

  use GenServer

  alias GrpcLb.{Connection, Keeper, Telemetry}
  alias GrpcLb.Connection.{Backends, Discovery, Options, Rotation, Subchannel, Waiters}

  # The transports' values may be secret, and a crash is logged with this.
  @derive {Inspect, only: [:options, :ready?]}
  @enforce_keys [:options, :keeper, :rotation, :backends, :discovery, :since]
  defstruct @enforce_keys ++
              [
                # Who waits in connect/2 and has not been told.
                caller: nil,
                ready?: false,
                resolution: :pending,
                reconcile_pending?: false,
                waiters: %{}
              ]

  @doc "How long it may take to end: a little more than its transports may take to close."
  @spec shutdown_ms() :: pos_integer()
  def shutdown_ms, do: Subchannel.close_ms() + 2_000

  @spec start_link(Options.t()) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: via(options.name))

  @doc "The process of the connection with this name."
  @spec whereis(name :: term()) :: pid() | nil
  def whereis(name), do: GenServer.whereis(via(name))

  @doc "The process of the connection with this name, and its balancer, `nil` before it has one."
  @spec lookup(name :: term()) :: {pid(), GrpcLb.balancer() | nil} | nil
  def lookup(name), do: List.first(Registry.lookup(GrpcLb.Registry, {Connection, name}))

  @doc "The name of the connection with this process."
  @spec name(pid()) :: {:ok, name :: term()} | :error
  def name(pid) do
    names = for {Connection, name} <- Registry.keys(GrpcLb.Registry, pid), do: {:ok, name}
    List.first(names, :error)
  end

  defp via(name), do: {:via, Registry, {GrpcLb.Registry, {Connection, name}}}

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    case Keeper.claim({Connection, options.name}, make(options), release(about(options))) do
      {:ok, keeper, kept, claim} ->
        :erlang.monitor(:process, keeper, tag: :keeper_down)
        {:ok, begin(options, keeper, kept, claim)}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  defp make(%{policy: policy, settings: settings}) do
    fn ->
      {:ok, balancer} = GrpcLb.new(policy, [], [owner: self()] ++ settings)
      {:ok, subchannels} = DynamicSupervisor.start_link(strategy: :one_for_one)
      %{balancer: balancer, subchannels: subchannels, since: System.monotonic_time()}
    end
  end

  defp release(about) do
    fn kept, reason ->
      GrpcLb.close(kept.balancer)
      Subchannel.stop_all(kept.subchannels)

      Telemetry.execute(
        [:grpc_lb, :connection, :disconnected],
        %{duration: System.monotonic_time() - kept.since},
        Map.put(about, :reason, reason)
      )
    end
  end

  defp begin(options, keeper, kept, claim) do
    Registry.update_value(GrpcLb.Registry, {Connection, options.name}, fn _ -> kept.balancer end)

    state = %__MODULE__{
      options: options,
      keeper: keeper,
      rotation: Rotation.new(kept.balancer),
      backends: Backends.new(options, kept.subchannels),
      discovery: Discovery.start(options),
      since: System.monotonic_time()
    }

    case claim do
      :new -> state
      {:taken_over, nil} -> state
      {:taken_over, addresses} -> take_over(state, addresses)
    end
    |> publish_or_watch_caller()
  end

  defp take_over(state, addresses) do
    backends = Backends.adopt(state.backends, addresses)
    rotation = Rotation.adopt(state.rotation.balancer)
    ready? = Enum.any?(Backends.wanted(backends), fn {_id, up, _weight} -> up != :not_up end)

    reconcile_soon(%{
      state
      | backends: backends,
        rotation: rotation,
        ready?: ready?,
        resolution: :ok
    })
  end

  # connect/2 publishes when it is ready, and ends when its caller does. Once that has its handle, it
  # is as any other, also when it is started anew without a keeper that could tell.
  defp publish_or_watch_caller(%{options: options} = state) do
    if options.caller && not told?(options.caller) do
      :erlang.monitor(:process, options.caller.pid, tag: :caller_down)
      %{state | caller: options.caller}
    else
      Keeper.publish(state.keeper)
      state
    end
  end

  defp told?(%{told: told}), do: :atomics.get(told, 1) == 1

  @impl true
  def handle_call(question, from, state) do
    if balancer_closed?(state),
      do: closed(state),
      else: answer(question, from, state)
  end

  defp answer({:await_ready, _timeout}, _from, %{ready?: true} = state) do
    {:reply, :ok, state}
  end

  defp answer({:await_ready, timeout}, from, state) do
    {:noreply, %{state | waiters: Waiters.add(state.waiters, from, timeout)}}
  end

  defp answer(:info, _from, state) do
    info = %{
      name: state.options.name,
      target: state.options.target,
      ready: state.ready?,
      resolution: state.resolution,
      backends: Backends.describe(state.backends)
    }

    {:reply, info, state}
  end

  @impl true
  def handle_cast(:resolve_now, state) do
    {:noreply, %{state | discovery: Discovery.request(state.discovery)}}
  end

  @impl true
  def handle_info({:resolved, worker, result}, state) do
    case Discovery.resolved(state.discovery, worker, result) do
      {:ok, duration, discovery} ->
        resolution(%{state | discovery: discovery}, result, duration)

      :stale ->
        {:noreply, state}
    end
  end

  def handle_info({:pushed, _worker, result}, state), do: resolution(state, result, 0)

  def handle_info({:backend_up, id, pid, value, owner}, state) do
    backends = Backends.up(state.backends, id, pid, value, owner)
    {:noreply, reconcile_soon(%{state | backends: backends})}
  end

  def handle_info({:backend_checked, id, pid}, state) do
    {:noreply, %{state | backends: Backends.checked(state.backends, id, pid)}}
  end

  def handle_info({:backend_down, id, pid, reason}, state) do
    state.backends |> Backends.down(id, pid, reason) |> perhaps_lost(state)
  end

  def handle_info({{:backend_ended, id}, _monitor, :process, _pid, reason}, state) do
    state.backends |> Backends.ended(id, reason) |> perhaps_lost(state)
  end

  def handle_info({:timeout, timer, {:backend, id, what}}, state) do
    {:noreply, %{state | backends: Backends.timeout(state.backends, id, timer, what)}}
  end

  def handle_info({:timeout, timer, :discovery}, state) do
    {:noreply, %{state | discovery: Discovery.timeout(state.discovery, timer)}}
  end

  def handle_info({:timeout, _timer, {:waiter, monitor}}, state) do
    {:noreply, %{state | waiters: Waiters.timeout(state.waiters, monitor)}}
  end

  def handle_info(:reconcile, state), do: reconcile(%{state | reconcile_pending?: false})

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    {:noreply, %{state | waiters: Waiters.down(state.waiters, monitor)}}
  end

  # Watched to its end, because only the caller knows that it has got its handle.
  def handle_info({:caller_down, _monitor, :process, _pid, _reason}, state) do
    if told?(state.options.caller),
      do: {:noreply, state},
      else: {:stop, {:shutdown, :caller_down}, state}
  end

  # The balancer is closed. A supervisor makes a new one by starting this process anew.
  def handle_info({:keeper_down, _monitor, :process, _pid, reason}, state) do
    {:stop, {:keeper_down, reason}, state}
  end

  def handle_info({:EXIT, pid, reason}, state) do
    case Discovery.ended(state.discovery, pid, reason) do
      {:ok, reason, duration, discovery} ->
        resolution(%{state | discovery: discovery}, {:error, reason}, duration)

      :other ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    Discovery.stop(state.discovery)
    if on_purpose?(reason), do: Keeper.release(state.keeper, reason)
  end

  # Otherwise the keeper finds out whether somebody takes over.
  defp on_purpose?(reason), do: reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)

  defp perhaps_lost({:lost, backends}, state) do
    discovery = Discovery.request(state.discovery)
    fail_if_hopeless(reconcile_soon(%{state | backends: backends, discovery: discovery}))
  end

  defp perhaps_lost({:expected, backends}, state), do: {:noreply, %{state | backends: backends}}

  defp resolution(state, {:ok, %{addresses: [_ | _] = addresses}}, duration) do
    Keeper.note(state.keeper, addresses)
    backends = Backends.update(state.backends, addresses)
    resolved(state, length(backends.ids), duration, :ok)
    reconcile(%{state | backends: backends, resolution: :ok})
  end

  defp resolution(state, failed_or_empty, duration) do
    reason =
      case failed_or_empty do
        {:ok, %{addresses: []}} -> :no_addresses
        {:error, reason} -> reason
      end

    state = %{state | resolution: {:error, reason}}

    case state.backends.ids do
      [] ->
        resolved(state, 0, duration, {:failed, reason})
        error = if reason == :no_addresses, do: :no_addresses, else: {:resolve, reason}
        emit(state, :connect_error, %{duration: duration}, %{reason: error})
        fail(state, error)

      _last_known ->
        resolved(state, 0, duration, {:kept, reason})
        {:noreply, state}
    end
  end

  # What is in the mailbox already is reconciled together.
  defp reconcile_soon(%{reconcile_pending?: true} = state), do: state

  defp reconcile_soon(state) do
    send(self(), :reconcile)
    %{state | reconcile_pending?: true}
  end

  defp reconcile(state) do
    began = System.monotonic_time()

    case Rotation.update(state.rotation, Backends.wanted(state.backends)) do
      {:ok, changes, rotation} ->
        measurements = Map.put(changes, :duration, System.monotonic_time() - began)
        emit(state, :reconciled, measurements, %{})
        reconciled(%{state | rotation: rotation})

      :same ->
        if balancer_closed?(state), do: closed(state), else: {:noreply, state}

      {:error, :closed} ->
        closed(state)
    end
  end

  # Removes nothing, and copies no backend to tell.
  defp balancer_closed?(%{rotation: rotation}) do
    GrpcLb.remove(rotation.balancer, []) == {:error, :closed}
  end

  # By somebody who has the handle, and so meant it; or because the keeper has died, of which there
  # will be a message.
  defp closed(state) do
    if Process.alive?(state.keeper),
      do: {:stop, {:shutdown, :balancer_closed}, state},
      else: {:noreply, state}
  end

  defp reconciled(%{ready?: ready?, rotation: rotation} = state) do
    case {ready?, Rotation.ready?(rotation)} do
      {true, true} ->
        {:noreply, tell_caller(state)}

      {false, false} ->
        {:noreply, state}

      {true, false} ->
        {:noreply, %{state | ready?: false, since: System.monotonic_time()}}

      {false, true} ->
        duration = System.monotonic_time() - state.since
        emit(state, :connected, %{duration: duration}, %{})
        waiters = Waiters.reply_all(state.waiters, :ok)
        {:noreply, tell_caller(%{state | ready?: true, waiters: waiters})}
    end
  end

  defp tell_caller(%{caller: nil} = state), do: state

  defp tell_caller(%{caller: caller} = state) do
    Keeper.publish(state.keeper)
    send(caller.reply_to, {caller.reply_to, {:ok, state.rotation.balancer}})
    %{state | caller: nil}
  end

  defp fail_if_hopeless(%{caller: nil} = state), do: {:noreply, state}

  defp fail_if_hopeless(state) do
    case Backends.failure(state.backends) do
      nil -> {:noreply, state}
      error -> fail(state, error)
    end
  end

  # Only connect/2 gives up.
  defp fail(%{caller: nil} = state, _error), do: {:noreply, state}

  defp fail(%{caller: %{reply_to: reply_to}} = state, error) do
    send(reply_to, {reply_to, {:error, error}})
    {:stop, {:shutdown, :connect_error}, state}
  end

  defp resolved(state, addresses, duration, result) do
    Telemetry.execute(
      [:grpc_lb, :resolver, :resolved],
      %{addresses: addresses, duration: duration},
      Map.put(about(state.options), :result, result)
    )
  end

  defp emit(state, event, measurements, metadata) do
    Telemetry.execute(
      [:grpc_lb, :connection, event],
      measurements,
      Map.merge(about(state.options), metadata)
    )
  end

  defp about(options), do: %{name: options.name, target: options.target}
end
