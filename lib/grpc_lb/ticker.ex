defmodule GrpcLb.Ticker do
  # Has the native side do what time drives: weights, outlier sweeps, slow start. One process for all
  # balancers of the node. It holds none of them: the native side knows which have such work, and
  # knows this process by its name.
  @moduledoc false

  use GenServer

  alias GrpcLb.Native

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]), do: {:ok, nil, {:continue, :tick}}

  @impl true
  def handle_continue(:tick, nil), do: tick()

  # Whatever comes, a tick is right: when the time has come that the last one named, when the native
  # side says that something is due earlier, and for what nobody should send, which would put off the
  # time that is waited for.
  @impl true
  def handle_info(_timeout_or_tick_due, nil), do: tick()

  defp tick do
    drain()
    {:noreply, nil, Native.tick()}
  end

  # What has become due up to now is seen by the tick that begins now.
  defp drain do
    receive do
      :tick_due -> drain()
    after
      0 -> :ok
    end
  end
end
