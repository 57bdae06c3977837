defmodule GrpcLb.Test.Peer.StopsDraining do
  @moduledoc "What `GrpcLb.Connection.DrainTest` has done in a VM of its own: the application stops."

  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, TcpTransport}

  @doc "Calls of two connections, in flight when the application stops: what they answer."
  def calls do
    # That an application stops is news to the logger.
    :logger.set_primary_config(:level, :none)

    calls =
      for _ <- 1..2 do
        target = {:static, [Loopback.address(Loopback.start())]}
        opts = [transport: TcpTransport, drain_timeout: :infinity]
        {:ok, handle} = Connection.connect(target, opts)
        {handle, Task.async(fn -> Connection.run(handle, &call/1) end)}
      end

    eventually(fn -> Enum.all?(calls, fn {handle, _call} -> in_flight(handle) == 1 end) end)
    stop = Task.async(fn -> Application.stop(:grpc_lb) end)

    for {handle, call} <- calls do
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      nil = Task.yield(stop, 0)
      send(call.pid, :go_on)
    end

    answers = for {_handle, call} <- calls, do: Task.await(call, 10_000)
    :ok = Task.await(stop, 10_000)
    answers
  end

  defp call(transport) do
    receive do
      :go_on -> TcpTransport.call(transport, "hello")
    end
  end

  defp in_flight(handle) do
    %{backends: [%{in_flight: n}]} = GrpcLb.info(handle.balancer)
    n
  end
end
