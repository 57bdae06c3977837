defmodule GrpcLb.Names do
  @moduledoc false
  # Names in `GrpcLb.Registry`, and the start of processes under names that others still have.

  # How long a process of a killed supervisor may take to end. A worker of a pool that is in a native
  # call ends only after it.
  @end_ms 30_000

  @doc "The name of a process, as `GenServer` takes it, with a value that lookups find."
  @spec via(key :: term(), value :: term()) :: GenServer.name()
  def via(key, value \\ nil), do: {:via, Registry, {GrpcLb.Registry, key, value}}

  @doc "Finds a process and its value. The registry itself may know it for a moment longer than it lives."
  @spec lookup(key :: term()) :: {pid(), value :: term()} | nil
  def lookup(key) do
    case Registry.lookup(GrpcLb.Registry, key) do
      [{pid, _value} = found] -> if Process.alive?(pid), do: found
      [] -> nil
    end
  end

  @spec whereis(key :: term()) :: pid() | nil
  def whereis(key), do: GenServer.whereis(via(key))

  @doc """
  Starts a process with a name, which `start` does.

  When a supervisor was killed, those that it had started are about to end, and have their names
  until then. Where `ending?` says so of the process that has the name, waits for its end.
  """
  @spec start_link((() -> GenServer.on_start()), (pid() -> boolean())) :: GenServer.on_start()
  def start_link(start, ending?) do
    await_library()

    with {:error, {:already_started, pid}} = taken <- start.() do
      if ending?.(pid) and await_end(pid) == :ok, do: start_link(start, ending?), else: taken
    end
  end

  defp await_end(pid) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
    after
      @end_ms ->
        Process.demonitor(monitor, [:flush])
        :timeout
    end
  end

  # What was killed of the library is back when its supervisor answers. Whoever does not wait uses up
  # the restarts of a user's supervisor. What is under that supervisor itself ends with it, and must
  # not wait for it.
  defp await_library do
    unless Process.whereis(GrpcLb.Registry) && Process.whereis(GrpcLb.Janitor) do
      if GrpcLb.Supervisor in Process.get(:"$ancestors", []), do: exit(:shutdown)
      Supervisor.count_children(GrpcLb.Supervisor)
      await_library()
    end
  end
end
