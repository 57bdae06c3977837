defmodule GrpcLb.JanitorTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Janitor
  alias GrpcLb.Test.Peer

  # A process that is watched, and does what it is told.
  defp watched(group) do
    test = self()

    pid =
      spawn_link(fn ->
        Process.flag(:trap_exit, true)
        :ok = Janitor.watch(group)
        send(test, {:watched, self()})
        obey()
      end)

    assert_receive {:watched, ^pid}, 10_000
    pid
  end

  defp obey do
    receive do
      {:do, fun, from} ->
        send(from, {:done, fun.()})
        obey()

      :end ->
        :ok
    end
  end

  defp tell(pid, fun) do
    send(pid, {:do, fun, self()})
    assert_receive {:done, result}, 10_000
    result
  end

  def clean_up(test, what), do: send(test, {:clean, what})

  def hold_up(test, what) do
    send(test, {:cleaning, what, self()})

    receive do
      :go_on -> :ok
    end
  end

  defp clean_up_with(pid, function, what) do
    mfa = {__MODULE__, function, [self(), what]}
    tell(pid, fn -> Janitor.clean_up_with(mfa) end)
  end

  test "cleans up after a process that was killed, with what it said last" do
    pid = watched(make_ref())
    clean_up_with(pid, :clean_up, :first)
    clean_up_with(pid, :clean_up, :second)
    Process.unlink(pid)
    kill([pid])
    assert Janitor.await(pid) == :ok
    assert_received {:clean, :second}
    refute_received {:clean, :first}
  end

  test "does nothing after a process that has cleaned up" do
    pid = watched(make_ref())
    clean_up_with(pid, :clean_up, :first)
    tell(pid, fn -> Janitor.clean_up_with(nil) end)
    send(pid, :end)
    assert Janitor.await(pid) == :ok
    refute_received {:clean, _what}
  end

  test "waits for a process, and for a group as it is now" do
    group = make_ref()
    [one, other] = for _ <- 1..2, do: watched(group)
    clean_up_with(other, :hold_up, :other)
    await = &Task.async(fn -> Janitor.await(&1) end)
    [for_one, for_all] = tasks = [await.(one), await.(group)]

    eventually(fn ->
      waiting = for {{pid, _tag}, _of} <- :sys.get_state(Janitor).waiting, do: pid
      Enum.all?(tasks, &(&1.pid in waiting))
    end)

    later = watched(group)
    send(one, :end)
    assert Task.await(for_one) == :ok
    Process.unlink(other)
    kill([other])
    assert_receive {:cleaning, :other, cleaner}, 10_000
    monitor = Process.monitor(for_all.pid)

    answered? =
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> true
      after
        50 -> false
      end

    # On a busy machine its time may be over.
    refute answered? and Process.alive?(cleaner)
    send(cleaner, :go_on)
    assert Task.await(for_all) == :ok
    assert Process.alive?(later)
    send(later, :end)
  end

  test "has nothing to wait for of what it does not watch" do
    assert Janitor.await(self()) == :ok
    assert Janitor.await(make_ref()) == :ok
  end

  test "ends what cleans up for too long, and passes over what fails" do
    pid = watched(make_ref())
    clean_up_with(pid, :hold_up, :for_ever)
    Process.unlink(pid)
    kill([pid])
    assert_receive {:cleaning, :for_ever, cleaner}, 10_000
    assert Janitor.await(pid) == :ok
    refute Process.alive?(cleaner)

    pid = watched(make_ref())
    tell(pid, fn -> Janitor.clean_up_with({:erlang, :error, [:boom]}) end)
    Process.unlink(pid)
    kill([pid])
    assert Janitor.await(pid) == :ok
  end

  test "ends nothing that has all the time there is" do
    [all, some] = for _ <- 1..2, do: watched(make_ref())
    mfa = {__MODULE__, :hold_up, [self(), :all]}
    tell(all, fn -> Janitor.clean_up_with(mfa, :infinity) end)
    clean_up_with(some, :hold_up, :some)
    for pid <- [all, some], do: Process.unlink(pid)
    kill([all])
    assert_receive {:cleaning, :all, cleaner}, 10_000
    kill([some])
    # Its time began later, and is over.
    assert Janitor.await(some) == :ok
    assert Process.alive?(cleaner)
    send(cleaner, :go_on)
    assert Janitor.await(all) == :ok
  end

  test "gives what cleans up its time, however late it begins" do
    peer = Peer.start([~c"+S", ~c"1:1"])
    assert Peer.run(peer, Peer.Cleaning, :after_a_wait_of, [1_500])
  end

  test "passes over what it does not know" do
    send(Janitor, :hello)
    Janitor.clean_up_with({:erlang, :halt, []})
    assert Janitor.await(self()) == :ok
  end

  test "outlives a process that was watched twice" do
    janitor = Process.whereis(Janitor)
    pid = watched(:twice)
    tell(pid, fn -> Janitor.watch(:twice) end)
    send(pid, :end)
    assert Janitor.await(:twice) == :ok
    # It has handled both of the process's ends when it answers this.
    _state = :sys.get_state(janitor)
    assert Process.whereis(Janitor) == janitor
  end
end
