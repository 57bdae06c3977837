defmodule GrpcLb.Connection.SubchannelTest do
  use ExUnit.Case, async: true

  alias GrpcLb.{Address, Connection}
  alias GrpcLb.Connection.Subchannel

  @address %Address{ip: {10, 0, 0, 1}, port: 1}
  @id "10.0.0.1:1"

  # Opens as the function does that it is given.
  defmodule Function do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, fun), do: fun.()

    @impl true
    def check(_value), do: :ok

    @impl true
    def close(_value), do: :ok
  end

  # The test is the connection's process: the subchannel finds it by the name.
  setup do
    name = make_ref()
    {:ok, _} = Registry.register(GrpcLb.Registry, {Connection, name}, nil)
    {:ok, supervisor} = DynamicSupervisor.start_link(strategy: :one_for_one)
    %{name: name, supervisor: supervisor}
  end

  defp start(%{name: name, supervisor: supervisor}, fun) do
    pid = Subchannel.start(supervisor, name, {Function, fun}, @address)
    Subchannel.open(pid)
    pid
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
    assert_receive {:backend_up, @id, ^pid, :second_attempt, ^pid}, 10_000
    # What was in its mailbox has been seen when it answers.
    Subchannel.check(pid)
    assert_receive {:backend_checked, @id, ^pid}, 10_000
    refute_received {:backend_down, _id, _pid, _reason}
    assert Subchannel.all(context.supervisor) == [{pid, @address, {:up, :second_attempt, pid}}]
  end

  test "that is still opening is not waited for when all are stopped", context do
    test = self()

    asked_to_end = fn ->
      send(test, :opening)

      receive do
        {:EXIT, _supervisor, _reason} -> send(test, :asked_to_end)
      end
    end

    pid = start(context, asked_to_end)
    assert_receive :opening, 10_000
    assert Subchannel.all(context.supervisor) == [{pid, @address, :opening}]
    Subchannel.stop_all(context.supervisor)
    refute Process.alive?(pid)
    refute_received :asked_to_end
  end
end
