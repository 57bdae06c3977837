defmodule GrpcLb.Connection.ResolverWorker do
  @moduledoc false
  # Runs a connection's resolver, linked to the server. Starts `watch/3` if exported, resolves once,
  # then on request. Checks every result: it sends nothing but resolutions and errors. It ends with
  # the watching process: its successor watches again, and resolves for what has changed meanwhile.

  use GenServer

  alias GrpcLb.Connection.Callback
  alias GrpcLb.{Resolver, Secret}

  @enforce_keys [:server, :module, :opts, :target]
  defstruct @enforce_keys ++
              [
                # Of the process that watches.
                monitor: nil,
                # Of the last resolution, of which more may come.
                asked: nil
              ]

  @doc """
  Starts it. It sends these messages to the calling process:

    * `{:resolved, pid, result}` for each resolution
    * `{:completed, pid, result}` when the last one has become a fuller one
    * `{:pushed, pid, result}` when what watches has pushed

  It exits with `{:shutdown, :watch_ended}` when watching has ended in order.
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
    state = %__MODULE__{server: server, module: module, opts: opts, target: target}
    {:ok, state, {:continue, :begin}}
  end

  # It watches first: a change between the two is seen by one of them.
  @impl true
  def handle_continue(:begin, state) do
    case watch(state) do
      {:ok, state} -> {:noreply, resolve_now(state)}
      {:error, reason} -> {:stop, {:shutdown, {:watch, reason}}, state}
    end
  end

  @impl true
  def handle_cast(:resolve, state), do: {:noreply, resolve_now(state)}

  # Pushes pass through here, so that the answer of a resolution, which may be older, does not undo one
  # that came during it.
  @impl true
  def handle_info({__MODULE__, :pushed, result}, state) do
    tell(state, :pushed, result)
    {:noreply, state}
  end

  def handle_info({__MODULE__, :completed, asked, result}, %{asked: asked} = state) do
    tell(state, :completed, result)
    {:noreply, state}
  end

  # That it was not there to be monitored: had it crashed, the link would have said so.
  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{monitor: monitor} = state) do
    if reason in [:normal, :noproc],
      do: {:stop, {:shutdown, :watch_ended}, state},
      else: {:stop, {:shutdown, {:watch, reason}}, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp watch(state) do
    if function_exported?(state.module, :watch, 3) do
      push = pushing(&{__MODULE__, :pushed, &1})

      case Callback.call(state.module, :watch, [state.target, Secret.reveal(state.opts), push]) do
        {:ok, {:ok, pid}} when is_pid(pid) -> {:ok, %{state | monitor: Process.monitor(pid)}}
        {:ok, {:error, reason}} -> {:error, reason}
        {:ok, other} -> {:error, {:bad_return, other}}
        {:error, reason} -> {:error, reason}
      end
    else
      {:ok, state}
    end
  end

  defp resolve_now(state) do
    asked = make_ref()
    arguments = [state.target, Secret.reveal(state.opts)]

    arguments =
      if function_exported?(state.module, :resolve, 3),
        do: arguments ++ [pushing(&{__MODULE__, :completed, asked, &1})],
        else: arguments

    case Callback.call(state.module, :resolve, arguments) do
      {:ok, result} -> tell(state, :resolved, result)
      {:error, _reason} = error -> tell(state, :resolved, error)
    end

    %{state | asked: asked}
  end

  defp pushing(message) do
    worker = self()

    fn result ->
      send(worker, message.(result))
      :ok
    end
  end

  defp tell(state, what, result), do: send(state.server, {what, self(), Resolver.check(result)})
end
