defmodule GrpcLb.Attack.Witness do
  @moduledoc """
  Sees every turn on a scheduler that is longer than a millisecond: the VM tells it.

  The VM goes by the time that passes, so that a turn is also long in which the machine had something else to
  do. So whoever had a long turn is asked for its calls that took long. When the others are gone these are made
  again: what is bounded has a short turn among many, and what is not never has.
  """

  use GenServer

  alias GrpcLb.Attack.{Actor, Ledger, Screen}

  @tries 20
  @suspects_each 4

  def start_link, do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Ends it. What it saw: how many long turns, of whom, and how many calls were made again."
  def stop do
    seen = GenServer.call(__MODULE__, :seen, :infinity)
    GenServer.stop(__MODULE__)
    seen
  end

  @impl true
  def init(nil) do
    Process.flag(:priority, :high)
    before = :erlang.system_monitor(self(), long_schedule: 1)
    {:ok, %{before: before, turns: %{}, suspects: %{}}}
  end

  @impl true
  def handle_info({:monitor, pid, :long_schedule, info}, state) do
    who = who(pid, info)

    turns =
      Map.update(state.turns, who, {1, info[:timeout]}, fn {n, ms} ->
        {n + 1, max(ms, info[:timeout])}
      end)

    {:noreply, Enum.reduce(long_calls(pid), %{state | turns: turns}, &suspect/2)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def handle_call(:seen, _from, state) do
    suspects = for {what, seeds} <- state.suspects, seed <- seeds, do: {what, seed}
    Enum.each(suspects, &try_again/1)
    :erlang.system_monitor(state.before)
    {:reply, %{turns: state.turns, made_again: length(suspects)}, state}
  end

  # Where the turn ended, which is where its process was when it was long.
  defp who(pid, info) when is_pid(pid), do: info[:out]
  defp who(_port, info), do: info[:port_op]

  defp long_calls(pid) when is_pid(pid) do
    with {:dictionary, dictionary} <- Process.info(pid, :dictionary) do
      Keyword.get(dictionary, :long_calls, [])
    else
      nil -> []
    end
  end

  defp long_calls(_port), do: []

  # Few of each.
  defp suspect({what, seed, _us}, state) do
    known = Map.get(state.suspects, what, [])

    if seed in known or length(known) >= @suspects_each,
      do: state,
      else: put_in(state.suspects[what], [seed | known])
  end

  defp try_again({what, seed}) do
    # As long as none was short.
    turns =
      Enum.reduce_while(1..@tries, [], fn _try, turns ->
        case turn(native?(what), seed) do
          nil -> {:halt, nil}
          ms -> {:cont, [ms | turns]}
        end
      end)

    if turns, do: Ledger.found({:stall, what}, "CALL=#{seed} turns of #{inspect(turns)} ms")
  end

  defp native?({:sequence, native?}), do: native?
  defp native?({native?, _function}), do: native?

  # How many milliseconds one turn took in which nothing but this call was made, if it was long.
  defp turn(native?, seed) do
    witness = self()

    {pid, monitor} =
      :erlang.spawn_opt(
        fn ->
          Process.group_leader(self(), Process.whereis(Screen))
          {_what, call} = Actor.prepared(native?, seed)
          send(witness, {:prepared, self()})
          receive(do: (:go -> :ok))
          call.()
          send(witness, {:called, self()})
          receive(do: (:end -> :ok))
        end,
        [:monitor, min_heap_size: 100_000]
      )

    await(:prepared, pid, monitor)
    settle(pid)
    copied? = copied?(pid)
    send(pid, :go)
    # One that waits for something holds no scheduler.
    ended? = await(:called, pid, monitor)
    long = if ended? and not copied?, do: settle(pid)
    Process.exit(pid, :kill)
    receive(do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok))
    long
  end

  # Before OTP 27 arguments are copied on a normal scheduler, as messages are, and measured first: up to a
  # documented limit, which a term that is shared reaches always.
  defp copied?(pid) do
    with true <- String.to_integer(System.otp_release()) < 27,
         {:dictionary, dictionary} <- Process.info(pid, :dictionary),
         do: Keyword.get(dictionary, :large, false),
         else: (_none -> false)
  end

  defp await(what, pid, monitor) do
    receive do
      {^what, ^pid} ->
        true

      {:DOWN, ^monitor, :process, ^pid, _reason} = down ->
        send(self(), down)
        false
    after
      500 -> false
    end
  end

  # What the VM has said of this process until it waits.
  defp settle(pid) do
    receive(after: (5 -> :ok))
    said(pid, nil)
  end

  defp said(pid, longest) do
    receive do
      {:monitor, ^pid, :long_schedule, info} -> said(pid, max(info[:timeout], longest || 0))
    after
      0 -> longest
    end
  end
end
