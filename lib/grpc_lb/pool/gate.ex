defmodule GrpcLb.Pool.Gate do
  @moduledoc false
  # Last child of a pool's supervisor, and so the first that it stops: picks say that the pool is not
  # running before its workers stop, not after.

  use GenServer

  alias GrpcLb.Holder

  @spec start_link(Holder.key()) :: GenServer.on_start()
  def start_link(key) do
    {holder, _handle} = Holder.fetch!(key)
    GenServer.start_link(__MODULE__, holder)
  end

  @impl true
  def init(holder) do
    Process.flag(:trap_exit, true)
    {:ok, holder}
  end

  # Another reason is that of a supervisor that was killed.
  @impl true
  def terminate(:shutdown, holder), do: Holder.close(holder, :shutdown)
  def terminate(_reason, _holder), do: :ok
end
