defmodule GrpcLb.Waiters do
  @moduledoc false
  # Who waits until there is enough to pick, in order of arrival: one process of a connection or a pool,
  # which ends with the holder. When it is told that there is something, those who wait try one after
  # the other, each in its own process and the next when the one before has done so. So who came first is
  # served first, and a crowd does not rush at the one backend that is back. Picks know nothing of it.

  use GenServer

  # `places` has who waits by number, `refs` the number and the monitor. `turn` is whose turn it is, at
  # which number, and how many there are to pick; `told` what was heard of during that.
  defstruct places: :gb_trees.empty(), refs: %{}, last: 0, turn: nil, told: 0

  @type t :: pid()
  @type count :: non_neg_integer() | :infinity

  @doc "Starts it, linked to the calling holder."
  @spec start() :: t()
  def start do
    {:ok, pid} = GenServer.start(__MODULE__, self())
    pid
  end

  @doc "Has those try who wait for so many or fewer. With `:infinity` all do."
  @spec notify(t(), count()) :: :ok
  def notify(waiters, count) do
    send(waiters, {:enough, count})
    :ok
  end

  @doc """
  Waits until there are `n`, at most `timeout` milliseconds. `attempt` is called in the calling process,
  first when that stands in line, so that nothing is missed, then when it is its turn, and last when
  the time is over. It says what to return, or `:wait`.
  """
  @spec await(t(), non_neg_integer(), timeout(), (() -> :wait | result)) ::
          result | {:error, :timeout | :not_running}
        when result: term()
  def await(waiters, n, timeout, attempt) do
    # The alias ends with the monitor: what is sent later than that goes nowhere.
    ref = :erlang.monitor(:process, waiters, alias: :demonitor)
    send(waiters, {:enter, ref, self(), n})

    try do
      wait(waiters, ref, deadline(timeout), attempt)
    after
      send(waiters, {:leave, ref})
      Process.demonitor(ref, [:flush])
      flush(ref)
    end
  end

  defp wait(waiters, ref, deadline, attempt) do
    receive do
      {^ref, :first} ->
        with :wait <- attempt.(), do: wait(waiters, ref, deadline, attempt)

      {^ref, :try} ->
        with :wait <- attempt.() do
          send(waiters, {:still, ref})
          wait(waiters, ref, deadline, attempt)
        end

      {:DOWN, ^ref, :process, _waiters, _reason} ->
        {:error, :not_running}
    after
      left(deadline) ->
        with :wait <- attempt.(), do: {:error, :timeout}
    end
  end

  defp flush(ref) do
    receive do
      {^ref, _first_or_try} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)

  @impl true
  def init(holder) do
    # Whatever the holder ends with, this ends too, and has nothing to report.
    Process.flag(:trap_exit, true)
    Process.link(holder)
    {:ok, %__MODULE__{}}
  end

  @impl true
  def handle_info({:enter, ref, pid, n}, state) do
    # Unless those who are ahead of it have their turn now, and it has its own after them.
    unless match?(%{count: count} when n <= count, state.turn), do: send(ref, {ref, :first})

    place = state.last + 1
    monitor = :erlang.monitor(:process, pid, tag: {:gone, ref})

    {:noreply,
     %{
       state
       | places: :gb_trees.insert(place, {ref, n}, state.places),
         refs: Map.put(state.refs, ref, {place, monitor}),
         last: place
     }}
  end

  def handle_info({:leave, ref}, state), do: {:noreply, left_by(state, ref)}

  def handle_info({{:gone, ref}, _monitor, :process, _pid, _}, state),
    do: {:noreply, left_by(state, ref)}

  def handle_info({:still, ref}, %{turn: %{ref: ref}} = state), do: {:noreply, next(state)}

  def handle_info({:enough, count}, %{turn: nil} = state), do: {:noreply, begin(state, count)}

  def handle_info({:enough, count}, state),
    do: {:noreply, %{state | told: max(state.told, count)}}

  def handle_info({:EXIT, _holder, _reason}, state), do: {:stop, :normal, state}
  def handle_info(_other, state), do: {:noreply, state}

  defp left_by(state, ref) do
    case Map.pop(state.refs, ref) do
      {nil, _refs} ->
        state

      {{place, monitor}, refs} ->
        Process.demonitor(monitor, [:flush])
        state = %{state | refs: refs, places: :gb_trees.delete(place, state.places)}
        if match?(%{ref: ^ref}, state.turn), do: next(state), else: state
    end
  end

  defp begin(state, count),
    do: next(%{state | turn: %{ref: nil, place: 0, count: count}, told: 0})

  defp next(%{turn: %{place: place, count: count}} = state) do
    case :gb_trees.next(:gb_trees.iterator_from(place + 1, state.places)) do
      {place, {ref, n}, _rest} when n <= count ->
        send(ref, {ref, :try})
        put_in(state.turn, %{ref: ref, place: place, count: count})

      {place, _waits_for_more, _rest} ->
        next(put_in(state.turn.place, place))

      :none when state.told == 0 ->
        %{state | turn: nil}

      :none ->
        begin(state, state.told)
    end
  end
end
