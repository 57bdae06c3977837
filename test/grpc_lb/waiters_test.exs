defmodule GrpcLb.WaitersTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1]

  alias GrpcLb.Waiters

  defp await(table, n) do
    test = self()
    Task.async(fn -> Waiters.await(table, test, n, :infinity, fn -> 0 end) end)
  end

  defp waiting(table, n), do: eventually(fn -> :ets.info(table, :size) == n end)

  test "only those wake up for whom there are enough" do
    table = Waiters.new()
    one = await(table, 1)
    three = await(table, 3)
    waiting(table, 2)
    # Whoever is not told cannot wake up.
    :erlang.trace(three.pid, true, [:receive])
    Waiters.notify(table, fn -> 2 end)
    assert Task.await(one) == :ok
    waiting(table, 1)
    Waiters.notify(table, fn -> 3 end)
    assert Task.await(three) == :ok
    delivered = :erlang.trace_delivered(three.pid)
    assert_receive {:trace_delivered, _three, ^delivered}
    assert_received {:trace, _three, :receive, {_ref, :enough}}
    refute_received {:trace, _three, :receive, {_ref, :enough}}
  end

  test "nobody counts while nobody waits" do
    assert Waiters.notify(Waiters.new(), fn -> flunk("counted") end) == :ok
  end

  test "one that was killed while it waited is forgotten, however many it waited for" do
    table = Waiters.new()
    test = self()
    waiter = spawn(fn -> Waiters.await(table, test, 1_000, :infinity, fn -> 0 end) end)
    waiting(table, 1)
    kill([waiter])
    Waiters.notify(table, fn -> 1 end)
    assert :ets.info(table, :size) == 0
  end

  test "a join while the count is taken is not missed" do
    table = Waiters.new()

    count = fn ->
      Waiters.notify(table, fn -> 1 end)
      0
    end

    # Nobody can watch itself.
    owner = idle()
    assert Waiters.await(table, owner, 1, 5_000, count) == :ok
    kill([owner])
  end

  test "a table that is gone is no table" do
    table = Waiters.new()
    :ets.delete(table)
    assert Waiters.notify(table, fn -> 1 end) == :ok
    assert Waiters.await(table, self(), 1, :infinity, fn -> 0 end) == {:error, :not_running}
  end
end
