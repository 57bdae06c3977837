defmodule Mix.Tasks.GrpcLb.Demo.Traffic do
  @moduledoc false
  # Makes the calls of a contest. They come by the clock, each in a process of its own, and wait
  # for none before them, as those of many clients do. Each balancer gets every call, at the same
  # moment.

  alias Mix.Tasks.GrpcLb.Demo.{CallLog, Callers, Connection}

  @period_us 20_000

  # Goes on for `ms`. Returns when all calls have ended, with a log for each balancer.
  @spec run([GrpcLb.balancer()], ms :: pos_integer()) :: [CallLog.t()]
  def run(balancers, ms) do
    began = now()
    run = {make_ref(), began}
    calls = start_calls(run, balancers, began + 1000 * ms, began, 0)
    for balancer <- balancers, do: for(_ <- 1..calls, do: await(run, balancer))
  end

  defp start_calls(_run, _balancers, to, due, calls) when due >= to, do: calls

  # Where the machine is too busy to be on time there are fewer calls. Were they all made up for
  # at once, the picture would be that of another load.
  defp start_calls(run, balancers, to, due, calls) do
    for balancer <- balancers, do: start(run, balancer, calls)
    now = now()
    due = max(due + @period_us, now)
    Process.sleep(div(due - now + 999, 1000))
    start_calls(run, balancers, to, due, calls + 1)
  end

  defp start({run, began}, balancer, call) do
    collector = self()

    spawn_link(fn ->
      started = now()
      {connection, outcome} = make(balancer, <<call::64>>)

      call = %{
        connection: connection,
        at_ms: div(started - began, 1000),
        took_us: now() - started,
        outcome: outcome
      }

      send(collector, {run, balancer, call})
    end)
  end

  defp await({run, _began}, balancer) do
    receive do
      {^run, ^balancer, call} -> call
    end
  end

  defp make(balancer, payload) do
    request = fn connection ->
      {connection, connection |> Connection.request(payload) |> Callers.outcome(payload)}
    end

    case GrpcLb.run(balancer, request, outcome: &outcome/1) do
      {:error, reason} -> {nil, {:failed, reason}}
      made -> made
    end
  end

  defp outcome({_connection, :answered}), do: :ok
  defp outcome({_connection, {:failed, reason}}), do: {:error, reason}

  defp now, do: System.monotonic_time(:microsecond)
end
