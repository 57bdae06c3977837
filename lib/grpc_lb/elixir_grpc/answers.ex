defmodule GrpcLb.ElixirGrpc.Answers do
  @moduledoc false
  # The answers of a streaming call. The call ends when they were read to the end, or nobody reads on.

  alias GrpcLb.ElixirGrpc.Call

  @doc """
  The answers, as the adapter's `Enumerable` has them. `trailers?` says whether the trailers, which come
  last, are for the caller, too.
  """
  @spec new(Enumerable.t(), Call.t(), trailers? :: boolean()) :: Enumerable.t()
  def new(answers, call, trailers?) do
    Stream.resource(
      # Before anything was read it is not known how the call goes.
      fn ->
        {&Enumerable.reduce(answers, &1, fn answer, _ -> {:suspend, answer} end), :cancelled, nil}
      end,
      &next(&1, call, trailers?),
      &clean_up(&1, call)
    )
  end

  # What raised has cleaned up after itself.
  defp clean_up({:raised, _kind, _reason, _stacktrace}, _call), do: :ok

  defp clean_up({next, how, trailers}, call) do
    Call.complete(call, how, trailers)
    if next, do: Call.guarded(call, fn -> next.({:halt, nil}) end)
  end

  defp next({:raised, kind, reason, stacktrace}, _call, _trailers?),
    do: :erlang.raise(kind, reason, stacktrace)

  defp next({nil, _how, _trailers} = ended, _call, _trailers?), do: {:halt, ended}

  # Pulled one by one, so that what the reader does in between is not taken for the adapter's doing.
  defp next({next, how, trailers}, call, trailers?) do
    case Call.guarded(call, fn -> next.({:cont, nil}) end) do
      {:ok, {:suspended, {:trailers, trailers} = last, next}} ->
        {if(trailers?, do: [last], else: []), {next, how, trailers}}

      {:ok, {:suspended, {:error, _error} = failed, next}} ->
        {[failed], {next, failed, trailers}}

      {:ok, {:suspended, answer, next}} ->
        {[answer], {next, :ok, trailers}}

      # All was read; that there was nothing is no failure.
      {:ok, {_done, _acc}} ->
        {:halt, {nil, if(how == :cancelled, do: :ok, else: how), trailers}}

      {:exit, reason} ->
        {[{:error, Call.lost(reason)}], {nil, how, trailers}}
    end
  catch
    # Raised in the next turn: Stream.resource/3 cleans up what it has had before this one.
    kind, reason -> {[], {:raised, kind, reason, __STACKTRACE__}}
  end
end
