defmodule GrpcLb.CallEvent do
  # `[:grpc_lb, :call, :stop]`, of calls that are to be told: `telemetry: true` of `run/3`.
  @moduledoc false

  alias GrpcLb.{Native, Telemetry}
  alias GrpcLb.Pool.Handle

  @typedoc "Whose call it is: a balancer, or a pool by its name."
  @type whose :: GrpcLb.balancer() | atom()

  @doc """
  Makes a call with `call`, which is given a function to be told the outcome with, and emits the event.

  A call that raises, or of which a function of its options does, is told as it was ended.
  """
  @spec tell(whose(), value :: term(), (keep :: (Native.outcome() -> any()) -> result)) :: result
        when result: term()
  def tell(whose, value, call) do
    started = System.monotonic_time()
    # Of this call alone: there may be calls within it.
    outcome = make_ref()

    try do
      call.(&Process.put(outcome, &1))
    after
      metadata = Map.merge(about(whose), %{value: value, outcome: Process.delete(outcome)})
      duration = System.monotonic_time() - started
      Telemetry.execute([:grpc_lb, :call, :stop], %{duration: duration}, metadata)
    end
  end

  defp about(balancer) when is_reference(balancer),
    do: %{name: Native.name(balancer), balancer: balancer}

  defp about(pool) do
    case Handle.fetch(pool) do
      {:ok, %{balancer: balancer}} -> %{name: pool, balancer: balancer}
      # It was stopped meanwhile.
      {:error, :not_running} -> %{name: pool, balancer: nil}
    end
  end
end
