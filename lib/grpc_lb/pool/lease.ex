defmodule GrpcLb.Pool.Lease do
  @moduledoc false
  # Ties a pool to its keeper in both directions. A pool that stops in order gives its balancer
  # back before it is gone, so that its name is free when its supervisor has stopped. And a pool
  # whose keeper is lost has no balancer any more: it stops, and its supervisor starts it anew.

  use GenServer

  alias GrpcLb.Keeper
  alias GrpcLb.Pool.Entry

  @spec start_link(Entry.t()) :: GenServer.on_start()
  def start_link(entry), do: GenServer.start_link(__MODULE__, entry)

  @impl true
  def init(entry) do
    Process.flag(:trap_exit, true)
    {:ok, %{entry: entry, ref: Process.monitor(entry.keeper)}}
  end

  @impl true
  def handle_info({:DOWN, ref, :process, _keeper, _reason}, %{ref: ref} = state) do
    Entry.erase(state.entry)
    {:stop, {:shutdown, :keeper_down}, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  # When the supervisor was killed the reason is another one: then its successor takes over.
  def terminate(:shutdown, %{entry: entry}), do: Keeper.release(entry.keeper, :shutdown)
  def terminate(_reason, _state), do: :ok
end
