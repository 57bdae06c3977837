defmodule Demo.Callers.Traffic do
  @moduledoc false
  # Makes the calls of a contest. They come by the clock, each in a process of its own, and wait
  # for none before them, as those of many clients do. Each balancer gets every call, at the same
  # moment.

  alias Demo.Callers
  alias Demo.Callers.CallLog

  @period_us 20_000

  # Goes on for `ms`, and returns when all calls have ended and are in the logs.
  @spec run([{GrpcLb.balancer(), log :: :ets.table()}], ms :: pos_integer()) :: :ok
  def run(lines, ms) do
    began = now()
    calls = start_calls(lines, began, began + 1000 * ms, began, [])

    for call <- calls do
      receive do
        {:DOWN, ^call, :process, _pid, :normal} -> :ok
      end
    end

    :ok
  end

  defp start_calls(_lines, _began, to, due, calls) when due >= to, do: calls

  # Where the machine is too busy to be on time there are fewer calls. Were they all made up for
  # at once, the picture would be that of another load.
  defp start_calls(lines, began, to, due, calls) do
    started = for line <- lines, do: start(line, began, length(calls))
    now = now()
    due = max(due + @period_us, now)
    Process.sleep(div(due - now + 999, 1000))
    start_calls(lines, began, to, due, started ++ calls)
  end

  # Linked: a call that crashes is a mistake of the demo's.
  defp start({balancer, log}, began, number) do
    call = fn -> call(balancer, log, began, <<number::64>>) end
    {_pid, monitor} = Process.spawn(call, [:link, :monitor])
    monitor
  end

  defp call(balancer, log, began, payload) do
    started = now()
    {client, outcome} = Callers.counted(&GrpcLb.run(balancer, &1, &2), payload)
    at_ms = div(started - began, 1000)
    CallLog.add(log, %{client: client, at_ms: at_ms, took_us: now() - started, outcome: outcome})
  end

  defp now, do: System.monotonic_time(:microsecond)
end
