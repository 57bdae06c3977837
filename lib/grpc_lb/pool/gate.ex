defmodule GrpcLb.Pool.Gate do
  @moduledoc false
  # Last child of a pool's supervisor, and so the first that it stops: picks say that the pool is not
  # running, and their calls have ended, before its workers stop, not after.

  use GenServer

  alias GrpcLb.Holder
  alias GrpcLb.Pool.Feed

  @spec start_link(Holder.key()) :: GenServer.on_start()
  def start_link(key), do: GenServer.start_link(__MODULE__, Holder.fetch!(key))

  @impl true
  def init({_holder, _handle} = pool) do
    Process.flag(:trap_exit, true)
    {:ok, pool}
  end

  # Another reason is that of a supervisor that was killed.
  @impl true
  def terminate(:shutdown, {holder, handle}) do
    GrpcLb.Pool.Supervisor.stop_restarts(handle.options)
    Holder.close(holder, :shutdown)
    Feed.withdraw(handle)
    Holder.drain(holder, handle.options.drain_timeout)
  end

  def terminate(_reason, _pool), do: :ok
end
