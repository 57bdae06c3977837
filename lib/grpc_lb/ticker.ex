defmodule GrpcLb.Ticker do
  # Calls the native side when timed work is due: weights, outlier sweeps, slow start. One process
  # serves all balancers of the node, and holds none of them: the native side knows which have such
  # work, and this process by its name.
  @moduledoc false

  use GenServer

  alias GrpcLb.Native

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]), do: {:ok, nil, {:continue, :tick}}

  @impl true
  def handle_continue(:tick, nil), do: tick()

  # What has fallen due since the round began rings once more, and is not drained before it is over.
  def handle_continue(:go_on, nil), do: next(Native.tick())

  # Every message is a reason to tick: the timeout that the last tick named, `:tick_due` when work
  # falls due earlier, and a stray, which would put the timeout off.
  @impl true
  def handle_info(_timeout_or_tick_due, nil), do: tick()

  defp tick do
    drain()
    next(Native.tick())
  end

  # A turn of many: whoever else waits for a dirty scheduler comes first.
  defp next(0), do: {:noreply, nil, {:continue, :go_on}}
  defp next(timeout), do: {:noreply, nil, timeout}

  # The tick that follows sees all that is due by now.
  defp drain do
    receive do
      :tick_due -> drain()
    after
      0 -> :ok
    end
  end
end
