defmodule GrpcLb.Line do
  @moduledoc false
  # Checkouts that may wait for room, in order of arrival. The line is the balancer's, natively: no
  # process keeps it, and a call that has not to wait meets nothing of it.

  alias GrpcLb.{Key, Native}

  @typep checkout ::
           {:ok, value :: term(), GrpcLb.ticket()}
           | {:error, :no_backends | :closed | :overloaded}

  @doc "As `GrpcLb.checkout/2`, and waits for room as long as `:checkout_wait` of the balancer says."
  @spec checkout(GrpcLb.balancer(), key :: term()) :: checkout()
  def checkout(balancer, key) do
    with {:error, :overloaded} <- GrpcLb.checkout(balancer, key) do
      line_up(balancer, [], Key.to_native(key))
    end
  end

  @doc "As `checkout/2`, of backends whose value is none of these."
  @spec checkout_except(GrpcLb.balancer(), values :: [term()], key :: term()) :: checkout()
  def checkout_except(balancer, values, key) do
    key = Key.to_native(key)

    checked_out =
      with {:error, :unfinished} <- call(:checkout_except, balancer, values, key),
           do: call(:checkout_except_thoroughly, balancer, values, key)

    with {:error, :overloaded} <- checked_out, do: line_up(balancer, values, key)
  end

  defp line_up(balancer, except, key) do
    with {:ok, waiter, place, ms} <- Native.line_up(balancer) do
      result = wait(waiter, place, {except, key}, now() + ms)
      # None comes later than this.
      flush(place)
      result
    end
  end

  defp wait(waiter, place, {except, key} = wanted, deadline) do
    with {:error, :overloaded} <- call(:checkout_in_turn, waiter, except, key) do
      receive do
        {:grpc_lb_room, ^place} -> wait(waiter, place, wanted, deadline)
      after
        max(deadline - now(), 0) ->
          Native.leave_line(waiter)
          {:error, :overloaded}
      end
    end
  end

  # A balancer of an older build knows no keys.
  defp call(function, ref, except, nil), do: apply(Native, function, [ref, except])
  defp call(function, ref, except, key), do: apply(Native, function, [ref, except, key])

  defp flush(place) do
    receive do
      {:grpc_lb_room, ^place} -> flush(place)
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
