defmodule GrpcLb.Test.Peer.Heralding do
  @moduledoc "What `GrpcLb.HeraldTest` has done in a VM of its own, whose processes can be killed."

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Herald, Native}

  @doc "Has balancers tell of refusals, forgets them, and waits until none is left."
  def forget do
    for n <- 1..100, do: refuse({:forgotten, n})
    :erlang.garbage_collect()
    eventually(fn -> Native.live_counts().balancers == 0 end)
  end

  @doc "Kills the process, and sees what is told then."
  def tell_after_death do
    # What dies here is meant to.
    :logger.set_primary_config(:level, :none)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    herald = Process.whereis(Herald)
    :ok = :sys.suspend(herald)
    # It waits for who comes next.
    lb = refuse(:left)
    kill([herald])
    await(:left, lb)
    eventually(fn -> Process.whereis(Herald) not in [nil, herald] end)
    for message <- [:strange, {:events, 1}], do: send(Herald, message)
    await(:right, refuse(:right))
  end

  defp await(name, lb) do
    receive do
      {:event, [:grpc_lb, :balancer, :overloaded], _count, %{name: ^name, balancer: ^lb}} -> :ok
    after
      10_000 -> :nothing_told
    end
  end

  @doc "Has a balancer decide more than is kept, and says how much is told and how much is lost."
  def lose do
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    {:ok, lb} = GrpcLb.new(:random, [], slow_start: [window: 1_000_000])
    {:ok, _changes} = GrpcLb.add(lb, Enum.to_list(1..1_000))
    count(0, 0)
  end

  defp count(told, lost) when told + lost == 1_000, do: {told, lost}

  defp count(told, lost) do
    receive do
      {:event, [:grpc_lb, :slow_start, :entered], _measurements, _metadata} ->
        count(told + 1, lost)

      {:event, [:grpc_lb, :events, :lost], %{count: count}, _none} ->
        count(told, lost + count)
    after
      10_000 -> {told, lost}
    end
  end

  @doc "What nobody listens to is not kept."
  def tell_nobody do
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, Herald)
    :ok = Native.listen(false)
    refuse(:unheard)
    :infinity = Native.tick()
    Native.events()
  end

  @doc "Runs a guide in which a handler is attached."
  def run_guide(code, guide) do
    # What is logged is part of the guide, and not of the output of tests.
    :logger.set_primary_config(:level, :none)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Guide.run(code, guide)
  end

  defp refuse(name) do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests: 0)
    {:error, :overloaded} = GrpcLb.checkout(lb)
    lb
  end
end
