defmodule GrpcLb.Connection.Waiting do
  @moduledoc false
  # A call that finds nothing to pick, and may wait until there is: gRPC's [wait for
  # ready](https://github.com/grpc/grpc/blob/master/doc/wait-for-ready.md).

  alias GrpcLb.{Call, Connection, Holder, Waiters}
  alias GrpcLb.Connection.{Held, Server, States}

  @doc """
  Makes another attempt, and waits as long as the option says while it finds nothing. `nil` is the
  default: `:connect_timeout`, while the connection is connecting for the first time.
  """
  @spec attempt(Connection.t(), Call.wait(), (() -> result)) :: result when result: term()
  def attempt(_handle, wait, _attempt) when wait in [false, 0], do: {:error, :no_backends}

  def attempt(%Connection{name: name, balancer: balancer}, wait, attempt) do
    with {_holder, %{held: %Held{balancer: ^balancer} = held}} <- Holder.lookup({Held, name}),
         false <- own_process?(held) do
      may_wait? = if wait, do: fn -> true end, else: fn -> States.first_attempt?(held.states) end
      until_found(held, wait || held.connect_timeout, may_wait?, attempt)
    else
      _ended_or_own_process -> attempt.()
    end
  end

  # A telemetry handler, without which the connection does not get on.
  defp own_process?(held), do: self() in [held.holder, Server.whereis(held.balancer)]

  defp until_found(held, ms, may_wait?, attempt) do
    try_or_wait = fn ->
      # In this order: who has become ready, or has failed, after that tells those who wait.
      may_wait? = may_wait?.()
      found = attempt.()
      if may_wait? and found == {:error, :no_backends}, do: :wait, else: found
    end

    with :wait <- try_or_wait.() do
      case Waiters.await(held.waiters, 1, ms, try_or_wait) do
        {:error, :timeout} -> {:error, :no_backends}
        {:error, :not_running} -> attempt.()
        found -> found
      end
    end
  end
end
