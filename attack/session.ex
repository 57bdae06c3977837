defmodule GrpcLb.Attack.Session do
  @moduledoc """
  What somebody does with a connection or a pool, in an order that makes sense, with code of users that
  misbehaves: so that there is something for all others to meet.
  """

  alias GrpcLb.{Connection, Pool}
  alias GrpcLb.Attack.{Hostile, Rogue, Stash, Values}

  @rogue {GrpcLb.Attack.Rogue, []}

  def run(count) do
    case :rand.uniform(3) do
      1 -> connection(count)
      2 -> pool(count)
      3 -> elixir_grpc(count)
    end
  end

  defp connection(count) do
    name = Enum.random(Values.names())

    opts = [
      name: name,
      policy: Values.policy(),
      transport: @rogue,
      resolver: @rogue,
      connect_timeout: 100,
      ready_timeout: 50,
      drain_timeout: Enum.random([0, 10, 100]),
      check_interval: 20,
      resolve_interval: 20,
      backoff: [base: 1, max: 20]
    ]

    count.({Connection, :connect, 2}, :ok, 1)

    made =
      if :rand.uniform(2) == 1,
        do: Connection.connect(:any, opts),
        else: started([target: :any] ++ opts)

    with {:ok, handle} <- made do
      Stash.put(:connection, handle)
      Connection.subscribe(handle)

      for _ <- 1..20 do
        Connection.pick(handle)
        Connection.run(handle, Rogue.run(), wait_for_ready: 5)
      end

      count.({Connection, :pick, 1}, :ok, 20)
      count.({Connection, :run, 3}, :ok, 20)
      Connection.info(handle)
      if :rand.uniform(2) == 1, do: Connection.disconnect(handle)
    end
  end

  defp started(opts) do
    with {:ok, pid} <- Connection.start_link(opts) do
      Connection.await_ready(pid, 50)
      Connection.handle(pid)
    end
  end

  defp pool(count) do
    name = Enum.random(Values.pools())
    policy = Values.policy()
    opts = [name: name, policy: policy, drain_timeout: Enum.random([0, 10, 100])]
    unless Process.whereis(name), do: Pool.start_link(opts)
    count.({Pool, :start_link, 1}, :ok, 1)

    for _ <- 1..5,
        do: Pool.join(name, Rogue.member(), value: Enum.random([:nobody, self(), Rogue.member()]))

    for _ <- 1..20 do
      Pool.pick(name)
      Pool.call(name, :work, timeout: 5)
      Pool.run(name, Rogue.run())
    end

    count.({Pool, :call, 3}, :ok, 20)
    count.({Pool, :pick, 1}, :ok, 20)
    Pool.broadcast(name, Hostile.term())
    if :rand.uniform(3) == 1, do: Pool.stop(name)
  end

  defp elixir_grpc(count) do
    channels = for n <- 1..:rand.uniform(6), do: channel(n)

    with {:ok, state} <- GrpcLb.ElixirGrpc.init(:round_robin, channels: channels) do
      Stash.put(:state, state)
      for _ <- 1..100, do: GrpcLb.ElixirGrpc.pick(state)
      GrpcLb.ElixirGrpc.update(state, Enum.take_random(channels, 3))
      count.({GrpcLb.ElixirGrpc, :pick, 1}, :ok, 100)
    end
  end

  defp channel(n), do: %{host: "10.0.0.#{n}", port: 443, adapter_payload: %{conn_pid: self()}}
end
