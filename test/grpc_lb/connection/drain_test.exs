defmodule GrpcLb.Connection.DrainTest do
  # Calls in flight on real sockets, while what they use goes.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, Peer, TcpTransport}

  @moduletag capture_log: true

  # A call that has its transport, and speaks to the server when it is told to.
  defp call(handle) do
    test = self()

    task =
      Task.async(fn ->
        Connection.run(handle, fn transport ->
          send(test, {:in_flight, self()})

          receive do
            :go_on -> TcpTransport.call(transport, "hello")
          end
        end)
      end)

    assert_receive {:in_flight, _pid}, 10_000
    task
  end

  defp go_on(task) do
    send(task.pid, :go_on)
    Task.await(task, 10_000)
  end

  # Runs it elsewhere, until picks are refused.
  defp ending(handle, fun) do
    task = Task.async(fun)
    eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
    task
  end

  test "a disconnect refuses picks at once, and ends when the calls in flight have" do
    handle = connect!([Loopback.start(), Loopback.start()], drain_timeout: :infinity)
    calls = [call(handle), call(handle)]
    disconnect = ending(handle, fn -> Connection.disconnect(handle) end)
    assert Connection.run(handle, fn _ -> :called end) == {:error, :closed}

    for call <- calls do
      assert Task.yield(disconnect, 0) == nil
      assert go_on(call) == {:ok, "hello"}
    end

    assert Task.await(disconnect, 10_000) == :ok
    assert Connection.handle(handle.name) == {:error, :not_found}
  end

  test "a disconnect waits for no call where none is in flight" do
    handle = connect!([Loopback.start()], drain_timeout: :infinity)
    assert echo(handle) == {:ok, "hello"}
    assert {:ok, _value} = Connection.pick(handle)
    assert Connection.disconnect(handle) == :ok
  end

  test "a disconnect waits for drain_timeout at most, its own or the connection's" do
    for {timeout, opts} <- [
          {20, []},
          {:infinity, [drain_timeout: 20]},
          {:infinity, [drain_timeout: 0]}
        ] do
      handle = connect!([Loopback.start()], drain_timeout: timeout)
      call = call(handle)
      assert Connection.disconnect(handle, opts) == :ok
      assert go_on(call) == {:error, :closed}
    end
  end

  test "a second disconnect can cut a long one short" do
    handle = connect!([Loopback.start()], drain_timeout: :infinity)
    call = call(handle)
    first = ending(handle, fn -> Connection.disconnect(handle) end)
    assert Task.yield(first, 0) == nil
    assert Connection.disconnect(handle, drain_timeout: 0) == :ok
    assert Task.await(first, 10_000) == :ok
    assert go_on(call) == {:error, :closed}
  end

  test "a disconnect takes no other drain_timeout" do
    for wrong <- [-1, :long, 1.0] do
      assert_raise ArgumentError, ~r/drain_timeout/, fn ->
        Connection.disconnect(:nobody, drain_timeout: wrong)
      end
    end
  end

  test "a caller that dies is not waited for" do
    handle = connect!([Loopback.start()], drain_timeout: :infinity)
    call = call(handle)
    disconnect = ending(handle, fn -> Connection.disconnect(handle) end)
    Process.unlink(call.pid)
    Process.exit(call.pid, :kill)
    assert Task.await(disconnect, 10_000) == :ok
  end

  test "a supervisor that stops a connection lets its calls end" do
    Process.flag(:trap_exit, true)
    target = static([Loopback.start()])
    name = make_ref()
    opts = opts(name: name, target: target, drain_timeout: :infinity)
    {:ok, supervisor} = Supervisor.start_link([{Connection, opts}], strategy: :one_for_one)
    handle = Connection.handle!(name)
    :ok = Connection.await_ready(handle)
    call = call(handle)
    stop = ending(handle, fn -> Supervisor.stop(supervisor) end)
    assert Task.yield(stop, 0) == nil
    assert go_on(call) == {:ok, "hello"}
    assert Task.await(stop, 10_000) == :ok
  end

  test "the application that stops lets the calls of all connections end" do
    # In a VM of its own: here others use the application.
    peer = Peer.start()
    assert Peer.run(peer, Peer.StopsDraining, :calls) == [{:ok, "hello"}, {:ok, "hello"}]
  end
end
