defmodule GrpcLb.Connection.ResolverWorker do
  @moduledoc false
  # Runs a connection's resolver, linked to the server. Starts `watch/3` if exported, resolves once,
  # then on request. Checks every result: it sends nothing but resolutions and errors.

  use GenServer

  alias GrpcLb.Connection.Callback
  alias GrpcLb.{Resolver, Secret}

  @doc """
  Starts it. It sends `{:resolved, pid, result}` and, when the resolver pushes, `{:pushed, pid,
  result}` to the calling process.
  """
  @spec start_link({module(), Secret.t()}, target :: term()) :: pid()
  def start_link(resolver, target) do
    {:ok, pid} = GenServer.start_link(__MODULE__, {self(), resolver, target})
    pid
  end

  @doc "Asks for another resolution."
  @spec resolve(pid()) :: :ok
  def resolve(pid), do: GenServer.cast(pid, :resolve)

  @impl true
  def init({server, {module, opts}, target}) do
    state = %{server: server, module: module, opts: opts, target: target}
    {:ok, state, {:continue, :begin}}
  end

  # It watches first: a change between the two is seen by one of them.
  @impl true
  def handle_continue(:begin, state) do
    case watch(state) do
      :ok ->
        resolve_now(state)
        {:noreply, state}

      {:error, reason} ->
        {:stop, {:shutdown, {:watch, reason}}, state}
    end
  end

  @impl true
  def handle_cast(:resolve, state) do
    resolve_now(state)
    {:noreply, state}
  end

  # Pushes pass through here, so that the answer of a resolution, which may be older, does not undo one
  # that came during it.
  @impl true
  def handle_info({__MODULE__, :pushed, result}, state) do
    send(state.server, {:pushed, self(), Resolver.check(result)})
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp watch(state) do
    if function_exported?(state.module, :watch, 3) do
      worker = self()

      push = fn result ->
        send(worker, {__MODULE__, :pushed, result})
        :ok
      end

      case Callback.call(state.module, :watch, [state.target, Secret.reveal(state.opts), push]) do
        {:ok, {:ok, pid}} when is_pid(pid) -> :ok
        {:ok, {:error, reason}} -> {:error, reason}
        {:ok, other} -> {:error, {:bad_return, other}}
        {:error, reason} -> {:error, reason}
      end
    else
      :ok
    end
  end

  defp resolve_now(state) do
    result =
      with {:ok, result} <-
             Callback.call(state.module, :resolve, [state.target, Secret.reveal(state.opts)]) do
        Resolver.check(result)
      end

    send(state.server, {:resolved, self(), result})
  end
end
