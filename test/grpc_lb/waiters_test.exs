defmodule GrpcLb.WaitersTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Waiters

  setup do
    waiters = Waiters.start()
    # Nothing is there until something is added.
    there = :counters.new(1, [])
    %{waiters: waiters, there: there, until: &until(there, &1)}
  end

  # An attempt that succeeds when there are `n`.
  defp until(there, n), do: fn -> if :counters.get(there, 1) >= n, do: {:ok, n}, else: :wait end

  defp await(%{waiters: waiters, until: until}, n) do
    Task.async(fn -> Waiters.await(waiters, n, :infinity, until.(n)) end)
  end

  defp waiting(waiters), do: map_size(:sys.get_state(waiters).refs)
  defp waiting(waiters, n), do: eventually(fn -> waiting(waiters) == n end)

  defp add(%{waiters: waiters, there: there}, n) do
    :counters.add(there, 1, n)
    Waiters.notify(waiters, :counters.get(there, 1))
  end

  test "only those wake up for whom there are enough", context do
    test = self()

    attempt = fn ->
      send(test, :tried)
      context.until.(3).()
    end

    one = await(context, 1)
    three = Task.async(fn -> Waiters.await(context.waiters, 3, :infinity, attempt) end)
    # As it came.
    assert_receive :tried
    waiting(context.waiters, 2)
    add(context, 2)
    assert Task.await(one) == {:ok, 1}
    waiting(context.waiters, 1)
    add(context, 1)
    assert Task.await(three) == {:ok, 3}
    # Whoever is told tries.
    assert_received :tried
    refute_received :tried
  end

  test "they try in the order in which they came, one at a time", context do
    test = self()
    n = 10_000

    for i <- 1..n do
      # Each is in line before the next comes.
      spawn_link(fn ->
        attempt = fn ->
          # Two at a time would find each other here.
          trying = :counters.get(context.there, 1)

          if trying == 0 do
            send(test, {:waits, i})
            :wait
          else
            :counters.sub(context.there, 1, 1)
            send(test, {:served, i})
            if trying == 1, do: send(test, :last)
            :counters.add(context.there, 1, 1)
            :served
          end
        end

        Waiters.await(context.waiters, 1, :infinity, attempt)
      end)

      assert_receive {:waits, ^i}
    end

    waiting(context.waiters, n)
    :counters.add(context.there, 1, 1)
    Waiters.notify(context.waiters, 1)
    assert served(n) == Enum.to_list(1..n)
    waiting(context.waiters, 0)
  end

  defp served(0), do: []

  defp served(n) do
    assert_receive {:served, i}
    [i | served(n - 1)]
  end

  test "what is added while they try is not missed", context do
    test = self()

    attempt = fn ->
      send(test, {:trying, self()})
      receive(do: ({:answer, answer} -> answer))
    end

    answer = fn waiter, answer ->
      assert_receive {:trying, ^waiter}
      send(waiter, {:answer, answer})
    end

    [one, two] =
      for _ <- 1..2 do
        task = Task.async(fn -> Waiters.await(context.waiters, 1, :infinity, attempt) end)
        # As they come.
        answer.(task.pid, :wait)
        task
      end

    waiting(context.waiters, 2)
    Waiters.notify(context.waiters, 1)
    answer.(one.pid, :wait)
    # It is the turn of the other, and the first is behind.
    assert_receive {:trying, waiter}
    assert waiter == two.pid
    Waiters.notify(context.waiters, 1)
    send(waiter, {:answer, :wait})
    for task <- [one, two], do: answer.(task.pid, :served)
    assert Task.await(one) == :served
    assert Task.await(two) == :served
  end

  test "the turn of one who still tries as it came is not over before it has tried in turn",
       context do
    test = self()

    attempt = fn ->
      send(test, {:trying, self()})
      receive(do: ({:answer, answer} -> answer))
    end

    [one, two] =
      for _ <- 1..2 do
        task = Task.async(fn -> Waiters.await(context.waiters, 1, :infinity, attempt) end)
        assert_receive {:trying, pid}
        assert pid == task.pid
        task
      end

    send(two.pid, {:answer, :wait})
    Waiters.notify(context.waiters, 1)
    send(one.pid, {:answer, :wait})
    assert_receive {:trying, pid}
    assert pid == one.pid
    # Its first try has not ended the turn.
    assert %{turn: %{place: 1}} = :sys.get_state(context.waiters)
    send(one.pid, {:answer, :served})
    assert_receive {:trying, pid}
    assert pid == two.pid
    send(two.pid, {:answer, :served})
    assert Task.await_many([one, two]) == [:served, :served]
  end

  test "one that is killed while it waits leaves nothing, and while it tries holds up nobody",
       context do
    test = self()

    hang = fn ->
      there = :counters.get(context.there, 1)
      send(test, {:trying, self()})
      if there == 0, do: :wait, else: Process.sleep(:infinity)
    end

    [one, hanging] =
      for _ <- 1..2 do
        waiter = spawn(fn -> Waiters.await(context.waiters, 1, :infinity, hang) end)
        assert_receive {:trying, ^waiter}
        waiter
      end

    kill([one])
    waiting(context.waiters, 1)
    last = await(context, 1)
    waiting(context.waiters, 2)
    add(context, 1)
    assert_receive {:trying, ^hanging}
    kill([hanging])
    assert Task.await(last) == {:ok, 1}
    waiting(context.waiters, 0)
  end

  test "each tries once when it stands in line, and once when its time is over", context do
    test = self()
    assert Waiters.await(context.waiters, 1, :infinity, fn -> :found end) == :found

    # While others who are ahead of it have their turn it does not try as it comes.
    hang = fn ->
      send(test, :hanging)
      Process.sleep(:infinity)
    end

    hanging = spawn(fn -> Waiters.await(context.waiters, 1, :infinity, hang) end)
    assert_receive :hanging
    Waiters.notify(context.waiters, 1)

    attempt = fn ->
      send(test, :tried)
      :wait
    end

    assert Waiters.await(context.waiters, 1, 20, attempt) == {:error, :timeout}
    assert_received :tried
    refute_received :tried
    assert Waiters.await(context.waiters, 1, 0, fn -> :found end) == :found
    kill([hanging])
    waiting(context.waiters, 0)
  end

  test "one that raises leaves nothing", context do
    assert_raise RuntimeError, fn ->
      Waiters.await(context.waiters, 1, :infinity, fn -> raise "no" end)
    end

    waiting(context.waiters, 0)
  end

  test "all are told when the holder ends, whatever it ends with" do
    for reason <- [:normal, :shutdown, :kill] do
      test = self()

      holder =
        spawn(fn ->
          send(test, {:waiters, Waiters.start()})
          receive(do: (:end -> exit(reason)))
        end)

      assert_receive {:waiters, waiters}
      task = Task.async(fn -> Waiters.await(waiters, 1, :infinity, fn -> :wait end) end)
      waiting(waiters, 1)
      if reason == :kill, do: kill([holder]), else: send(holder, :end)
      assert Task.await(task) == {:error, :not_running}
      assert Waiters.await(waiters, 1, :infinity, fn -> :wait end) == {:error, :not_running}
    end
  end
end
