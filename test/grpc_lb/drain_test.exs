defmodule GrpcLb.DrainTest do
  # Waits for the calls that a value was given before it went.
  use ExUnit.Case, async: true

  alias GrpcLb.Native

  defp new(backends) do
    {:ok, lb} = GrpcLb.new(:round_robin, backends)
    lb
  end

  defp checkouts(lb, n) do
    for _ <- 1..n do
      {:ok, value, ticket} = GrpcLb.checkout(lb)
      {value, ticket}
    end
  end

  # All of it is told before this returns, by the calls that have ended.
  defp told do
    receive do
      {:grpc_lb_drained, number} -> [number | told()]
    after
      0 -> []
    end
  end

  test "the last of a value's calls tells, and calls of the next value are none of them" do
    lb = new(a: :old)
    [{:old, first}, {:old, second}] = checkouts(lb, 2)
    assert {:ok, %{kept: 1}, [number]} = Native.reconcile_draining(lb, [{:a, :new, %{}}], [:a])
    [{:new, third}] = checkouts(lb, 1)

    assert GrpcLb.complete(first, :ok) == :ok
    assert told() == []
    assert GrpcLb.complete(second, {:error, :late}) == :ok
    assert told() == [number]
    assert GrpcLb.complete(third, :ok) == :ok
    assert told() == []

    # What is counted belongs to the id, but for whether the value has worked.
    assert %{backends: [%{in_flight: 0, successes: 2, failures: 1}]} = GrpcLb.info(lb)
    assert Native.successes(lb, :a) == 1
  end

  test "each id has a number of its own, and what is left is told at once" do
    lb = new(a: 1, b: 2, c: 3)
    [{1, first}, {2, second}] = checkouts(lb, 2)
    GrpcLb.complete(first, :ok)

    assert {:ok, %{removed: 3}, [:drained, number, :drained, nil]} =
             Native.reconcile_draining(lb, [], [:a, :b, :c, :d])

    GrpcLb.complete(second, :ok)
    assert told() == [number]
  end

  test "where none was ever counted nothing is known of calls" do
    lb = new(a: 1, b: 2, c: 3)
    assert {:ok, 1} = GrpcLb.pick(lb)
    backends = [{:b, 2, %{}}, {:c, 3, %{}}]
    assert {:ok, _changes, [:uncounted]} = Native.reconcile_draining(lb, backends, [:a])
    [{_value, ticket}] = checkouts(lb, 1)
    GrpcLb.complete(ticket, :ok)
    assert {:ok, _changes, [:drained, :drained]} = Native.reconcile_draining(lb, [], [:b, :c])
    {:ok, _changes} = GrpcLb.reconcile(lb, [:d])
    # It was known of others.
    assert {:ok, _changes, [:drained]} = Native.reconcile_draining(lb, [], [:d])
  end

  test "a caller that dies has ended its call" do
    lb = new(a: 1)
    test = self()

    caller =
      spawn(fn ->
        [_call] = checkouts(lb, 1)
        send(test, :called)
        Process.sleep(:infinity)
      end)

    assert_receive :called, 10_000
    assert {:ok, _changes, [number]} = Native.reconcile_draining(lb, [], [:a])
    Process.exit(caller, :kill)
    assert_receive {:grpc_lb_drained, ^number}, 10_000
  end

  test "a value waits for the calls of those before it under its id" do
    lb = new(a: 1)
    [{1, first}] = checkouts(lb, 1)
    assert {:ok, _changes, [one]} = Native.reconcile_draining(lb, [{:a, 2, %{}}], [:a])
    [{2, second}] = checkouts(lb, 1)
    assert {:ok, _changes, [two]} = Native.reconcile_draining(lb, [{:a, 3, %{}}], [:a])
    GrpcLb.complete(second, :ok)
    assert told() == []
    GrpcLb.complete(first, :ok)
    assert Enum.sort(told()) == [one, two]
  end

  test "a close waits for all calls, also those of backends that were removed" do
    lb = new(a: 1, b: 2, c: 3)
    calls = checkouts(lb, 3)
    {:ok, _changes} = GrpcLb.remove(lb, [:a])
    {:ok, _changes} = GrpcLb.reconcile(lb, [:d])
    assert {:ok, number} = Native.close_draining(lb)
    assert GrpcLb.checkout(lb) == {:error, :closed}

    for {_value, ticket} <- calls do
      assert told() == []
      GrpcLb.complete(ticket, :ok)
    end

    assert told() == [number]
    assert Native.close_draining(lb) == {:ok, nil}
  end

  test "the calls of one that was closed already are waited for, and twice if that is asked" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])
    [{:a, ticket}] = checkouts(lb, 1)
    :ok = GrpcLb.close(lb)
    assert {:ok, first} = Native.close_draining(lb)
    assert {:ok, second} = Native.close_draining(lb)
    assert is_integer(first) and is_integer(second)
    assert told() == []
    GrpcLb.complete(ticket, :ok)
    assert Enum.sort(told()) == [first, second]
    assert Native.close_draining(lb) == {:ok, nil}
  end

  test "a list without a key where the policy hashes changes nothing" do
    {:ok, lb} = GrpcLb.new(:ring_hash, ["a", "b"])
    before = GrpcLb.info(lb)

    assert_raise ArgumentError, ~r/backend 0/, fn ->
      Native.reconcile_draining(lb, [{:x, 1, %{}}], ["a"])
    end

    assert GrpcLb.info(lb) == before
    assert {:ok, %{added: 1}} = GrpcLb.add(lb, ["c"])
  end

  test "no call is missed that begins and ends while values go" do
    lb = new(a: 0)
    # The least value that has not gone; calls; calls that ended after their value had gone.
    counts = :atomics.new(3, [])
    callers = for _ <- 1..4, do: Task.async(fn -> call_until_stopped(lb, counts) end)

    for next <- 1..500 do
      {:ok, _changes, [left]} = Native.reconcile_draining(lb, [{:a, next, %{}}], [:a])
      if is_integer(left), do: assert_receive({:grpc_lb_drained, ^left}, 10_000)
      :atomics.put(counts, 1, next)
    end

    for %{pid: pid} <- callers, do: send(pid, :stop)
    Task.await_many(callers, :infinity)
    assert :atomics.get(counts, 2) > 500
    assert :atomics.get(counts, 3) == 0
  end

  defp call_until_stopped(lb, counts) do
    {:ok, value, ticket} = GrpcLb.checkout(lb)
    :erlang.yield()
    :atomics.add(counts, 2, 1)
    if :atomics.get(counts, 1) > value, do: :atomics.add(counts, 3, 1)
    GrpcLb.complete(ticket, :ok)

    receive do
      :stop -> :ok
    after
      0 -> call_until_stopped(lb, counts)
    end
  end
end
