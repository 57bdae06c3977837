defmodule GrpcLb.Holder do
  @moduledoc false
  # First child of the supervisor of a connection or a pool. Owns what picks need, the balancer, and
  # the name. The other children may crash and be started again: picks do not notice. When the holder
  # is killed, its balancers close natively.
  #
  # A module says what is held. Its `open/1` and `close/1` run in the holder, and `ended/3` when all
  # other children have ended.

  use GenServer
  use GrpcLb.Redacted, show: [:key, :supervisor, :module, :since, :closed]

  alias GrpcLb.{Janitor, Names}

  @typedoc "The module that says what is held, and the name of the connection or the pool."
  @type key :: {module(), name :: term()}

  @typedoc """
  What is found by the key. `held` is `nil` while the holder starts. It is `:open` first, and for others
  to find once it is `:published`; picks fail when it is `:closed`.
  """
  @type tree :: %{
          supervisor: pid(),
          held: term(),
          status: :open | :published | :closed
        }

  @callback open(options :: term()) :: held :: term()

  @doc """
  Has picks fail from now on. Gives the number of the drain of the calls in flight, if there are any, see
  `GrpcLb.Native.close_draining/1`.
  """
  @callback close(held :: term()) :: pos_integer() | nil

  @callback ended(held :: term(), options :: term(), %{reason: term(), duration: integer()}) ::
              any()

  @doc "Starts it, for the calling supervisor."
  @spec start_link(key(), options :: term()) :: GenServer.on_start()
  def start_link(key, options) do
    supervisor = self()
    name = Names.via(key, %{supervisor: supervisor, held: nil, status: :open})
    start = fn -> GenServer.start_link(__MODULE__, {key, supervisor, options}, name: name) end

    Names.start_link(start, fn _holder ->
      case lookup(key) do
        {_holder, %{supervisor: supervisor}} -> not Process.alive?(supervisor)
        nil -> true
      end
    end)
  end

  @doc "Finds the holder and what it holds. Reads a table and asks no process."
  @spec lookup(key()) :: {pid(), tree()} | nil
  def lookup(key), do: Names.lookup(key)

  @doc "What is held, for the other children of the same supervisor."
  @spec fetch!(key()) :: {holder :: pid(), held :: term()}
  def fetch!(key) do
    {holder, %{held: held}} = lookup(key)
    {holder, held}
  end

  @spec publish(holder :: pid()) :: :ok
  def publish(holder), do: GenServer.call(holder, :publish, :infinity)

  @doc "Leaves a note for the process that is started in the place of the calling one."
  @spec note(holder :: pid(), term()) :: :ok
  def note(holder, note), do: GenServer.cast(holder, {:note, note})

  @doc "The last note, or `nil`."
  @spec noted(holder :: pid()) :: term()
  def noted(holder), do: GenServer.call(holder, :noted, :infinity)

  @doc """
  Closes what is held. The first reason counts. A drain timeout stands in for the one that `drain/2` is
  given, and the last counts.
  """
  @spec close(holder :: pid(), reason :: term(), drain_timeout :: timeout() | nil) :: :ok
  def close(holder, reason, drain_timeout \\ nil) do
    ask(holder, {:close, reason, drain_timeout})
  end

  @doc """
  Waits until the calls that were in flight when it was closed have ended, or the drain timeout is over,
  which begins when this is first asked for.
  """
  @spec drain(holder :: pid(), drain_timeout :: timeout()) :: :ok
  def drain(holder, drain_timeout), do: ask(holder, {:drain, drain_timeout})

  defp ask(holder, request) do
    GenServer.call(holder, request, :infinity)
  catch
    :exit, _it_has_ended -> :ok
  end

  @doc """
  Closes what is held, ends the supervisor, and waits until nothing is left. Returns `:crashed` as
  `stop_supervisor/2` does. For the drain timeout see `close/3`.
  """
  @spec stop(holder :: pid(), tree(), drain_timeout :: timeout() | nil) :: :ok | :crashed
  def stop(holder, %{supervisor: supervisor}, drain_timeout \\ nil) do
    close(holder, :normal, drain_timeout)
    stopped = stop_supervisor(supervisor, :normal)
    Janitor.await(holder)
    stopped
  end

  @doc """
  Ends a supervisor on purpose. Returns `:crashed` when it ended in another way meanwhile, or before:
  one may be started in its place.
  """
  @spec stop_supervisor(pid(), reason :: term()) :: :ok | :crashed
  def stop_supervisor(supervisor, reason) do
    Supervisor.stop(supervisor, reason)
  catch
    :exit, {:shutdown, _call} -> :ok
    :exit, _reason -> :crashed
  end

  @impl true
  def init({{module, _name} = key, supervisor, options}) do
    Process.flag(:trap_exit, true)
    # What one before it has left, when it was killed, must not be cleaned up later.
    Janitor.await(key)
    :ok = Janitor.watch(key)
    # Without a janitor nobody would clean up after this process.
    Process.link(Process.whereis(Janitor))

    state = %{
      key: key,
      supervisor: supervisor,
      module: module,
      options: options,
      held: module.open(options),
      since: System.monotonic_time(),
      note: nil,
      # Why it was closed, in a tuple.
      closed: nil,
      drain: %{number: nil, timeout: nil, timer: nil, waiting: []}
    }

    register(state, %{held: state.held})
    {:ok, state}
  end

  @impl true
  def handle_call(:publish, _from, %{closed: nil} = state) do
    register(state, %{status: :published})
    {:reply, :ok, state}
  end

  def handle_call(:publish, _from, state), do: {:reply, :ok, state}
  def handle_call(:noted, _from, state), do: {:reply, state.note, state}

  def handle_call({:close, reason, drain_timeout}, _from, state) do
    {:reply, :ok, state |> closed(reason) |> drain_timeout(drain_timeout)}
  end

  def handle_call({:drain, _timeout}, _from, %{drain: %{number: nil}} = state),
    do: {:reply, :ok, state}

  def handle_call({:drain, timeout}, from, %{drain: drain} = state) do
    state = if drain.waiting == [], do: drain_until(state, drain.timeout || timeout), else: state

    {:noreply, update_in(state.drain.waiting, &[from | &1])}
  end

  @impl true
  def handle_cast({:note, note}, state), do: {:noreply, %{state | note: note}}

  # The registry or the janitor has ended. Names are lost with the registry, also that of the
  # supervisor: only the process that started it can do so again.
  @impl true
  def handle_info({:EXIT, _pid, reason}, state) do
    Process.exit(state.supervisor, :kill)
    {:stop, reason, state}
  end

  def handle_info({:grpc_lb_drained, number}, %{drain: %{number: number}} = state),
    do: {:noreply, drained(state)}

  def handle_info({:timeout, timer, :drain}, %{drain: %{timer: timer}} = state),
    do: {:noreply, drained(state)}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    %{closed: {reason}} = state = closed(state, reason)
    duration = System.monotonic_time() - state.since
    state.module.ended(state.held, state.options, %{reason: reason, duration: duration})
  end

  defp closed(%{closed: nil} = state, reason) do
    number = state.module.close(state.held)
    register(state, %{status: :closed})
    put_in(%{state | closed: {reason}}.drain.number, number)
  end

  defp closed(state, _later), do: state

  # It begins when somebody waits.
  defp drain_timeout(state, nil), do: state

  defp drain_timeout(%{drain: %{waiting: []}} = state, timeout),
    do: put_in(state.drain.timeout, timeout)

  defp drain_timeout(state, timeout), do: drain_until(state, timeout)

  defp drain_until(%{drain: drain} = state, timeout) do
    stop_timer(drain)
    timer = if timeout != :infinity, do: :erlang.start_timer(timeout, self(), :drain)
    put_in(state.drain.timer, timer)
  end

  defp drained(%{drain: drain} = state) do
    stop_timer(drain)
    for from <- drain.waiting, do: GenServer.reply(from, :ok)
    %{state | drain: %{drain | number: nil, timer: nil, waiting: []}}
  end

  defp stop_timer(%{timer: nil}), do: false
  defp stop_timer(%{timer: timer}), do: :erlang.cancel_timer(timer)

  defp register(state, changes) do
    Registry.update_value(GrpcLb.Registry, state.key, &Map.merge(&1, changes))
  rescue
    # There is no registry any more.
    ArgumentError -> :error
  end
end
