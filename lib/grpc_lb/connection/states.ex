defmodule GrpcLb.Connection.States do
  @moduledoc false
  # The state that a connection is in: a word that anybody reads, and a process that tells subscribers of
  # its changes. Both belong to the holder, so that they outlive the server, which says what the state is.

  use GenServer

  alias GrpcLb.Connection.Connectivity

  @states [:idle, :connecting, :ready, :transient_failure, :shutdown]

  # The cells of the words.
  @state 1
  @was_ready 2
  @since 3

  @enforce_keys [:pid, :words]
  defstruct @enforce_keys

  @type t :: %__MODULE__{pid: pid(), words: :atomics.atomics_ref()}

  @doc "Starts it, linked to the calling holder. The state is `:connecting`."
  @spec start(name :: term()) :: t()
  def start(name) do
    {:ok, pid} = GenServer.start(__MODULE__, {self(), name})
    words = :atomics.new(3, signed: true)
    :atomics.put(words, @state, index(:connecting))
    :atomics.put(words, @since, now())
    %__MODULE__{pid: pid, words: words}
  end

  @spec get(t()) :: Connectivity.state()
  def get(%{words: words}), do: Enum.at(@states, :atomics.get(words, @state))

  @doc "Whether it is connecting, and has never been ready."
  @spec first_attempt?(t()) :: boolean()
  def first_attempt?(%{words: words} = states),
    do: get(states) == :connecting and :atomics.get(words, @was_ready) == 0

  @doc """
  Says what the state is, and tells the subscribers when it is another. Returns the one before, and how
  long it lasted, in native time units.
  """
  @spec put(t(), Connectivity.state()) :: {:changed, Connectivity.state(), integer()} | :same
  def put(%{words: words, pid: pid} = states, state) do
    before = get(states)

    # Nothing comes after the end.
    if before in [state, :shutdown] do
      :same
    else
      now = now()
      if state == :ready, do: :atomics.put(words, @was_ready, 1)
      :atomics.put(words, @state, index(state))
      send(pid, {:state, state})
      {:changed, before, now - :atomics.exchange(words, @since, now)}
    end
  end

  @doc "Has the calling process told of changes, once each. Returns the state before them."
  @spec subscribe(t()) :: {:ok, Connectivity.state()} | {:error, :closed}
  def subscribe(%{pid: pid}), do: call(pid, :subscribe, {:error, :closed})

  @spec unsubscribe(t()) :: :ok
  def unsubscribe(%{pid: pid}), do: call(pid, :unsubscribe, :ok)

  defp call(pid, request, ended) do
    GenServer.call(pid, request, :infinity)
  catch
    :exit, _it_has_ended -> ended
  end

  @impl true
  def init({holder, name}) do
    # Whatever the holder ends with, the subscribers are told, and there is nothing to report.
    Process.flag(:trap_exit, true)
    Process.link(holder)
    {:ok, %{name: name, state: :connecting, subscribers: %{}}}
  end

  @impl true
  def handle_call(:subscribe, {pid, _tag}, state) do
    subscribers = Map.put_new_lazy(state.subscribers, pid, fn -> Process.monitor(pid) end)
    {:reply, {:ok, state.state}, %{state | subscribers: subscribers}}
  end

  def handle_call(:unsubscribe, {pid, _tag}, state), do: {:reply, :ok, forget(state, pid)}

  @impl true
  def handle_info({:state, new}, state), do: {:noreply, tell(state, new)}

  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state),
    do: {:noreply, forget(state, pid)}

  def handle_info({:EXIT, _holder, _reason}, state), do: {:stop, :normal, tell(state, :shutdown)}
  def handle_info(_other, state), do: {:noreply, state}

  defp tell(%{state: :shutdown} = state, _late), do: state

  defp tell(state, new) do
    message = {:grpc_lb_connection, state.name, new}
    for {pid, _monitor} <- state.subscribers, do: send(pid, message)
    %{state | state: new}
  end

  defp forget(state, pid) do
    {monitor, subscribers} = Map.pop(state.subscribers, pid)
    if monitor, do: Process.demonitor(monitor, [:flush])
    %{state | subscribers: subscribers}
  end

  defp index(state), do: Enum.find_index(@states, &(&1 == state))

  defp now, do: System.monotonic_time()
end
