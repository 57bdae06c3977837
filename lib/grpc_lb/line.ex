defmodule GrpcLb.Line do
  @moduledoc false
  # Checkouts that may wait for room, in order of arrival. The line is the balancer's, natively: no
  # process keeps it, and a call that has not to wait meets nothing of it.

  alias GrpcLb.{Key, Native, Slots}

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

  @doc "As `checkout/2`, for a call that this process ends with `GrpcLb.Slots.finish/4`."
  @spec begin(GrpcLb.balancer(), Native.slots(), key :: term()) ::
          {:ok, value :: term(), Slots.call()} | {:error, :no_backends | :closed | :overloaded}
  def begin(balancer, slots, key) do
    case Slots.begin(balancer, slots, key) do
      {:error, :overloaded} -> line_up(balancer, [], Key.to_native(key))
      begun -> begun
    end
  end

  @doc "As `begin/3`, of backends whose value is none of these."
  @spec begin_except(GrpcLb.balancer(), Native.slots(), values :: [term()], key :: term()) ::
          {:ok, value :: term(), Slots.call()} | {:error, :no_backends | :closed | :overloaded}
  def begin_except(balancer, slots, values, key) do
    key = Key.to_native(key)

    begun =
      with {:error, :unfinished} <- Slots.begin_except(balancer, slots, values, key),
           do: call(:checkout_except_thoroughly, balancer, values, key)

    with {:error, :overloaded} <- begun, do: line_up(balancer, values, key)
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
