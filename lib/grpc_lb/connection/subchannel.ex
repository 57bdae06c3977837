defmodule GrpcLb.Connection.Subchannel do
  @moduledoc false
  # One transport: opens it, watches it, checks it, closes it, and ends. Tells the connection's server
  # by name, because that may be started again meanwhile, and leaves in the registry what that one
  # needs to go on with it. The reason of its exit says that it could not open.

  @close_ms 3_000

  use GenServer
  use GrpcLb.Redacted, show: [:balancer, :module, :key, :address]

  alias GrpcLb.{Address, Holder, Janitor, Names, Secret}
  alias GrpcLb.Connection.{Callback, Health, Options, Plan, Server, Subchannels}

  # What the transport is given, and what it returned, may be secret, and a crash is logged with this: both
  # are hidden, for the server's state and messages, too.
  @derive {Inspect, only: [:balancer, :module, :key, :address]}
  @enforce_keys [:balancer, :supervisor, :module, :opts, :key, :address, :health, :drain_timeout]
  defstruct @enforce_keys ++ [:opened, :monitor, draining?: false, ms_to_drain: 0]

  @type state ::
          :opening
          | {:up | {:unhealthy, reason :: term()} | :draining, value :: Secret.t(),
             owner :: pid()}
          | :closing

  @doc "How long a transport may take to close, beside what it is given to drain."
  @spec close_ms() :: pos_integer()
  def close_ms, do: @close_ms

  @doc "Starts the supervisor of the subchannels of the balancer that the holder with this key has."
  @spec start_supervisor(Holder.key()) :: Supervisor.on_start()
  def start_supervisor(key) do
    # Without the holder it is about to be started anew, after that.
    with {_holder, %{held: %{balancer: balancer}}} <- Holder.lookup(key) || :ignore,
         do: Subchannels.start_link(name: supervisor(balancer))
  end

  defp supervisor(balancer), do: Names.via({__MODULE__, balancer})

  @doc "The supervisor of a balancer's subchannels."
  @spec whereis_supervisor(GrpcLb.balancer()) :: pid() | nil
  def whereis_supervisor(balancer), do: Names.whereis({__MODULE__, balancer})

  @doc """
  Starts one. `nil` says that the supervisor of the subchannels has died: that of the connection is about
  to start another, and then the server anew.
  """
  @spec start(GrpcLb.balancer(), Options.t(), Plan.key(), Address.t()) :: pid() | nil
  def start(balancer, options, key, address) do
    arg = {balancer, options, key, address}

    case ask(balancer, &Subchannels.start_child(&1, arg)) do
      {:ok, pid} -> pid
      nil -> nil
    end
  end

  # A server that crashed for its death would count as a restart, and again in its place.
  defp ask(balancer, question) do
    question.(supervisor(balancer))
  catch
    :exit, {reason, _call} when reason in [:noproc, :killed, :shutdown] -> nil
  end

  @doc "Has it open its transport. Apart from the start, so that it is monitored before it can fail."
  @spec open(pid()) :: :ok
  def open(pid), do: GenServer.cast(pid, :open)

  @doc "Has it check its transport. It sends `{:backend_checked, id, pid}`, or ends."
  @spec check(pid()) :: :ok
  def check(pid), do: GenServer.cast(pid, :check)

  @doc "Has it say what its transport's health is: it sends `{:backend_health, key, pid, health}`."
  @spec say_health(pid()) :: :ok
  def say_health(pid), do: GenServer.cast(pid, :say_health)

  @doc "Has it close its transport, which may take so long for calls that it knows of, and end."
  @spec close(pid(), ms_to_drain :: timeout()) :: :ok
  def close(pid, ms_to_drain), do: GenServer.cast(pid, {:close, ms_to_drain})

  @doc "Whether it has begun to close a transport that may wait for calls meanwhile."
  @spec waits_for_calls?(pid(), module()) :: boolean()
  def waits_for_calls?(pid, module) do
    function_exported?(module, :close, 2) and
      match?(
        [{^pid, {_key, _address, :closing}}],
        Registry.lookup(GrpcLb.Registry, {__MODULE__, pid})
      )
  end

  @doc "All that live."
  @spec all(GrpcLb.balancer()) :: [{pid(), Plan.key(), Address.t(), state()}]
  def all(balancer) do
    for {_id, pid, _type, _modules} <- ask(balancer, &Supervisor.which_children/1) || [],
        {^pid, {key, address, state}} <- Registry.lookup(GrpcLb.Registry, {__MODULE__, pid}) do
      {pid, key, address, state}
    end
  end

  @doc false
  def start_link(arg), do: GenServer.start_link(__MODULE__, arg)

  @impl true
  def init({balancer, %{transport: {module, opts}} = options, key, address}) do
    Process.flag(:trap_exit, true)
    {:ok, _} = Registry.register(GrpcLb.Registry, {__MODULE__, self()}, {key, address, :opening})
    [supervisor | _] = Process.get(:"$ancestors")
    :ok = Janitor.watch(balancer, supervisor)

    state = %__MODULE__{
      balancer: balancer,
      supervisor: supervisor,
      module: module,
      opts: opts,
      key: key,
      address: address,
      health: Health.new(options),
      drain_timeout: options.drain_timeout
    }

    {:ok, state}
  end

  # It asks and answers nothing: whoever calls is no part of this.
  @impl true
  def handle_call(_request, _from, state), do: {:noreply, state}

  @impl true
  def handle_cast(:open, %{opened: nil} = state) do
    case opened(
           Callback.call(state.module, :open, [
             Plan.address(state.key, state.address),
             Secret.reveal(state.opts)
           ])
         ) do
      {:ok, value, owner} ->
        # Now or later this process may be killed.
        Janitor.clean_up_with({state.module, :close, close_arguments(state, value)})
        state = %{state | opened: {:ok, Secret.hide(value)}}
        if Process.alive?(owner), do: up(value, owner, state), else: gone(state)

      {:error, reason} ->
        {:stop, {:shutdown, reason}, state}
    end
  end

  # Who took over could not know that it had been told.
  def handle_cast(:open, state), do: {:noreply, state}

  def handle_cast(:check, state) do
    {:ok, value} = state.opened

    checked(result(Callback.call(state.module, :check, [Secret.reveal(value)])), state)
  end

  def handle_cast(:say_health, state) do
    tell(state, {:backend_health, state.key, self(), state.health.state})
    {:noreply, state}
  end

  def handle_cast({:close, ms_to_drain}, state) do
    put_state(fn _before -> :closing end)
    {:stop, {:shutdown, :closed}, %{state | ms_to_drain: ms_to_drain}}
  end

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_info({:DOWN, monitor, :process, owner, reason}, %{monitor: monitor} = state) do
    {:ok, value} = state.opened

    if lives_without?(Secret.reveal(value), owner),
      do: draining(:owner_ended, state),
      else: down({:down, reason}, state)
  end

  def handle_info(:draining, %{opened: {:ok, _value}} = state), do: draining(:asked, state)

  # Unless it is the value itself.
  def handle_info({:EXIT, pid, :normal}, state) do
    if state.opened && Secret.reveal(elem(state.opened, 1)) == pid,
      do: down({:down, :normal}, state),
      else: {:noreply, state}
  end

  def handle_info({:EXIT, _pid, reason}, state), do: down({:down, reason}, state)

  # See `GrpcLb.Transport.healthy/1` and `unhealthy/2`.
  def handle_info(:healthy, state),
    do: {:noreply, health(Health.said(state.health, :healthy), state)}

  def handle_info({:unhealthy, _reason} = unhealthy, state),
    do: {:noreply, health(Health.said(state.health, unhealthy), state)}

  def handle_info(_other, state), do: {:noreply, state}

  defp opened({:ok, {:ok, value}}), do: {:ok, value, self()}

  defp opened({:ok, {:ok, value, owner}}) when is_pid(owner) and node(owner) == node(),
    do: {:ok, value, owner}

  defp opened({:ok, {:error, reason}}), do: {:error, reason}
  defp opened({:ok, other}), do: {:error, {:bad_return, other}}
  defp opened({:error, reason}), do: {:error, reason}

  defp result({:ok, :ok}), do: :ok
  defp result({:ok, {what, _reason} = bad}) when what in [:unhealthy, :error], do: bad
  defp result({:ok, other}), do: {:error, {:bad_return, other}}
  defp result({:error, reason}), do: {:error, reason}

  defp checked(result, state) do
    case Health.checked(state.health, result) do
      %{state: {:down, reason}} ->
        down({:check, reason}, state)

      health ->
        tell(state, {:backend_checked, state.key, self()})
        {:noreply, health(health, state)}
    end
  end

  # Like the rest that the server needs, it can be looked up first. Before it is open that is with the rest.
  defp health(%{state: same} = health, %{health: %{state: same}} = state),
    do: %{state | health: health}

  defp health(%{state: new} = health, state) do
    put_state(fn
      {up, value, owner} when up == :up or is_tuple(up) -> {standing(new), value, owner}
      other -> other
    end)

    tell(state, {:backend_health, state.key, self(), new})
    %{state | health: health}
  end

  defp standing(:healthy), do: :up
  defp standing({:unhealthy, _reason} = unhealthy), do: unhealthy

  # What it has said of itself while it was being opened.
  defp heard(state) do
    receive do
      :healthy -> heard(health(Health.said(state.health, :healthy), state))
      {:unhealthy, _} = unhealthy -> heard(health(Health.said(state.health, unhealthy), state))
    after
      0 -> state
    end
  end

  defp up(value, owner, state) do
    state = heard(state)
    # A process that ended while the transport was being opened, as that of a first attempt
    # inside of it, says nothing about what is open now. Unless it is what is open now.
    exits = flush_exits(state.supervisor)
    {:ok, hidden} = state.opened
    put_state(fn :opening -> {standing(state.health.state), hidden, owner} end)
    tell(state, {:backend_up, state.key, self(), hidden, owner})
    monitor = if owner != self(), do: Process.monitor(owner)
    state = %{state | monitor: monitor}

    case exits do
      %{^value => reason} -> down({:down, reason}, state)
      _of_others -> {:noreply, state}
    end
  end

  # It was never up. An owner of before a restart of the node, which the balancer would refuse, is
  # not alive either.
  defp gone(state), do: {:stop, {:shutdown, {:down, :noproc}}, state}

  defp flush_exits(supervisor, exits \\ %{}) do
    receive do
      {:EXIT, pid, reason} when pid != supervisor ->
        flush_exits(supervisor, Map.put(exits, pid, reason))
    after
      0 -> exits
    end
  end

  # An owner that ends before the process for which it stands says that this takes no new calls.
  defp lives_without?(value, owner),
    do: is_pid(value) and value not in [owner, self()] and alive?(value)

  defp alive?(pid), do: node(pid) == node() and Process.alive?(pid)

  defp draining(_why, %{draining?: true} = state), do: {:noreply, state}

  defp draining(why, state) do
    put_state(fn {_up, value, owner} -> {:draining, value, owner} end)
    tell(state, {:backend_draining, state.key, self(), why})
    {:noreply, %{state | draining?: true}}
  end

  # Told before it is closed, which may take its time.
  defp down(reason, state) do
    put_state(fn _before -> :closing end)
    tell(state, {:backend_down, state.key, self(), reason})
    {:stop, {:shutdown, reason}, %{state | ms_to_drain: state.drain_timeout}}
  end

  @impl true
  def terminate(_reason, %{opened: {:ok, value}, module: module} = state) do
    Callback.call(module, :close, close_arguments(state, Secret.reveal(value)))
    Janitor.clean_up_with(nil)
  end

  def terminate(_reason, _state), do: :ok

  defp close_arguments(%{module: module, ms_to_drain: ms}, value),
    do: if(function_exported?(module, :close, 2), do: [value, ms], else: [value])

  # First what can be looked up, then the message: a server that is started in between sees either.
  defp put_state(fun) do
    Registry.update_value(GrpcLb.Registry, {__MODULE__, self()}, fn {key, address, state} ->
      {key, address, fun.(state)}
    end)
  end

  defp tell(state, message) do
    if pid = Server.whereis(state.balancer), do: send(pid, message)
  end
end
