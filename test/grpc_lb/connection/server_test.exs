defmodule GrpcLb.Connection.ServerTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections, only: [holder: 1, server: 1]
  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection

  # Opens, and is gone before anybody can pick it.
  defmodule Gone do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, _opts) do
      {owner, monitor} = spawn_monitor(fn -> :ok end)

      receive do
        {:DOWN, ^monitor, :process, ^owner, _reason} -> {:ok, :gone, owner}
      end
    end

    @impl true
    def close(:gone), do: :ok
  end

  defp start(opts \\ []) do
    opts = Keyword.merge([target: "ipv4:10.0.0.1:1", transport: MyApp.Transport], opts)
    supervisor = start_supervised!({Connection, opts})
    {:ok, handle} = Connection.handle(supervisor)
    {server(handle), handle}
  end

  # As a telemetry handler does.
  defp in_process(pid, fun) do
    test = self()

    :sys.replace_state(pid, fn state ->
      send(test, {:result, fun.()})
      state
    end)

    assert_receive {:result, result}, 10_000
    result
  end

  test "does not wait for itself" do
    {pid, handle} = start(name: {:waits, self()})
    assert Connection.await_ready(handle) == :ok
    {:ok, supervisor, _name} = Connection.Supervisor.find(handle.name)

    for wait <- [&Connection.info/1, &Connection.await_ready/1, &Connection.disconnect/1],
        ref <- [supervisor, handle, handle.name] do
      assert %ArgumentError{} = in_process(pid, fn -> catch_error(wait.(ref)) end)
    end

    assert in_process(pid, fn -> Connection.resolve_now(handle) end) == :ok
    assert in_process(pid, fn -> Connection.handle(supervisor) end) == {:ok, handle}
    assert {:ok, _value} = in_process(pid, fn -> Connection.pick(handle) end)
    assert Connection.info(handle).ready
  end

  test "ends when somebody closes its balancer" do
    {pid, handle} = start(transport: Gone, backoff: [initial: 1, max: 1])
    monitor = Process.monitor(pid)
    GrpcLb.close(handle.balancer)
    # With the next change of the list.
    assert_receive {:DOWN, ^monitor, :process, ^pid, {:shutdown, :balancer_closed}}, 10_000
    assert Connection.handle(handle.name) == {:error, :not_found}
  end

  test "says that it has ended to who asks it after somebody closed its balancer" do
    for {ask, answer} <- [
          {&Connection.await_ready/1, {:error, :closed}},
          {&catch_error(Connection.info(&1)),
           %ArgumentError{message: "there is no connection :closed_by_somebody"}}
        ] do
      opts = [target: "ipv4:10.0.0.1:1", transport: MyApp.Transport, name: :closed_by_somebody]
      {:ok, pid} = Connection.start_link(opts)
      Process.unlink(pid)
      :ok = Connection.await_ready(pid)
      monitor = Process.monitor(pid)
      GrpcLb.close(Connection.handle!(pid).balancer)
      assert ask.(:closed_by_somebody) == answer
      assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
    end
  end

  test "does not start again when it is asked after somebody closed its balancer" do
    {_pid, handle} = start()
    {:ok, supervisor, _name} = Connection.Supervisor.find(handle.name)
    monitor = Process.monitor(supervisor)
    GrpcLb.close(handle.balancer)
    assert_raise ArgumentError, fn -> Connection.info(handle) end
    assert_receive {:DOWN, ^monitor, :process, ^supervisor, :shutdown}, 10_000
    assert Connection.handle(handle.name) == {:error, :not_found}
  end

  test "finds with a resolution that somebody closed its balancer, also when nothing changed" do
    {pid, handle} = start(min_resolve_interval: 0)
    assert Connection.await_ready(handle) == :ok
    monitor = Process.monitor(pid)
    GrpcLb.close(handle.balancer)
    Connection.resolve_now(handle)
    assert_receive {:DOWN, ^monitor, :process, ^pid, {:shutdown, :balancer_closed}}, 10_000
  end

  test "that has no time to answer holds up nobody for longer than they want to wait" do
    {pid, handle} = start()
    assert Connection.await_ready(handle) == :ok
    :ok = :sys.suspend(pid)
    assert Connection.await_ready(handle, 1) == :ok
    :ok = :sys.resume(pid)
    assert Connection.await_ready(handle, 0) == :ok

    {pid, handle} = start(name: :never_ready, transport: Gone, backoff: [initial: 60_000])
    :ok = :sys.suspend(pid)
    assert Connection.await_ready(handle, 1) == {:error, :timeout}
    :ok = :sys.resume(pid)
  end

  test "waits to be started anew while its holder is not there" do
    key = {Connection.Held, make_ref()}
    options = Connection.Options.new!("ipv4:10.0.0.1:1", transport: MyApp.Transport)
    assert Connection.Server.start_link(key, options) == :ignore
    assert Connection.Subchannel.start_supervisor(key) == :ignore
  end

  test "feeds a new balancer when the holder is killed" do
    {pid, handle} = start(name: {:held, self()})
    assert Connection.await_ready(handle) == :ok
    monitor = Process.monitor(pid)

    ExUnit.CaptureLog.capture_log(fn ->
      Process.exit(holder(handle), :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :shutdown}, 10_000
    end)

    eventually(fn -> Connection.await_ready(handle.name) == :ok end)
    assert {:ok, _value} = Connection.pick(Connection.handle!(handle.name))
    assert Connection.pick(handle) == {:error, :closed}
  end

  test "finds its balancer closed before its supervisor hears of the holder's death" do
    {pid, handle} = start(name: {:closed, self()}, target: "ipv4:10.0.0.1:1,10.0.0.1:2")
    eventually(fn -> length(GrpcLb.info(handle.balancer).backends) == 2 end)
    {:ok, supervisor, _name} = Connection.Supervisor.find(handle.name)
    :ok = :sys.suspend(pid)
    address = GrpcLb.Address.new!("10.0.0.1:1")
    send(pid, {:pushed, self(), {:ok, %{addresses: [address], ttl: nil}}})

    ExUnit.CaptureLog.capture_log(fn ->
      holder = holder(handle)
      :ok = :sys.suspend(supervisor)
      Process.exit(holder, :kill)
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      :ok = :sys.resume(pid)
      # It has seen it, and does not take it for the end of the connection.
      assert :sys.get_state(pid).holder == holder
      :ok = :sys.resume(supervisor)
      eventually(fn -> Connection.await_ready(handle.name) == :ok end)
    end)

    {:ok, ^supervisor, _name} = Connection.Supervisor.find(handle.name)
    assert Connection.handle!(handle.name) != handle
  end

  test "logs neither what its transport and resolver are given nor what is open" do
    {pid, handle} =
      start(
        transport: {MyApp.Transport, password: :secret},
        resolver: {GrpcLb.Resolver.Static, []}
      )

    assert Connection.await_ready(handle) == :ok
    state = :sys.get_state(pid)
    [{subchannel, _key, _address, _state}] = Connection.Subchannel.all(handle.balancer)

    for text <- [inspect(state), inspect(:sys.get_state(subchannel))] do
      refute text =~ "secret"
      refute text =~ "to 10.0.0.1:1"
    end

    wrong = {:no_such_transport, password: :secret}

    error =
      assert_raise ArgumentError, fn ->
        Connection.connect("ipv4:10.0.0.1:1", transport: wrong)
      end

    refute error.message =~ "secret"
  end

  test "tells connect/2 of a transport that was open for no time" do
    opts = [transport: Gone, backoff: [initial: 1, max: 1]]
    # Whether the backend was in the rotation before it was found dead is a matter of time.
    case Connection.connect("ipv4:10.0.0.1:1", opts) do
      {:error, reason} -> assert reason == {:open, "10.0.0.1:1", {:down, :noproc}}
      {:ok, handle} -> assert Connection.disconnect(handle) == :ok
    end
  end
end
