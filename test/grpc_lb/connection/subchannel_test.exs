defmodule GrpcLb.Connection.SubchannelTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually

  alias GrpcLb.{Address, Janitor, Names, Secret}
  alias GrpcLb.Connection.{Options, Server, Subchannel, Subchannels}
  alias GrpcLb.Test.Loopback

  @address %Address{ip: {10, 0, 0, 1}, port: 1}
  @id "10.0.0.1:1"

  # Opens as the function does that it is given.
  defmodule Function do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, fun), do: fun.()

    @impl true
    def check(%{check: fun}), do: fun.()
    def check(_value), do: :ok

    @impl true
    def close(%{close: fun}), do: fun.()
    def close(_value), do: :ok
  end

  # What does not end with the subchannel, as a process that it has not linked.
  defp value(functions \\ []) do
    test = self()
    Enum.into(functions, %{close: fn -> send(test, {:closed, self()}) end})
  end

  # Whether somebody waits for this subchannel, which was killed.
  defp awaited?(pid),
    do: Enum.any?(:sys.get_state(Janitor).waiting, fn {_, pids} -> pid in pids end)

  defp hang, do: Process.sleep(:infinity)

  defp kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 10_000
  end

  # The test is the server: the subchannel finds it by the balancer.
  setup do
    balancer = make_ref()
    {:ok, _} = Registry.register(GrpcLb.Registry, {Server, balancer}, nil)
    {:ok, supervisor} = Subchannels.start_link(name: Names.via({Subchannel, balancer}))
    %{balancer: balancer, supervisor: supervisor}
  end

  defp start(%{balancer: balancer}, fun) do
    options = Options.new!("ipv4:10.0.0.1:1", transport: {Function, fun})
    pid = Subchannel.start(balancer, options, @id, @address)
    Subchannel.open(pid)
    pid
  end

  defp stop_all(%{supervisor: supervisor, balancer: balancer}) do
    Supervisor.stop(supervisor)
    Janitor.await(balancer)
  end

  test "does not mind a process that failed while it was opening", context do
    failed_attempt = fn ->
      {pid, monitor} = spawn_monitor(fn -> Process.sleep(:infinity) end)
      Process.link(pid)
      Process.exit(pid, :refused)

      receive do
        {:DOWN, ^monitor, :process, ^pid, :refused} -> {:ok, :second_attempt}
      end
    end

    pid = start(context, failed_attempt)
    assert_receive {:backend_up, @id, ^pid, value, ^pid}, 10_000
    assert Secret.reveal(value) == :second_attempt
    # What was in its mailbox has been seen when it answers.
    Subchannel.check(pid)
    assert_receive {:backend_checked, @id, ^pid}, 10_000
    refute_received {:backend_down, _id, _pid, _reason}
    assert Subchannel.all(context.balancer) == [{pid, @id, @address, {:up, value, pid}}]
  end

  test "is not up with an owner that is not alive, such as one of before a restart of the node",
       context do
    # A pid in the external format, with this node's name and a creation that it never had.
    node = Atom.to_string(node())
    of_before = <<131, 88, 119, byte_size(node), node::binary, 77::32, 0::32, 7::32>>

    for owner <- [spawn(fn -> :ok end), :erlang.binary_to_term(of_before)] do
      value = value()
      eventually(fn -> not Process.alive?(owner) end)
      pid = start(context, fn -> {:ok, value, owner} end)
      monitor = Process.monitor(pid)
      assert_receive {:DOWN, ^monitor, :process, ^pid, reason}, 10_000
      assert reason in [{:shutdown, {:down, :noproc}}, :noproc]
      assert_receive {:closed, ^pid}, 10_000
      refute_received {:backend_up, _id, _pid, _value, _owner}
    end
  end

  test "drops messages, also those of a GenServer's kind", context do
    pid = start(context, fn -> {:ok, :open} end)
    assert_receive {:backend_up, @id, ^pid, _value, ^pid}, 10_000
    send(pid, :hello)
    GenServer.cast(pid, :hello)
    send(pid, {:"$gen_call", {self(), make_ref()}, :hello})
    Subchannel.check(pid)
    assert_receive {:backend_checked, @id, ^pid}, 10_000
  end

  test "is known while it opens", context do
    test = self()

    pid =
      start(context, fn ->
        send(test, :opening)
        hang()
      end)

    assert_receive :opening, 10_000
    assert Subchannel.all(context.balancer) == [{pid, @id, @address, :opening}]
    kill(pid)
  end

  test "goes down with a process that is its value, and ended before open returned", context do
    for reason <- [:boom, :normal] do
      ended = fn ->
        {value, monitor} = :erlang.spawn_opt(fn -> exit(reason) end, [:link, :monitor])

        receive do
          {:DOWN, ^monitor, :process, ^value, ^reason} -> {:ok, value}
        end
      end

      pid = start(context, ended)
      assert_receive {:backend_up, @id, ^pid, _value, ^pid}, 10_000
      assert_receive {:backend_down, @id, ^pid, {:down, ^reason}}, 10_000
    end
  end

  test "goes down with a process that is its value, whatever that ends with", context do
    pid = start(context, fn -> {:ok, spawn_link(fn -> receive(do: (:end -> :ok)) end)} end)
    assert_receive {:backend_up, @id, ^pid, value, ^pid}, 10_000
    send(Secret.reveal(value), :end)
    assert_receive {:backend_down, @id, ^pid, {:down, :normal}}, 10_000
  end

  describe "killed" do
    test "while it is open, what it has opened is closed", context do
      value = value()
      pid = start(context, fn -> {:ok, value} end)
      assert_receive {:backend_up, @id, ^pid, _value, ^pid}, 10_000
      kill(pid)
      assert_receive {:closed, closer}, 10_000
      assert closer != pid
    end

    test "in a check, the same", context do
      test = self()

      check = fn ->
        send(test, :checking)
        hang()
      end

      value = value(check: check)
      pid = start(context, fn -> {:ok, value} end)
      Subchannel.check(pid)
      assert_receive :checking, 10_000
      kill(pid)
      assert_receive {:closed, _closer}, 10_000
    end

    test "by its supervisor, which had waited for a check, the same before all are stopped",
         context do
      value = value(check: &hang/0)
      pid = start(context, fn -> {:ok, value} end)
      Subchannel.check(pid)
      assert_receive {:backend_up, @id, ^pid, _value, ^pid}, 10_000
      stop_all(context)
      refute Process.alive?(pid)
      assert_received {:closed, _closer}
    end

    test "before, the same before all are stopped", context do
      test = self()

      close = fn ->
        send(test, {:closing, self()})
        receive(do: (:go_on -> send(test, :closed)))
      end

      value = value(close: close)
      pid = start(context, fn -> {:ok, value} end)
      assert_receive {:backend_up, @id, ^pid, _value, ^pid}, 10_000
      kill(pid)
      assert_receive {:closing, closer}, 10_000

      stopping = Task.async(fn -> stop_all(context) end)
      # On a busy machine its time may be over first.
      eventually(fn -> awaited?(pid) or not Process.alive?(closer) end)
      send(closer, :go_on)
      assert Task.await(stopping) == :ok
      refute Process.alive?(closer)
    end

    test "while it closes, it is closed again, and not waited for for ever", context do
      test = self()

      close = fn ->
        send(test, {:closing, self()})
        hang()
      end

      value = value(close: close)
      pid = start(context, fn -> {:ok, value} end)
      Subchannel.close(pid, 0)
      assert_receive {:closing, ^pid}, 10_000
      kill(pid)
      assert_receive {:closing, closer}, 10_000
      assert Janitor.await(context.balancer) == :ok
      refute Process.alive?(closer)
    end

    test "while it opens, there is nothing to close", context do
      test = self()

      pid =
        start(context, fn ->
          send(test, :opening)
          hang()
        end)

      assert_receive :opening, 10_000
      kill(pid)
      assert Janitor.await(context.balancer) == :ok
      refute_received {:closed, _closer}
    end
  end

  describe "whose supervisor was killed" do
    # Reaches a real server, and goes no further.
    defp connect(server) do
      %{ip: ip, port: port} = Loopback.address(server)
      {:ok, socket} = :gen_tcp.connect(ip, port, active: false)
      socket
    end

    defp kill_supervisor(%{supervisor: supervisor}) do
      Process.unlink(supervisor)
      kill(supervisor)
    end

    defp await_end(pid, server) do
      monitor = Process.monitor(pid)
      assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
      eventually(fn -> Loopback.clients(server) == 0 end)
      refute is_map_key(:sys.get_state(Janitor).watched, pid)
    end

    test "ends in the middle of open", context do
      {test, server} = {self(), Loopback.start(:stall)}

      pid =
        start(context, fn ->
          connect(server)
          send(test, :opening)
          hang()
        end)

      assert_receive :opening, 10_000
      eventually(fn -> Loopback.clients(server) == 1 end)
      kill_supervisor(context)
      await_end(pid, server)
      # The janitor has forgotten it too.
      refute context.supervisor in :sys.get_state(Janitor).supervisors
    end

    test "ends in the middle of a check that hangs, and is closed", context do
      {test, server} = {self(), Loopback.start(:stall)}

      check = fn ->
        send(test, :checking)
        hang()
      end

      value = value(check: check)

      pid =
        start(context, fn ->
          connect(server)
          {:ok, value}
        end)

      Subchannel.check(pid)
      assert_receive :checking, 10_000
      kill_supervisor(context)
      await_end(pid, server)
      assert_receive {:closed, _closer}, 10_000
    end
  end

  test "closes once when it is not killed", context do
    value = value()
    pid = start(context, fn -> {:ok, value} end)
    monitor = Process.monitor(pid)
    Subchannel.close(pid, 0)
    assert_receive {:DOWN, ^monitor, :process, ^pid, {:shutdown, :closed}}, 10_000
    assert Janitor.await(context.balancer) == :ok
    assert_received {:closed, ^pid}
    refute_received {:closed, _closer}
  end
end
