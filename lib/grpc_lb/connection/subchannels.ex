defmodule GrpcLb.Connection.Subchannels do
  @moduledoc false
  # The supervisor of a connection's subchannels. It starts them, and ends all of them when it ends. A
  # `DynamicSupervisor` would report each one that is killed as an error, and they are killed whenever a
  # transport takes too long to open. What is to be said of a backend that fails `Log` says, once.

  use GenServer

  alias GrpcLb.Connection.Subchannel

  @spec start_link(name: GenServer.name()) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, [], opts)

  @doc "Starts a subchannel."
  @spec start_child(GenServer.server(), term()) :: {:ok, pid()} | {:error, term()}
  def start_child(supervisor, arg), do: GenServer.call(supervisor, {:start, arg}, :infinity)

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    {:ok, MapSet.new()}
  end

  @impl true
  def handle_call({:start, arg}, _from, children) do
    with {:ok, pid} = started <- Subchannel.start_link(arg) do
      {:reply, started, MapSet.put(children, pid)}
    else
      failed -> {:reply, failed, children}
    end
  end

  # As those of other supervisors are asked for.
  def handle_call(:which_children, _from, children) do
    {:reply, for(pid <- children, do: {:undefined, pid, :worker, [Subchannel]}), children}
  end

  def handle_call(:count_children, _from, children) do
    n = MapSet.size(children)
    {:reply, [specs: n, active: n, supervisors: 0, workers: n], children}
  end

  @impl true
  def handle_info({:EXIT, pid, _reason}, children), do: {:noreply, MapSet.delete(children, pid)}
  def handle_info(_other, children), do: {:noreply, children}

  # All at once and together. One that is in a callback hears of it later, or not in time.
  @impl true
  def terminate(_reason, children) do
    for pid <- children, do: Process.exit(pid, :shutdown)
    timer = :erlang.start_timer(Subchannel.close_ms(), self(), :close)

    unless await_all(children, timer) do
      for pid <- children, do: Process.exit(pid, :kill)
      await_all(children, nil)
    end
  end

  defp await_all(children, timer) do
    Enum.all?(children, fn pid ->
      monitor = Process.monitor(pid)

      receive do
        {:DOWN, ^monitor, :process, ^pid, _reason} -> true
        {:timeout, ^timer, :close} -> false
      end
    end)
  end
end
