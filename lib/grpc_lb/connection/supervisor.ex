defmodule GrpcLb.Connection.Supervisor do
  @moduledoc false
  # One for each connection that `connect/2` made, so that one that keeps crashing takes no other
  # with it. It ends when the connection's process ends on purpose.

  # Erlang's, because Elixir's does not know `auto_shutdown` in every version.
  @behaviour :supervisor

  alias GrpcLb.Connection.{Options, Server}

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
      with {:ok, supervisor} <- DynamicSupervisor.start_child(GrpcLb.Connections, child(options)),
           do: await(supervisor, caller, options.ready_timeout)

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

    with {:error, _reason} <- result, do: stop(supervisor)
    Process.demonitor(monitor, [:flush])
    result
  end

  defp stop(supervisor) do
    Supervisor.stop(supervisor, :shutdown)
  catch
    :exit, _it_has_ended -> :ok
  end

  defp child(options) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [options]},
      restart: :temporary,
      type: :supervisor
    }
  end

  @doc false
  def start_link(options) do
    {:ok, supervisor} = :supervisor.start_link(__MODULE__, [])

    # Not among the children of its init: it would report that a name is taken as a failure.
    case :supervisor.start_child(supervisor, server(options)) do
      {:ok, _pid} ->
        {:ok, supervisor}

      {:error, reason} ->
        Supervisor.stop(supervisor)
        {:error, start_error(reason)}
    end
  end

  # OTP 25 puts the child beside every reason, later ones beside all but this.
  defp start_error({:already_started, _pid} = taken), do: taken
  defp start_error({{:already_started, _pid} = taken, _child}), do: taken

  # Somebody killed it before it had begun.
  defp start_error(_it_has_ended), do: :closed

  defp server(options) do
    %{
      id: Server,
      start: {Server, :start_link, [options]},
      restart: :transient,
      significant: true,
      shutdown: Server.shutdown_ms()
    }
  end

  @impl true
  def init([]) do
    {:ok,
     {%{strategy: :one_for_one, intensity: 3, period: 5, auto_shutdown: :any_significant}, []}}
  end
end
