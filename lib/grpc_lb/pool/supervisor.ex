defmodule GrpcLb.Pool.Supervisor do
  @moduledoc false

  # Erlang's, because Elixir's does not know `auto_shutdown` in every version.
  @behaviour :supervisor

  alias GrpcLb.{Holder, Janitor, Names}
  alias GrpcLb.Pool.{Cluster, Gate, Handle, Options}

  @spec start_link(Options.t()) :: Supervisor.on_start()
  def start_link(%Options{name: name} = options) do
    parent = self()
    start = fn -> :supervisor.start_link({:local, name}, __MODULE__, {options, parent}) end

    # One whose own supervisor was killed ends with it.
    Names.start_link(start, fn pid ->
      case Names.lookup({__MODULE__, name}) do
        {^pid, parent} -> not Process.alive?(parent)
        _another_or_none -> not Process.alive?(pid)
      end
    end)
  end

  @doc "Stops a pool. Its name is free when this returns."
  @spec stop(Handle.t()) :: :ok
  def stop(%Handle{options: %Options{name: name}, holder: holder}) do
    # The gate closes the balancer, when no worker is started again any more.
    with {^holder, %{supervisor: supervisor}} <- Holder.lookup({Handle, name}),
         do: Holder.stop_supervisor(supervisor, :normal)

    # When the holder was killed, the janitor erases the name.
    Janitor.await(holder)
    :ok
  end

  # one_for_one: what the children have in common is the balancer, and the holder has it. Workers that
  # fail do not disturb the cluster, and the other way round. Only the end of the holder ends the
  # pool: all members must join another balancer, and are told by the end of the supervisor.
  @impl true
  def init({%Options{name: name} = options, parent}) do
    {:ok, _} = Registry.register(GrpcLb.Registry, {__MODULE__, name}, parent)
    flags = %{strategy: :one_for_one, intensity: 3, period: 5, auto_shutdown: :any_significant}
    {:ok, {flags, [holder(options)] ++ cluster(options) ++ [workers(options), gate(options)]}}
  end

  defp holder(options) do
    %{
      id: :holder,
      start: {Holder, :start_link, [key(options), options]},
      restart: :temporary,
      significant: true
    }
  end

  defp cluster(%Options{scope: :node}), do: []

  defp cluster(options) do
    [%{id: :cluster, start: {Cluster, :start_link, [key(options)]}, type: :supervisor}]
  end

  defp workers(options) do
    %{id: :workers, start: {__MODULE__, :start_workers, [options]}, type: :supervisor}
  end

  @doc false
  def start_workers(%Options{} = options) do
    opts = [
      strategy: :one_for_one,
      max_restarts: options.max_restarts,
      max_seconds: options.max_seconds,
      # So that workers of a pool that was killed, which hold names or ports until they have ended, are
      # waited for.
      name: Names.via(workers_key(options))
    ]

    Names.start_link(fn -> Supervisor.start_link(options.workers, opts) end, fn _of_before ->
      true
    end)
  end

  @doc """
  Has no worker started again, until their supervisor ends: one would find its pool closed, and its
  supervisor give up over it, with all workers that have calls in flight.
  """
  @spec stop_restarts(Options.t()) :: :ok
  def stop_restarts(options) do
    if workers = Names.whereis(workers_key(options)), do: :sys.suspend(workers, :infinity)
    :ok
  catch
    :exit, _it_has_ended -> :ok
  end

  defp workers_key(options), do: {__MODULE__, :workers, options.name}

  # It drains first.
  defp gate(options),
    do: %{id: :gate, start: {Gate, :start_link, [key(options)]}, shutdown: :infinity}

  defp key(options), do: {Handle, options.name}
end
