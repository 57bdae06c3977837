defmodule GrpcLb.Connection.Server do
  @moduledoc false
  # Feeds a connection's balancer. Never waits for a resolver or a transport: these run in processes
  # of their own and send messages, which are sorted here. `Discovery` and `Backends` say what follows.

  use GenServer
  use GrpcLb.Redacted, show: [:options, :ready?, :resolution]

  alias GrpcLb.{Holder, Names, Telemetry, Waiters}

  alias GrpcLb.Connection.{
    Backends,
    Connectivity,
    Discovery,
    Failover,
    Known,
    Log,
    Options,
    Plan,
    Rotation,
    States
  }

  # The transports' values may be secret, and a crash is logged with this.
  @derive {Inspect, only: [:options, :ready?]}
  @enforce_keys [
    :options,
    :holder,
    :states,
    :waiters,
    :rotation,
    :backends,
    :failover,
    :discovery,
    :since
  ]
  defstruct @enforce_keys ++
              [
                # Who waits in connect/2 and has not been told.
                caller: nil,
                ready?: false,
                connectivity: %{},
                known: %Known{},
                resolution: :pending,
                reconcile_pending?: false,
                pause_until: 0
              ]

  @doc "Starts it, under the supervisor that has started the holder with this key."
  @spec start_link(Holder.key(), Options.t()) :: GenServer.on_start()
  def start_link(key, options) do
    # Without its holder it is about to be started anew, after that.
    with {holder, %{held: held}} <- Holder.lookup(key) || :ignore,
         do: GenServer.start_link(__MODULE__, {options, holder, held}, name: via(held.balancer))
  end

  @doc "The process that feeds this balancer."
  @spec whereis(GrpcLb.balancer()) :: pid() | nil
  def whereis(balancer), do: Names.whereis({__MODULE__, balancer})

  @doc "The name of the process that feeds this balancer."
  @spec via(GrpcLb.balancer()) :: GenServer.name()
  def via(balancer), do: Names.via({__MODULE__, balancer})

  @impl true
  def init({options, holder, %{balancer: balancer} = held}) do
    Process.flag(:trap_exit, true)

    state = %__MODULE__{
      options: options,
      holder: holder,
      states: held.states,
      waiters: held.waiters,
      rotation: Rotation.new(balancer),
      backends: Backends.new(options, balancer),
      failover: Failover.new(options),
      discovery: Discovery.start(options),
      since: System.monotonic_time(),
      pause_until: System.monotonic_time()
    }

    state =
      case Holder.noted(holder) do
        nil -> state
        known -> take_over(state, known)
      end

    {:ok, publish_or_watch_caller(state)}
  end

  defp take_over(state, known) do
    failover = Failover.adopt(state.failover, known.addresses)
    backends = Backends.adopt(state.backends, failover.addresses)
    rotation = Rotation.adopt(state.rotation.balancer)
    ready? = Enum.any?(Backends.wanted(backends), fn {_id, up, _weight} -> up != :not_up end)

    wake_up_for(known)

    reconcile_soon(%{
      state
      | known: known,
        backends: backends,
        failover: failover,
        rotation: rotation,
        ready?: ready?,
        resolution: :ok
    })
  end

  # connect/2 publishes when it is ready, and ends when its caller does. Once that has its handle, it
  # is as any other.
  defp publish_or_watch_caller(%{options: options} = state) do
    if options.caller && not told?(options.caller) do
      :erlang.monitor(:process, options.caller.pid, tag: :caller_down)
      %{state | caller: options.caller}
    else
      Holder.publish(state.holder)
      state
    end
  end

  defp told?(%{told: told}), do: :atomics.get(told, 1) == 1

  @impl true
  def handle_call(:info, _from, state) do
    if balancer_closed?(state),
      do: closed(state),
      else: {:reply, info(state), state}
  end

  defp info(state) do
    %{
      name: state.options.name,
      target: state.options.target,
      ready: state.ready?,
      resolution: state.resolution,
      backends: Backends.describe(state.backends) ++ Backends.describe_leaving(state.backends)
    }
  end

  @impl true
  def handle_cast(:resolve_now, state) do
    {:noreply, %{state | discovery: Discovery.request(state.discovery)}}
  end

  def handle_cast(:reset_backoff, state) do
    {:noreply, %{state | discovery: Discovery.reset_backoff(state.discovery)}}
  end

  def handle_cast(:reconnect, state) do
    {:noreply, %{state | backends: Backends.reconnect(state.backends)}}
  end

  @impl true
  def handle_info({:resolved, worker, result}, state) do
    case Discovery.resolved(state.discovery, worker, result) do
      {:ok, duration, discovery} ->
        resolution(%{state | discovery: discovery}, result, :resolved, duration)

      :stale ->
        {:noreply, state}
    end
  end

  def handle_info({:completed, worker, result}, state) do
    case Discovery.completed(state.discovery, worker, result) do
      {:ok, discovery} -> resolution(%{state | discovery: discovery}, result, :completed, 0)
      :stale -> {:noreply, state}
    end
  end

  def handle_info({:pushed, _worker, result}, state), do: resolution(state, result, :pushed, 0)

  def handle_info({:backend_up, id, pid, value, owner}, state) do
    backends = Backends.up(state.backends, id, pid, value, owner)
    {:noreply, reconcile_soon(%{state | backends: backends})}
  end

  def handle_info({:backend_health, id, pid, health}, state) do
    {:noreply,
     reconcile_soon(%{state | backends: Backends.health(state.backends, id, pid, health)})}
  end

  def handle_info({:backend_checked, id, pid}, state) do
    {:noreply, %{state | backends: Backends.checked(state.backends, id, pid)}}
  end

  def handle_info({:backend_down, id, pid, reason}, state) do
    state.backends |> Backends.down(id, pid, reason) |> perhaps_lost(id, state)
  end

  def handle_info({:backend_draining, id, pid, why}, state) do
    state.backends |> Backends.draining(id, pid, why) |> perhaps_lost(id, state)
  end

  def handle_info({{:backend_ended, id}, _monitor, :process, pid, reason}, state) do
    state.backends |> Backends.ended(id, pid, reason) |> perhaps_lost(id, state)
  end

  def handle_info({:grpc_lb_drained, number}, state) do
    {:noreply, %{state | backends: Backends.drained(state.backends, number)}}
  end

  def handle_info({:timeout, timer, {:leaving, pid}}, state) do
    backends = Backends.leaving_timeout(state.backends, pid, timer)
    {:noreply, reconcile_soon(%{state | backends: backends})}
  end

  def handle_info({:timeout, timer, {:backend, id, what}}, state) do
    {:noreply, %{state | backends: Backends.timeout(state.backends, id, timer, what)}}
  end

  def handle_info({:timeout, timer, :discovery}, state) do
    {:noreply, %{state | discovery: Discovery.timeout(state.discovery, timer)}}
  end

  def handle_info(:hold_is_over, state), do: state |> release() |> reconcile()

  def handle_info({:timeout, _timer, :failover}, state), do: {:noreply, reconcile_soon(state)}

  def handle_info(:reconcile, state),
    do: reconcile(connect(%{state | reconcile_pending?: false}))

  # Watched to its end, because only the caller knows that it has got its handle.
  def handle_info({:caller_down, _monitor, :process, _pid, _reason}, state) do
    if told?(state.options.caller),
      do: {:noreply, state},
      else: {:stop, {:shutdown, :caller_down}, state}
  end

  def handle_info({:EXIT, pid, reason}, state) do
    case Discovery.ended(state.discovery, pid, reason) do
      {:ok, reason, duration, discovery} ->
        resolution(%{state | discovery: discovery}, {:error, reason}, :resolved, duration)

      {:again, discovery} ->
        {:noreply, %{state | discovery: discovery}}

      :other ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    Discovery.stop(state.discovery)

    # The last child is stopped first: picks say that the connection is closed, and their calls have
    # ended, before transports are closed.
    if on_purpose?(reason) and Backends.supervised?(state.backends) do
      Holder.close(state.holder, reason)
      Backends.abort_all(state.backends)
      Holder.drain(state.holder, state.options.drain_timeout)
    end
  end

  # It is stopped so also when the subchannels' supervisor has died, and then it is started again.
  defp on_purpose?(reason), do: reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)

  defp perhaps_lost({:lost, backends}, id, state) do
    discovery = Discovery.suggest(state.discovery)
    state = release(%{state | backends: backends, discovery: discovery})
    state = connect(%{state | backends: Backends.replace(state.backends, id)})
    state |> reconcile_soon() |> fail_if_hopeless()
  end

  defp perhaps_lost({:expected, backends}, _id, state),
    do: {:noreply, reconcile_soon(%{state | backends: backends})}

  defp resolution(state, answer, source, duration) do
    %{options: options, known: known} = state
    until = Discovery.hold_until(options, answer, source)
    healthy = Backends.healthy(state.backends)
    update = if source == :completed, do: &Known.complete/5, else: &Known.update/5
    {result, known} = update.(known, answer, until, healthy, options.on_empty)
    resolved(state, answer, result, duration)

    outcome = if result == :ok, do: :ok, else: {:error, elem(result, 1)}
    Log.resolution(about(options), state.resolution, outcome)

    case result do
      :ok -> reconcile(%{know(state, known) | resolution: :ok})
      {:dropped, reason} -> reconcile(%{know(state, known) | resolution: {:error, reason}})
      {:kept, reason} -> {:noreply, %{state | resolution: {:error, reason}}}
      {:failed, reason} -> unresolved(%{state | resolution: {:error, reason}}, reason, duration)
    end
  end

  defp unresolved(state, reason, duration) do
    error = if reason == :no_addresses, do: :no_addresses, else: {:resolve, reason}
    emit(state, :connect_error, %{duration: duration}, %{reason: error})
    state |> connectivity() |> fail(error)
  end

  defp know(state, known) do
    Holder.note(state.holder, known)
    wake_up_for(known)
    connect(%{state | known: known, failover: Failover.resolved(state.failover, known.addresses)})
  end

  # Has those priorities connected that are needed now.
  defp connect(state) do
    {failover, backends} = Failover.connect(state.failover, state.backends)
    %{state | failover: failover, backends: backends}
  end

  # One that is late or was not needed finds nothing to do.
  defp wake_up_for(known) do
    if due = Known.due(known), do: Process.send_after(self(), :hold_is_over, due, abs: true)
  end

  # What the answers have left out, and was held.
  defp release(%{known: %{held: held}} = state) when held == %{}, do: state

  defp release(state) do
    case Known.release(state.known, now(), Backends.healthy(state.backends)) do
      known when known == state.known -> state
      known -> know(state, known)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  # What is in the mailbox already is reconciled together. A long list takes time: twice that passes before
  # the next one, for what else there is to do, and for what can be reconciled together with it.
  defp reconcile_soon(%{reconcile_pending?: true} = state), do: state

  defp reconcile_soon(state) do
    wait =
      System.convert_time_unit(state.pause_until - System.monotonic_time(), :native, :millisecond)

    if wait > 0, do: Process.send_after(self(), :reconcile, wait), else: send(self(), :reconcile)
    %{state | reconcile_pending?: true}
  end

  defp reconcile(state) do
    began = System.monotonic_time()
    wanted = Backends.wanted(state.backends)
    {leaving, backends} = Backends.unlisted(state.backends, wanted)
    updated = Rotation.update(state.rotation, wanted, leaving)
    ended = System.monotonic_time()
    duration = ended - began
    state = %{state | backends: backends, pause_until: ended + 2 * duration}

    case updated do
      {:ok, changes, drained, rotation} ->
        measurements = Map.put(changes, :duration, duration)
        emit(state, :reconciled, measurements, %{})

        reconciled(%{state | rotation: rotation, backends: Backends.left(state.backends, drained)})

      :same ->
        if balancer_closed?(state), do: closed(state), else: {:noreply, connectivity(state)}

      {:error, :closed} ->
        closed(state)
    end
  end

  defp balancer_closed?(%{rotation: rotation}), do: GrpcLb.closed?(rotation.balancer)

  # By somebody who has the handle, and so meant it; or because the holder has died, and then the
  # supervisor is about to stop this process.
  defp closed(state) do
    if Process.alive?(state.holder),
      do: {:stop, {:shutdown, :balancer_closed}, state},
      else: {:noreply, state}
  end

  # What is said of the state, to whom, comes before those who wait go on.
  defp connectivity(state) do
    known = Connectivity.update(state.connectivity, Backends.states(state.backends))
    new = Connectivity.of(known, state.resolution)

    Log.backends(
      about(state.options),
      state.connectivity,
      known,
      &Backends.error(state.backends, &1)
    )

    with {:changed, before, duration} <- States.put(state.states, new) do
      emit(state, :state, %{duration: duration}, %{state: new, previous: before})
      # Those who do not wait for more than the first attempt.
      if new == :transient_failure, do: Waiters.notify(state.waiters, 1)
    end

    %{state | connectivity: known}
  end

  defp reconciled(%{ready?: ready?, rotation: rotation} = state) do
    state = connectivity(state)
    now_ready? = Rotation.ready?(rotation)
    if Rotation.pickable?(rotation), do: Waiters.notify(state.waiters, 1)

    case {ready?, now_ready?} do
      {true, true} ->
        {:noreply, tell_caller(state)}

      {false, false} ->
        {:noreply, state}

      {true, false} ->
        {:noreply, %{since(state, :lost) | ready?: false}}

      {false, true} ->
        {:noreply, tell_caller(%{since(state, :connected) | ready?: true})}
    end
  end

  defp since(state, event) do
    now = System.monotonic_time()
    emit(state, event, %{duration: now - state.since}, %{})
    %{state | since: now}
  end

  defp tell_caller(%{caller: nil} = state), do: state

  defp tell_caller(%{caller: caller} = state) do
    Holder.publish(state.holder)
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

  defp resolved(state, answer, result, duration) do
    {addresses, unknown} =
      case answer do
        {:ok, %{addresses: addresses} = answer} -> {addresses, Map.get(answer, :unknown, [])}
        {:error, _reason} -> {[], []}
      end

    Telemetry.execute(
      [:grpc_lb, :resolver, :resolved],
      %{addresses: addresses |> Enum.uniq_by(&Plan.endpoint/1) |> length(), duration: duration},
      Map.merge(about(state.options), %{result: result, unknown: unknown})
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
