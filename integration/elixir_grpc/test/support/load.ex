defmodule GrpcLbElixirGrpc.Load do
  @moduledoc "Callers that call again and again, and what became of their calls."

  @typedoc "Times are milliseconds of the VM's monotonic clock."
  @type call :: %{begun: integer(), ended: integer(), result: term()}

  @doc "Starts `n` processes that call `fun` until they are told to stop."
  @spec start(pos_integer(), (() -> result :: term())) :: [Task.t()]
  def start(n, fun), do: for(_ <- 1..n, do: Task.async(fn -> loop(fun, []) end))

  @doc "Has the callers stop after their present calls. Returns all calls, in the order of their end."
  @spec stop([Task.t()]) :: [call()]
  def stop(callers) do
    for caller <- callers, do: send(caller.pid, :stop)
    callers |> Task.await_many(:infinity) |> List.flatten() |> Enum.sort_by(& &1.ended)
  end

  @doc "Calls `fun` in `n` processes for some time, and returns the calls."
  @spec for_ms(non_neg_integer(), pos_integer(), (() -> result :: term())) :: [call()]
  def for_ms(ms, n, fun) do
    callers = start(n, fun)
    Process.sleep(ms)
    stop(callers)
  end

  @doc "Calls until this server has answered: how many milliseconds that took."
  @spec await((() -> result :: term()), server :: pos_integer(), give_up_ms :: pos_integer()) ::
          non_neg_integer() | :never
  def await(fun, server, give_up_ms), do: await(fun, server, give_up_ms, now())

  defp await(fun, server, give_up_ms, from) do
    cond do
      result(fun) == {:ok, server} -> now() - from
      now() - from > give_up_ms -> :never
      true -> await(fun, server, give_up_ms, from)
    end
  end

  @spec now() :: integer()
  def now, do: System.monotonic_time(:millisecond)

  defp loop(fun, calls) do
    receive do
      :stop -> calls
    after
      0 ->
        begun = now()
        result = result(fun)
        loop(fun, [%{begun: begun, ended: now(), result: result} | calls])
    end
  end

  defp result(fun) do
    fun.()
  catch
    kind, reason -> {:error, {kind, reason}}
  end
end
