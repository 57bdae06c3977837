defmodule GrpcLb.Application do
  @moduledoc false

  use Application

  @impl true
  def start(_type, _args) do
    with :ok <- GrpcLb.Library.check(), do: start_processes()
  end

  defp start_processes do
    # A connection needs its name in the registry, and what the janitor knows of it: what comes later
    # starts again with what came before.
    Supervisor.start_link(
      [
        %{id: GrpcLb.Registry, start: {__MODULE__, :start_registry, []}, type: :supervisor},
        GrpcLb.Janitor,
        {DynamicSupervisor, name: GrpcLb.Connections},
        GrpcLb.ElixirGrpc.Holder.supervisor(),
        %{id: GrpcLb.Namesakes, start: {GrpcLb.Namesakes, :open, []}},
        # None of the others needs these: they come last, so that their end is nobody else's.
        GrpcLb.Eraser,
        GrpcLb.Ticker,
        GrpcLb.Herald.supervisor()
      ],
      strategy: :rest_for_one,
      name: GrpcLb.Supervisor
    )
  end

  @impl true
  def stop(_state) do
    # Nobody is left who would tell.
    GrpcLb.Native.listen(false)
    :ok
  end

  @doc false
  def start_registry do
    case Registry.start_link(keys: :unique, name: GrpcLb.Registry) do
      # A registry that was killed leaves processes with names, which are about to end.
      {:error, {:shutdown, {:failed_to_start_child, _id, {:already_started, pid}}}} ->
        monitor = Process.monitor(pid)

        receive do
          {:DOWN, ^monitor, :process, ^pid, _reason} -> start_registry()
        end

      started ->
        started
    end
  end
end
