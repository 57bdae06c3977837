defmodule GrpcLb.Connection.Waiters do
  @moduledoc false
  # Callers that are answered later: when what they wait for happens, when their time is over, or
  # never, when they died meanwhile.

  @type t :: %{reference() => {GenServer.from(), timer :: reference() | nil}}

  @doc "Has a caller wait, by its monitor."
  @spec add(t(), GenServer.from(), timeout()) :: t()
  def add(waiters, {pid, _tag} = from, timeout) do
    monitor = Process.monitor(pid)

    timer = if timeout != :infinity, do: :erlang.start_timer(timeout, self(), {:waiter, monitor})

    Map.put(waiters, monitor, {from, timer})
  end

  @doc "Answers all."
  @spec reply_all(t(), term()) :: t()
  def reply_all(waiters, reply) do
    for {monitor, {from, timer}} <- waiters do
      Process.demonitor(monitor, [:flush])
      if timer, do: :erlang.cancel_timer(timer)
      GenServer.reply(from, reply)
    end

    %{}
  end

  @doc "The time of one is over."
  @spec timeout(t(), monitor :: reference()) :: t()
  def timeout(waiters, monitor) do
    case Map.pop(waiters, monitor) do
      {{from, _timer}, waiters} ->
        Process.demonitor(monitor, [:flush])
        GenServer.reply(from, {:error, :timeout})
        waiters

      {nil, waiters} ->
        waiters
    end
  end

  @doc "A process has died."
  @spec down(t(), monitor :: reference()) :: t()
  def down(waiters, monitor) do
    case Map.pop(waiters, monitor) do
      {{_from, timer}, waiters} ->
        if timer, do: :erlang.cancel_timer(timer)
        waiters

      {nil, waiters} ->
        waiters
    end
  end
end
