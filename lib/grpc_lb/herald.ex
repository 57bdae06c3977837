defmodule GrpcLb.Herald do
  # Tells others what balancers have decided: the log, and handlers of events. The native side keeps that
  # until it is asked, and sends a message when there is some. Apart from the ticker, since this takes its
  # time, and balancers must not wait for it.
  #
  # Handlers are code of others. Each event is emitted by a process of its own, one after the other: what it
  # does there ends nothing else, and the log waits for none.
  @moduledoc false

  use GenServer

  alias GrpcLb.{Log, Native, Telemetry}

  # So long may the handlers of one event take, in milliseconds.
  @patience 5_000

  # So many events wait for handlers.
  @most 1_024

  @typep state :: %{
           window: Log.window(),
           waiting: :queue.queue(Native.event()),
           lost: non_neg_integer(),
           emitting: nil | {pid(), reference(), timer :: reference(), event :: [atom()]}
         }

  @doc "With a supervisor of its own, which ends alone where this ends again and again."
  @spec supervisor() :: Supervisor.child_spec()
  def supervisor do
    opts = [strategy: :one_for_one, max_restarts: 100, max_seconds: 10]
    start = {Supervisor, :start_link, [[__MODULE__], opts]}
    # A supervisor that gives up ends with :shutdown, after which it is not started again.
    %{id: __MODULE__, start: start, type: :supervisor, restart: :transient}
  end

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    Native.listen(true)
    state = %{window: Log.open(), waiting: :queue.new(), lost: 0, emitting: nil}
    {:ok, state, {:continue, :tell}}
  end

  @impl true
  def handle_continue(:tell, state), do: state |> tell() |> next()

  @impl true
  def handle_info(:events, state), do: state |> tell() |> next()

  def handle_info(:window_over, state) do
    Log.close(state.window)
    next(%{state | window: Log.open()})
  end

  def handle_info(
        {:DOWN, monitor, :process, _pid, _reason},
        %{emitting: {_, monitor, _, _}} = state
      ) do
    {_pid, _monitor, timer, _event} = state.emitting
    Process.cancel_timer(timer)
    next(%{state | emitting: nil})
  end

  def handle_info({:hung, pid}, %{emitting: {pid, _monitor, _timer, event}} = state) do
    Process.exit(pid, :kill)
    text = "the handlers of #{inspect(event)} took longer than #{@patience} ms and were ended"
    Log.log(:hung, text, %{event: event})
    next(state)
  end

  def handle_info(_other, state), do: next(state)

  # Some of what has been decided. There may be more, for which it is not woken.
  @spec tell(state()) :: state()
  defp tell(state) do
    {events, lost} = Native.events()
    if events != [], do: send(self(), :events)
    window = Enum.reduce(events, state.window, &Log.event(&2, &1))

    if state.window == Log.open() and window != state.window,
      do: Process.send_after(self(), :window_over, Log.window())

    Enum.reduce(events, %{state | window: window, lost: state.lost + lost}, &wait/2)
  end

  defp wait(event, %{waiting: waiting} = state) do
    case :queue.len(waiting) do
      @most -> %{state | lost: state.lost + 1}
      _fewer -> %{state | waiting: :queue.in(event, waiting)}
    end
  end

  defp next(%{emitting: nil, lost: 0} = state) do
    case :queue.out(state.waiting) do
      {{:value, event}, waiting} ->
        name = Telemetry.event_name(event)
        emit(%{state | waiting: waiting}, name, fn -> Telemetry.balancer_event(event) end)

      # Events have references, and garbage keeps balancers as well as anything.
      {:empty, _waiting} ->
        {:noreply, state, :hibernate}
    end
  end

  defp next(%{emitting: nil, lost: lost} = state) do
    event = [:grpc_lb, :events, :lost]
    emit(%{state | lost: 0}, event, fn -> Telemetry.execute(event, %{count: lost}, %{}) end)
  end

  defp next(state), do: {:noreply, state}

  defp emit(state, event, emit) do
    {pid, monitor} = spawn_monitor(emit)
    timer = Process.send_after(self(), {:hung, pid}, @patience)
    {:noreply, %{state | emitting: {pid, monitor, timer, event}}}
  end
end
