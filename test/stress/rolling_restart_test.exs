defmodule GrpcLb.Stress.RollingRestartTest do
  # Three servers that restart one after the other, under load: no call fails.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection
  alias GrpcLb.Test.{GracefulServer, GracefulTransport}

  @callers 16
  @rounds 5

  for {how, policy} <- [message: :round_robin, message: :least_request, token: :round_robin] do
    test "of #{@rounds} rolling restarts no call notices, with a #{how} and #{policy}" do
      servers = for _ <- 1..3, do: GracefulServer.start()
      ids = Enum.map(servers, &GracefulServer.id/1)
      target = {:static, Enum.map(servers, &GracefulServer.address/1)}
      transport = {GracefulTransport, unquote(how)}
      # How long it takes is up to the calls, and not to a timeout.
      opts = [transport: transport, policy: unquote(policy), drain_timeout: :infinity]
      handle = connect!(target, opts)
      await_ids(handle, ids)
      callers = for _ <- 1..@callers, do: Task.async(fn -> call_until_stopped(handle) end)

      # A connection that has made no call does not know that they are counted.
      eventually(fn -> Enum.any?(GrpcLb.info(handle.balancer).backends, &(&1.successes > 0)) end)

      Enum.reduce(1..@rounds, servers, fn _round, servers ->
        for server <- servers do
          %{port: port} = GracefulServer.address(server)
          :ok = GracefulServer.stop(server)
          next = GracefulServer.start(port)
          eventually(fn -> Enum.sort(ids(handle)) == Enum.sort(ids) end)
          next
        end
      end)

      for %{pid: pid} <- callers, do: send(pid, :stop)
      counts = Task.await_many(callers, :infinity)

      {calls, failures} =
        Enum.reduce(counts, {0, []}, fn {n, f}, {calls, failures} ->
          {calls + n, f ++ failures}
        end)

      assert failures == []
      assert calls > @callers * @rounds

      # All that was counted is there, though each server was three or more.
      %{backends: backends} = GrpcLb.info(handle.balancer)
      assert Enum.sum(Enum.map(backends, & &1.successes)) == calls
      assert Enum.all?(backends, &match?(%{failures: 0, in_flight: 0}, &1))
    end
  end

  defp call_until_stopped(handle, calls \\ 0, failures \\ []) do
    failures =
      case Connection.run(handle, &GracefulTransport.call/1) do
        {:ok, _number} -> failures
        error -> [error | failures]
      end

    receive do
      :stop -> {calls + 1, failures}
    after
      0 -> call_until_stopped(handle, calls + 1, failures)
    end
  end
end
