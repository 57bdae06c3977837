defmodule GrpcLb.Connection.WaitersTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.Waiters

  # A caller, as GenServer tells of it, and what it gets as its answer.
  defp caller(pid \\ self()), do: {pid, make_ref()}

  defp assert_reply({_pid, tag}, reply) do
    assert_receive {^tag, ^reply}, 10_000
  end

  test "all are answered, once" do
    callers = for _ <- 1..3, do: caller()
    waiters = Enum.reduce(callers, %{}, &Waiters.add(&2, &1, :infinity))
    assert map_size(waiters) == 3
    assert Waiters.reply_all(waiters, :ok) == %{}
    for caller <- callers, do: assert_reply(caller, :ok)
    assert Waiters.reply_all(%{}, :ok) == %{}
    refute_received _anything
  end

  test "one whose time is over is told so" do
    {late, patient} = {caller(), caller()}
    waiters = %{} |> Waiters.add(late, 0) |> Waiters.add(patient, 60_000)
    assert_receive {:timeout, _timer, {:waiter, monitor}}, 10_000
    waiters = Waiters.timeout(waiters, monitor)
    assert_reply(late, {:error, :timeout})
    assert map_size(waiters) == 1
    # It was answered in between.
    assert Waiters.timeout(waiters, monitor) == waiters
    Waiters.reply_all(waiters, :ok)
    assert_reply(patient, :ok)
    refute_received _anything
  end

  test "one that dies is forgotten" do
    pid = spawn(fn -> Process.sleep(:infinity) end)
    waiters = %{} |> Waiters.add(caller(pid), 60_000) |> Waiters.add(caller(pid), :infinity)
    Process.exit(pid, :kill)

    waiters =
      for _ <- 1..2, reduce: waiters do
        waiters ->
          assert_receive {:DOWN, monitor, :process, ^pid, _reason}, 10_000
          Waiters.down(waiters, monitor)
      end

    assert waiters == %{}
    assert Waiters.down(waiters, make_ref()) == %{}
  end
end
