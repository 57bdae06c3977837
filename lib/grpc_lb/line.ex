defmodule GrpcLb.Line do
  @moduledoc false
  # Checkouts that may wait for room, in order of arrival. The line is the balancer's, natively: no
  # process keeps it, and a call that has not to wait meets nothing of it.

  alias GrpcLb.Native

  @typep checkout ::
           {:ok, value :: term(), GrpcLb.ticket()}
           | {:error, :no_backends | :closed | :overloaded}

  @doc "As `GrpcLb.checkout/2`, and waits for room as long as `:checkout_wait` of the balancer says."
  @spec checkout(GrpcLb.balancer(), key :: term()) :: checkout()
  def checkout(balancer, key) do
    with {:error, :overloaded} <- GrpcLb.checkout(balancer, key), do: line_up(balancer, [])
  end

  @doc "As `checkout/1`, of backends whose value is none of these."
  @spec checkout_except(GrpcLb.balancer(), values :: [term()]) :: checkout()
  def checkout_except(balancer, values) do
    checked_out =
      with {:error, :unfinished} <- Native.checkout_except(balancer, values),
           do: Native.checkout_except_thoroughly(balancer, values)

    with {:error, :overloaded} <- checked_out, do: line_up(balancer, values)
  end

  defp line_up(balancer, except) do
    with {:ok, waiter, place, ms} <- Native.line_up(balancer) do
      result = wait(waiter, place, except, now() + ms)
      # None comes later than this.
      flush(place)
      result
    end
  end

  defp wait(waiter, place, except, deadline) do
    with {:error, :overloaded} <- Native.checkout_in_turn(waiter, except) do
      receive do
        {:grpc_lb_room, ^place} -> wait(waiter, place, except, deadline)
      after
        max(deadline - now(), 0) ->
          Native.leave_line(waiter)
          {:error, :overloaded}
      end
    end
  end

  defp flush(place) do
    receive do
      {:grpc_lb_room, ^place} -> flush(place)
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
