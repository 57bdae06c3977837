defmodule GrpcLbElixirGrpc.Kill do
  @moduledoc """
  Kills one of three servers with SIGKILL while 16 callers call, starts it again on its port, and says
  what the callers saw.
  """

  alias GrpcLbElixirGrpc.{Load, Servers}

  @callers 16
  # The calls that a kill fails end before it is known that the server is gone.
  @margin_ms 200
  @down_ms 4_000
  @give_up_ms 30_000

  @type figures :: %{
          calls: non_neg_integer(),
          failed_begun_before: non_neg_integer(),
          failed_begun_after: non_neg_integer(),
          last_failure_ms: non_neg_integer(),
          slowest_ms: non_neg_integer(),
          back_ms: non_neg_integer() | :never
        }

  @doc """
  The figures of the calls that ended after the kill, whose moment is that when the server is known to
  be gone. `last_failure_ms` is the time from then until the last
  failed call had ended, `slowest_ms` what the slowest call took, and `back_ms` the time from when the
  server listens again until it has answered a call.
  """
  @spec run([Servers.t()], (() -> {:ok, server :: pos_integer()} | {:error, term()})) ::
          {figures(), Servers.t()}
  def run([_, victim, _], call) do
    callers = Load.start(@callers, call)
    Process.sleep(500)
    Servers.kill(victim)
    killed = Load.now()
    Process.sleep(@down_ms)
    [again] = Servers.start([[port: victim.port, number: victim.number]])
    # One more caller than those that are counted.
    back = Load.await(call, victim.number, @give_up_ms)
    calls = for call <- Load.stop(callers), call.ended >= killed - @margin_ms, do: call
    failed = Enum.filter(calls, &match?({:error, _}, &1.result))
    {before, later} = Enum.split_with(failed, &(&1.begun <= killed))

    figures = %{
      calls: length(calls),
      failed_begun_before: length(before),
      failed_begun_after: length(later),
      last_failure_ms: failed |> Enum.map(&(&1.ended - killed)) |> Enum.max(fn -> 0 end),
      slowest_ms: calls |> Enum.map(&(&1.ended - &1.begun)) |> Enum.max(fn -> 0 end),
      back_ms: back
    }

    {figures, again}
  end
end
