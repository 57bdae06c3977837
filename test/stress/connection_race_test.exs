defmodule GrpcLb.Stress.ConnectionRaceTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver, TcpTransport}

  @moduletag :concurrency
  @moduletag capture_log: true

  test "50 processes pick 100 times each against a disconnect" do
    servers = for _ <- 1..3, do: Loopback.start()
    ids = Enum.map(servers, &Loopback.id/1)

    for _ <- 1..5 do
      handle = connect!(servers)

      pick = fn ->
        with {:ok, {name, _pid}} <- Connection.pick(handle), do: {:ok, name in ids}
      end

      seen = picking_during(50, pick, fn -> :ok = Connection.disconnect(handle) end, 100)

      for of_one <- seen do
        # Closed once is closed for good.
        assert of_one in [
                 [before: {:ok, true}, after: {:error, :closed}],
                 [before: {:ok, true}, before: {:error, :closed}, after: {:error, :closed}]
               ]
      end

      await_clients(servers, 0)
    end
  end

  test "30 processes pick 200 times each while a reconcile shrinks the list" do
    servers = for _ <- 1..10, do: Loopback.start()
    kept = Enum.take(servers, 2)
    kept_ids = Enum.map(kept, &Loopback.id/1)
    {handle, names} = connect_scripted!(servers, drain_timeout: 600_000)
    await_ids(handle, servers)

    seen =
      picking_during(
        30,
        fn ->
          {:ok, value} = Connection.pick(handle)
          # What was picked before the shrinking drains: its calls still arrive.
          {elem(value, 0), TcpTransport.call(value, "call")}
        end,
        fn ->
          ScriptedResolver.set(names, kept)
          Connection.resolve_now(handle)
          await_ids(handle, kept)
        end,
        200
      )

    for of_one <- seen, {phase, {name, answer}} <- of_one do
      assert answer == {:ok, "call"}
      if phase == :after, do: assert(name in kept_ids)
    end

    assert Enum.map(kept, &Loopback.accepted/1) == [1, 1]
    Connection.disconnect(handle)
    await_clients(servers, 0)
  end

  test "connects, disconnects, picks and questions for one name at once" do
    server = Loopback.start()
    target = static([server])
    name = make_ref()

    together(16, fn worker ->
      for round <- 1..15 do
        case rem(worker + round, 4) do
          0 ->
            assert_known(Connection.connect(target, opts(name: name)))

          1 ->
            assert Connection.disconnect(name) == :ok

          2 ->
            with {:ok, handle} <- Connection.handle(name),
                 do: assert_known(Connection.pick(handle))

          3 ->
            assert_known(Connection.await_ready(name, 5))
        end
      end
    end)

    assert Connection.disconnect(name) == :ok
    assert Connection.handle(name) == {:error, :not_found}
    await_clients([server], 0)
    handle = connect!(target, name: name)
    assert {:ok, _} = echo(handle)
  end

  defp assert_known(:ok), do: :ok
  defp assert_known({:ok, _} = result), do: result
  defp assert_known({:error, {:already_started, pid}}), do: assert(is_pid(pid))

  defp assert_known({:error, reason}),
    do: assert(reason in [:closed, :no_backends, :not_found, :timeout])

  test "transports killed under pickers while the addresses change" do
    servers = for _ <- 1..6, do: Loopback.start()
    {handle, names} = connect_scripted!(servers)
    await_ids(handle, servers)

    seen =
      picking_during(8, fn -> elem(Connection.pick(handle), 0) end, fn ->
        for round <- 1..20 do
          with {:ok, {_name, pid}} <- Connection.pick(handle), do: kill([pid])
          ScriptedResolver.set(names, Enum.take(Enum.shuffle(servers), 1 + rem(round, 6)))
          Connection.resolve_now(handle)
        end

        ScriptedResolver.set(names, servers)
        Connection.resolve_now(handle)
        await_ids(handle, servers)
      end)

    for of_one <- seen, {:after, result} <- of_one, do: assert(result == :ok)
    await_clients(servers, 1)
  end

  test "a connection whose server is killed at any moment comes back whole" do
    servers = for _ <- 1..4, do: Loopback.start()
    names = ScriptedResolver.start(servers)
    name = make_ref()
    opts = opts(name: name, target: names, resolver: ScriptedResolver)

    {:ok, supervisor} =
      Supervisor.start_link([{Connection, opts}], strategy: :one_for_one, max_restarts: 0)

    handle = Connection.handle!(name)
    assert Connection.await_ready(handle) == :ok

    for round <- 1..50 do
      ScriptedResolver.set(names, Enum.take(servers, 1 + rem(round, 4)))
      Connection.resolve_now(name)

      with pid when is_pid(pid) <- server(handle) do
        if rem(round, 3) == 0, do: Process.exit(pid, :kill)
      end

      # Never closed, for it is always brought back.
      refute Connection.pick(handle) == {:error, :closed}
    end

    ScriptedResolver.set(names, servers)

    eventually(fn ->
      Connection.resolve_now(name)
      ids(handle) == Enum.map(servers, &Loopback.id/1)
    end)

    await_clients(servers, 1)
    Supervisor.stop(supervisor)
    assert Connection.pick(handle) == {:error, :closed}
    await_clients(servers, 0)
  end
end
