defmodule GrpcLb.Herald do
  # Tells others what balancers have decided: handlers of events, and the log. The native side keeps that
  # until it is asked, and sends a message when there is some. Apart from the ticker, since handlers
  # take their time, and balancers must not wait for it.
  @moduledoc false

  use GenServer

  alias GrpcLb.{Log, Native, Telemetry}

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    Native.listen(true)
    {:ok, Log.open(), {:continue, :tell}}
  end

  @impl true
  def handle_continue(:tell, window), do: told(window)

  @impl true
  def handle_info(:events, window), do: told(window)

  def handle_info(:window_over, window) do
    Log.close(window)
    {:noreply, Log.open()}
  end

  def handle_info(_other, window), do: {:noreply, window}

  # Events have references, and garbage keeps balancers as well as anything.
  defp told(window), do: {:noreply, tell(window), :hibernate}

  defp tell(window) do
    {events, lost} = Native.events()
    if lost > 0, do: Telemetry.execute([:grpc_lb, :events, :lost], %{count: lost}, %{})
    after_events = Enum.reduce(events, window, &tell_one/2)

    if window == Log.open() and after_events != window,
      do: Process.send_after(self(), :window_over, Log.window())

    if events == [], do: after_events, else: tell(after_events)
  end

  defp tell_one(event, window) do
    Telemetry.balancer_event(event)
    Log.event(window, event)
  end
end
