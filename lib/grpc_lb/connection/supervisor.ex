defmodule GrpcLb.Connection.Supervisor do
  @moduledoc false
  # The supervisor of a connection. It ends when the server ends on purpose.

  # Erlang's, because Elixir's does not know `auto_shutdown` in every version.
  @behaviour :supervisor

  alias GrpcLb.{Connection, Holder, Names}
  alias GrpcLb.Connection.{Held, Options, Server, Subchannel}

  @doc """
  Starts a connection and waits until it is ready. When it fails nothing is left of it on return.
  """
  @spec connect(Options.t()) :: {:ok, GrpcLb.balancer()} | {:error, reason :: term()}
  def connect(options) do
    # An alias for one answer: one that comes too late, or once more from a process that took over,
    # goes nowhere.
    reply_to = :erlang.alias([:reply])
    caller = %{pid: self(), reply_to: reply_to, told: :atomics.new(1, [])}
    options = %{options | caller: caller}

    result =
      case DynamicSupervisor.start_child(GrpcLb.Connections, child(options)) do
        {:ok, supervisor} -> await(supervisor, caller, options.ready_timeout)
        {:error, {:already_started, _pid}} = taken -> taken
        # Somebody killed it before it had begun.
        {:error, _it_has_ended} -> {:error, :closed}
      end

    :erlang.unalias(reply_to)

    receive do
      {^reply_to, _too_late} -> result
    after
      0 -> result
    end
  end

  defp await(supervisor, %{reply_to: reply_to, told: told}, timeout) do
    monitor = Process.monitor(supervisor)

    result =
      receive do
        {^reply_to, result} ->
          :atomics.put(told, 1, 1)
          result

        {:DOWN, ^monitor, :process, _pid, _reason} ->
          {:error, :closed}
      after
        timeout -> {:error, :timeout}
      end

    with {:error, _reason} <- result, do: Holder.stop_supervisor(supervisor, :shutdown)
    Process.demonitor(monitor, [:flush])
    result
  end

  defp child(options) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [options]},
      restart: :temporary,
      type: :supervisor
    }
  end

  @spec start_link(Options.t()) :: Supervisor.on_start()
  def start_link(options) do
    name = Names.via({Connection, options.name}, _parent = self())

    # One whose own supervisor was killed ends with it.
    Names.start_link(fn -> :supervisor.start_link(name, __MODULE__, options) end, fn pid ->
      case Names.lookup({Connection, options.name}) do
        {^pid, parent} -> not Process.alive?(parent)
        _another_or_none -> true
      end
    end)
  end

  @doc "Finds a connection's supervisor by the name or by itself, and the name."
  @spec find(Connection.name() | pid()) :: {:ok, pid(), Connection.name()} | :error
  def find(ref) do
    case {Names.whereis({Connection, ref}), ref} do
      {nil, pid} when is_pid(pid) ->
        names = for {Connection, name} <- Registry.keys(GrpcLb.Registry, pid), do: name
        if names == [], do: :error, else: {:ok, pid, hd(names)}

      {nil, _name} ->
        :error

      {supervisor, name} ->
        {:ok, supervisor, name}
    end
  end

  @doc "The server, once it runs: waits while it is started again. Exits when the connection has ended."
  @spec server(supervisor :: pid()) :: pid()
  def server(supervisor) do
    case List.keyfind(:supervisor.which_children(supervisor), Server, 0) do
      {Server, pid, :worker, _modules} when is_pid(pid) -> pid
      _starting -> server(supervisor)
    end
  end

  # Many restarts: when they are used up the connection has ended, also for a supervisor that starts
  # again what crashed, because supervisors end with :shutdown then. The server is the last child, and
  # when it ends on purpose all end.
  @impl true
  def init(options) do
    key = {Held, options.name}

    children = [
      %{id: Holder, start: {Holder, :start_link, [key, options]}},
      %{id: :subchannels, start: {Subchannel, :start_supervisor, [key]}, type: :supervisor},
      %{
        id: Server,
        start: {Server, :start_link, [key, options]},
        # It drains first.
        shutdown: :infinity,
        restart: :transient,
        significant: true
      }
    ]

    {:ok,
     {%{strategy: :rest_for_one, intensity: 20, period: 5, auto_shutdown: :any_significant},
      children}}
  end
end
