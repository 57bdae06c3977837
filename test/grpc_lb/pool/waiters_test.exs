defmodule GrpcLb.Pool.WaitersTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1]

  alias GrpcLb.Pool.Waiters

  # A balancer is any term here. It has as many members as the waiter was sent last.
  defp await(table, n, counts) do
    test = self()

    Task.async(fn ->
      Waiters.await(table, test, n, :infinity, fn ->
        now =
          receive do
            {:count, others} -> others
          after
            0 -> counts
          end

        send(test, :counted)
        now
      end)
    end)
  end

  test "one balancer's count is taken at its word" do
    table = Waiters.new()
    waiter = await(table, 2, %{one: 0})
    assert_receive :counted, 5_000
    Waiters.notify(table, :one, 1)
    Waiters.notify(table, :one, 2)
    assert Task.await(waiter) == :ok
    refute_received :counted
  end

  test "members of two balancers count together" do
    table = Waiters.new()
    waiter = await(table, 3, %{local: 1, remote: 0})
    assert_receive :counted, 5_000
    send(waiter.pid, {:count, %{local: 1, remote: 2}})
    Waiters.notify(table, :remote, 2)
    assert Task.await(waiter) == :ok
  end

  test "what one of two balancers has lost meanwhile does not count" do
    table = Waiters.new()
    waiter = await(table, 3, %{local: 2, remote: 0})
    assert_receive :counted, 5_000
    send(waiter.pid, {:count, %{local: 0, remote: 1}})
    Waiters.notify(table, :remote, 1)
    assert_receive :counted, 5_000
    Waiters.notify(table, :local, 1)
    assert Task.yield(waiter, 50) == nil
    send(waiter.pid, {:count, %{local: 2, remote: 1}})
    Waiters.notify(table, :local, 2)
    assert Task.await(waiter) == :ok
  end

  test "a join while the count is taken is not missed" do
    table = Waiters.new()

    count = fn ->
      Waiters.notify(table, :one, 1)
      %{one: 0}
    end

    # Nobody can watch itself.
    owner = idle()
    assert Waiters.await(table, owner, 1, 5_000, count) == :ok
    kill([owner])
  end

  test "a table that is gone is no table" do
    table = Waiters.new()
    :ets.delete(table)
    assert Waiters.notify(table, :one, 1) == :ok

    assert Waiters.await(table, self(), 1, :infinity, fn -> %{one: 0} end) ==
             {:error, :not_running}
  end
end
