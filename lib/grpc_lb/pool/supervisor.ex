defmodule GrpcLb.Pool.Supervisor do
  @moduledoc false

  use Supervisor

  alias GrpcLb.Keeper
  alias GrpcLb.Pool.{Cluster, Entry, Lease, Options, Predecessor}

  @spec start_link(Options.t()) :: Supervisor.on_start()
  def start_link(%Options{name: name} = options) do
    Supervisor.start_link(__MODULE__, options, name: name)
  end

  @doc "Stops a pool that was running a moment ago. Its name is free when this returns."
  @spec stop(Entry.t()) :: :ok
  def stop(%Entry{options: %Options{name: name}, keeper: keeper} = entry) do
    try do
      Supervisor.stop(name)
    catch
      # It was stopping already, or was killed and is about to be started again.
      :exit, _reason -> :ok
    end

    Keeper.release(keeper, :shutdown)
    # The keeper does that, unless it was killed, and with it all who would do it in its place.
    Entry.erase(entry)
  end

  @impl true
  def init(%Options{} = options) do
    key = {GrpcLb.Pool, options.name}

    release = fn entry, _reason -> Entry.close(entry) end

    case Keeper.claim(key, fn -> Entry.open(options) end, release) do
      {:ok, _keeper, %Entry{options: ^options} = entry, origin} ->
        {:ok, {flags(), children(entry, predecessor(origin))}}

      {:ok, keeper, _made_with_other_options, origin} ->
        Keeper.release(keeper, :shutdown)
        Predecessor.await_end(predecessor(origin))
        init(options)

      {:error, reason} ->
        exit(reason)
    end
  end

  # What is noted is the workers' supervisor.
  defp predecessor(:new), do: nil
  defp predecessor({:taken_over, workers}), do: workers

  # one_for_one: what the children have in common is the balancer, and the keeper has it. Workers
  # that fail do not disturb the cluster, and the other way round. Only the end of the lease ends
  # the pool: without a keeper there is no balancer, and all members must join another.
  # `Supervisor.init/2` takes :auto_shutdown from Elixir 1.15 on, :supervisor from OTP 24 on.
  defp flags do
    %{strategy: :one_for_one, intensity: 3, period: 5, auto_shutdown: :any_significant}
  end

  # The lease is last, and so the first to end: picks say that the pool is not running before its
  # workers stop, not after.
  defp children(entry, predecessor) do
    cluster(entry) ++ [workers(entry, predecessor), lease(entry)]
  end

  defp cluster(%Entry{options: %Options{scope: :node}}), do: []

  defp cluster(entry) do
    [%{id: :cluster, start: {Cluster, :start_link, [entry]}, type: :supervisor}]
  end

  defp workers(%Entry{options: options, keeper: keeper}, predecessor) do
    children =
      for i <- 1..options.size//1 do
        Supervisor.child_spec(options.child_spec, id: {options.child_spec.id, i})
      end

    opts = [
      strategy: :one_for_one,
      max_restarts: options.max_restarts,
      max_seconds: options.max_seconds
    ]

    args = [keeper, predecessor, children, opts]
    %{id: :workers, start: {__MODULE__, :start_workers, args}, type: :supervisor}
  end

  @doc """
  Starts the workers, and notes their supervisor for a successor of this one. When this one took over,
  the workers of before can still be about to end, and hold names or ports that the new ones need.
  """
  @spec start_workers(keeper :: pid(), pid() | nil, [Supervisor.child_spec()], keyword()) ::
          Supervisor.on_start()
  def start_workers(keeper, predecessor, children, opts) do
    Predecessor.await_end(predecessor)

    with {:ok, workers} <- Supervisor.start_link(children, opts) do
      Keeper.note(keeper, workers)
      {:ok, workers}
    end
  end

  defp lease(entry) do
    %{id: :lease, start: {Lease, :start_link, [entry]}, restart: :transient, significant: true}
  end
end
