defmodule GrpcLb.Test.PoolWorker do
  @moduledoc """
  A worker of a pool: joins it as it starts, and does what it is asked to.
  """

  use GenServer

  def start_link({pool, opts}), do: GenServer.start_link(__MODULE__, {pool, opts})

  @doc "Starts a member that is nobody's child."
  def start_member(pool, opts \\ []) do
    {:ok, pid} = GenServer.start(__MODULE__, {pool, opts})
    pid
  end

  @doc "Starts `n` of them. Returns their pids."
  def start_members(pool, n), do: for(_ <- 1..n, do: start_member(pool))

  @impl true
  def init({pool, opts}) do
    case GrpcLb.Pool.join(pool, opts) do
      :ok -> {:ok, pool}
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl true
  def handle_call(:who, _from, pool), do: {:reply, self(), pool}
  def handle_call({:echo, term}, _from, pool), do: {:reply, term, pool}

  # Says that it was reached, then does not answer.
  def handle_call({:hang, test}, _from, pool) do
    send(test, {:reached, self()})
    {:noreply, pool}
  end

  def handle_call({:die, test, reason}, _from, pool) do
    send(test, {:reached, self()})
    {:stop, reason, pool}
  end

  def handle_call({:work, milliseconds}, _from, pool) do
    Process.sleep(milliseconds)
    {:reply, self(), pool}
  end

  @impl true
  def handle_info({:report_to, test}, pool) do
    send(test, {:reported, self()})
    {:noreply, pool}
  end
end
