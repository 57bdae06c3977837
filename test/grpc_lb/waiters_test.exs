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
    one = await(context, 1)
    three = await(context, 3)
    waiting(context.waiters, 2)
    # Whoever is not told cannot wake up.
    :erlang.trace(three.pid, true, [:receive])
    add(context, 2)
    assert Task.await(one) == {:ok, 1}
    waiting(context.waiters, 1)
    add(context, 1)
    assert Task.await(three) == {:ok, 3}
    delivered = :erlang.trace_delivered(three.pid)
    assert_receive {:trace_delivered, _three, ^delivered}
    assert_received {:trace, _three, :receive, {_ref, :try}}
    refute_received {:trace, _three, :receive, {_ref, :try}}
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

  test "one that is killed while it waits leaves nothing, and while it tries holds up nobody",
       context do
    test = self()

    hang = fn ->
      send(test, {:trying, self()})
      if :counters.get(context.there, 1) == 0, do: :wait, else: Process.sleep(:infinity)
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

    attempt = fn ->
      send(test, :tried)
      :wait
    end

    assert Waiters.await(context.waiters, 1, 20, attempt) == {:error, :timeout}
    assert_received :tried
    assert_received :tried
    assert Waiters.await(context.waiters, 1, 0, fn -> :found end) == :found
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
