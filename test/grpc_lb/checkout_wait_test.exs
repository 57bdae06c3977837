defmodule GrpcLb.CheckoutWaitTest do
  # Calls that wait for room, in order of arrival.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Native, Pool}

  @limits [max_requests: 1, checkout_wait: 60_000]

  defp full(opts \\ @limits, backends \\ [:a]) do
    {:ok, lb} = GrpcLb.new(:round_robin, backends, opts)
    {:ok, _value, ticket} = GrpcLb.checkout(lb)
    # A ticket that is garbage makes room.
    Process.put(ticket, :held)
    {lb, ticket}
  end

  # Starts a process that runs a call and tells how it went, and waits until it is in line.
  defp caller(lb, name, fun \\ fn value -> value end) do
    test = self()
    pid = spawn_link(fn -> send(test, {name, GrpcLb.run(lb, fun), mailbox()}) end)
    waits(pid)
    pid
  end

  defp waits(pid) do
    eventually(fn ->
      Process.info(pid, [:status, :current_function]) ==
        [status: :waiting, current_function: {GrpcLb.Line, :wait, 4}]
    end)
  end

  defp mailbox do
    {:messages, messages} = Process.info(self(), :messages)
    messages
  end

  test "nobody waits by default, and checkout/1 never does" do
    {lb, _ticket} = full(max_requests: 1)
    assert GrpcLb.run(lb, fn _value -> :called end) == {:error, :overloaded}

    {lb, _ticket} = full()
    assert GrpcLb.checkout(lb) == {:error, :overloaded}
  end

  test "a call gets in when another one ends" do
    {lb, ticket} = full()
    caller(lb, :waiter)
    refute_received _told
    :ok = GrpcLb.complete(ticket, :ok)
    assert_receive {:waiter, :a, []}
    assert GrpcLb.run(lb, fn value -> value end) == :a
  end

  test "so it is with the limit of a backend" do
    {lb, ticket} = full(max_requests_per_backend: 1, checkout_wait: 60_000)
    caller(lb, :waiter)
    :ok = GrpcLb.complete(ticket, {:error, :late})
    assert_receive {:waiter, :a, []}
  end

  test "who waits finds the only room in a long list" do
    backends = Enum.to_list(1..3_000)

    {:ok, lb} =
      GrpcLb.new(:pick_first, backends, max_requests_per_backend: 1, checkout_wait: 60_000)

    tickets = for n <- backends, do: {:ok, ^n, _ticket} = GrpcLb.checkout(lb)
    caller(lb, :waiter)
    {:ok, 2_000, ticket} = Enum.at(tickets, 1_999)
    :ok = GrpcLb.complete(ticket, :ok)
    assert_receive {:waiter, 2_000, []}
  end

  test "a hundred get in in the order in which they came" do
    {lb, ticket} = full()
    test = self()

    for n <- 1..100, do: caller(lb, n, fn :a -> send(test, {:in, n}) end)
    :ok = GrpcLb.complete(ticket, :ok)
    for n <- 1..100, do: assert_receive({^n, {:in, ^n}, []})
    assert for(_ <- 1..100, do: receive(do: ({:in, n} -> n))) == Enum.to_list(1..100)
  end

  test "who comes later does not overtake" do
    {lb, ticket} = full()
    :erlang.suspend_process(waiter = caller(lb, :waiter))
    :ok = GrpcLb.complete(ticket, :ok)
    assert GrpcLb.checkout(lb) == {:error, :overloaded}
    later = spawn_link(fn -> GrpcLb.run(lb, fn :a -> Process.sleep(:infinity) end) end)
    waits(later)
    :erlang.resume_process(waiter)
    assert_receive {:waiter, :a, []}
  end

  test "who dies has left, also after it was told" do
    {lb, ticket} = full()
    first = caller(lb, :first)
    second = caller(lb, :second)
    caller(lb, :third)

    for pid <- [first, second], do: Process.unlink(pid)
    kill([second])
    :erlang.suspend_process(first)
    :ok = GrpcLb.complete(ticket, :ok)
    kill([first])
    assert_receive {:third, :a, []}
    refute_received {_first_or_second, _result, _messages}
  end

  test "a caller that waited long enough is refused, and has left" do
    {lb, ticket} = full(max_requests: 1, checkout_wait: 1)
    assert GrpcLb.run(lb, fn _value -> :called end) == {:error, :overloaded}
    assert mailbox() == []
    :ok = GrpcLb.complete(ticket, :ok)
    assert mailbox() == []
    assert {:ok, :a, _ticket} = GrpcLb.checkout(lb)
  end

  test "the next in line is told when the first gives up" do
    {lb, ticket} = full()
    {:ok, waiter, place, 60_000} = Native.line_up(lb)
    assert Native.checkout_in_turn(waiter, []) == {:error, :overloaded}
    caller(lb, :second)
    :ok = GrpcLb.complete(ticket, :ok)
    assert_received {:grpc_lb_room, ^place}
    assert Native.leave_line(waiter) == :ok
    assert_receive {:second, :a, []}
    assert Native.leave_line(waiter) == :ok
    assert Native.checkout_in_turn(waiter, []) == {:error, :overloaded}
  end

  test "a close lets all go" do
    {lb, _ticket} = full()
    for n <- 1..10, do: caller(lb, n)
    :ok = GrpcLb.close(lb)
    for n <- 1..10, do: assert_receive({^n, {:error, :closed}, []})
  end

  test "so does the death of the owner" do
    owner = spawn(Process, :sleep, [:infinity])
    {lb, _ticket} = full([owner: owner] ++ @limits)
    for n <- 1..10, do: caller(lb, n)
    kill([owner])
    for n <- 1..10, do: assert_receive({^n, {:error, :closed}, []})
  end

  test "a limit that is raised, and a backend that comes, let those in for whom there is room" do
    {lb, _ticket} = full()
    test = self()

    hold = fn value ->
      send(test, {:in, value})
      Process.sleep(:infinity)
    end

    for n <- 1..3, do: caller(lb, n, hold)
    assert GrpcLb.configure(lb, max_requests: 3) == {:ok, :changed}
    for _ <- 1..2, do: assert_receive({:in, :a})
    refute_received {:in, :a}

    {lb, _ticket} = full(max_requests_per_backend: 1, checkout_wait: 60_000)
    for n <- 1..2, do: caller(lb, n, hold)
    {:ok, _changes} = GrpcLb.add(lb, [:b])
    assert_receive {:in, :b}
    {:ok, _changes} = GrpcLb.reconcile(lb, [:a, :b, :c])
    assert_receive {:in, :c}
  end

  test "a call whose ticket is lost makes room, too" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], @limits)
    test = self()

    holder =
      spawn(fn ->
        send(test, {:held, elem(GrpcLb.checkout(lb), 1)})
        Process.sleep(:infinity)
      end)

    assert_receive {:held, :a}
    caller(lb, :waiter)
    kill([holder])
    assert_receive {:waiter, :a, []}
  end

  test "nobody waits where nothing can be picked" do
    {lb, ticket} = full()
    for n <- 1..2, do: caller(lb, n)
    {:ok, %{removed: 1}} = GrpcLb.remove(lb, [:a])
    :ok = GrpcLb.complete(ticket, :ok)
    for n <- 1..2, do: assert_receive({^n, {:error, :no_backends}, []})
    assert GrpcLb.run(lb, fn _value -> :called end) == {:error, :no_backends}
  end

  test "in pools, with run/3 and call/3", context do
    pool = context.test
    start_supervised!({Pool, [name: pool, drain_timeout: 0] ++ @limits})
    {:ok, agent} = Agent.start_link(fn -> 7 end)
    :ok = Pool.join(pool, agent)
    {:ok, ^agent, ticket} = Pool.checkout(pool)
    test = self()
    one = spawn_link(fn -> send(test, Pool.run(pool, fn ^agent -> :ran end)) end)
    waits(one)
    other = spawn_link(fn -> send(test, Pool.call(pool, {:get, fn n -> n end})) end)
    waits(other)
    :ok = GrpcLb.complete(ticket, :ok)
    assert_receive :ran
    assert_receive {:ok, 7}

    {:ok, ^agent, ticket} = Pool.checkout(pool)
    Process.put(ticket, :held)
    last = spawn_link(fn -> send(test, Pool.run(pool, fn ^agent -> :ran end)) end)
    waits(last)
    :ok = stop_supervised(Pool.child_spec(name: pool).id)
    assert_receive {:error, :not_running}
  end

  @tag :concurrency
  test "nothing is lost of many calls by many callers" do
    {:ok, lb} = GrpcLb.new(:least_request, [:a, :b, :c], max_requests: 4, checkout_wait: 60_000)
    inside = :atomics.new(1, [])

    one = fn _value ->
      in_flight = :atomics.add_get(inside, 1, 1)
      :erlang.yield()
      :atomics.sub(inside, 1, 1)
      in_flight
    end

    callers =
      for _ <- 1..32 do
        Task.async(fn ->
          counts = for _ <- 1..320, do: GrpcLb.run(lb, one)
          {counts, mailbox()}
        end)
      end

    for {counts, mailbox} <- Task.await_many(callers, :infinity) do
      assert Enum.all?(counts, &(&1 in 1..4))
      assert mailbox == []
    end

    assert Enum.sum(for(%{successes: n} <- GrpcLb.info(lb).backends, do: n)) == 32 * 320
    assert Enum.all?(GrpcLb.info(lb).backends, &(&1.in_flight == 0))
  end
end
