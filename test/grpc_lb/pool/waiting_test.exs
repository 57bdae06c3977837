defmodule GrpcLb.Pool.WaitingTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1]

  alias GrpcLb.Pool
  alias GrpcLb.Pool.Membership

  setup context do
    start_supervised!({Pool, name: context.test})
    %{pool: context.test}
  end

  defp waiting(pool, n) do
    {GrpcLb.Pool, _balancer, handle} = :persistent_term.get(pool)
    eventually(fn -> map_size(:sys.get_state(handle.waiters).refs) == n end)
  end

  for {name, call} <- [
        pick: quote(do: fn pool, opts -> Pool.pick(pool, nil, opts) end),
        "pick with a key": quote(do: fn pool, opts -> Pool.pick(pool, "key", opts) end),
        checkout:
          quote(
            do: fn pool, opts ->
              with {:ok, value, ticket} <- Pool.checkout(pool, nil, opts) do
                GrpcLb.complete(ticket, :ok)
                {:ok, value}
              end
            end
          ),
        run: quote(do: fn pool, opts -> Pool.run(pool, &{:ok, &1}, opts) end)
      ] do
    describe "#{name} with wait_for_ready" do
      test "waits until there is a member", %{pool: pool} do
        call = unquote(call)
        task = Task.async(fn -> call.(pool, wait_for_ready: :infinity) end)
        waiting(pool, 1)
        Pool.join(pool, value: 1)
        assert Task.await(task) == {:ok, 1}
        waiting(pool, 0)
        # With a member there is nothing to wait for.
        assert call.(pool, wait_for_ready: 0) == {:ok, 1}
      end

      test "waits so long and no longer, and by default not at all", %{pool: pool} do
        assert unquote(call).(pool, wait_for_ready: 20) == {:error, :no_backends}

        for wait <- [0, false],
            do: assert(unquote(call).(pool, wait_for_ready: wait) == {:error, :no_backends})

        assert unquote(call).(pool, []) == {:error, :no_backends}
        waiting(pool, 0)
      end

      test "says when the pool stops meanwhile", %{pool: pool} do
        call = unquote(call)
        task = Task.async(fn -> call.(pool, wait_for_ready: :infinity) end)
        waiting(pool, 1)
        stop_supervised!({Pool, pool})
        assert Task.await(task) == {:error, :not_running}
        assert call.(pool, wait_for_ready: :infinity) == {:error, :not_running}
      end
    end
  end

  test "who came first is served first, and who died leaves nothing", %{pool: pool} do
    test = self()

    pids =
      for i <- 1..50 do
        pid =
          spawn(fn ->
            {:ok, turn} = Pool.pick(pool, nil, wait_for_ready: :infinity)
            send(test, {:served, turn, i})
          end)

        waiting(pool, i)
        pid
      end

    kill(for {pid, i} <- Enum.with_index(pids, 1), rem(i, 2) == 0, do: pid)
    waiting(pool, 25)
    # All at once, so that the value of each, in a rotation, says whose turn it was.
    {:ok, handle} = Pool.Handle.fetch(pool)
    members = for turn <- 1..25, do: {idle(), turn, 1}
    {:ok, %{added: 25}} = Membership.add_remote(handle, members)

    served =
      for _ <- 1..25 do
        assert_receive {:served, turn, i}
        {turn, i}
      end

    assert Enum.sort(served) == Enum.zip(1..25, 1..50//2)
    kill(for {member, _turn, _weight} <- members, do: member)
  end

  test "who waits and then finds no room waits in line for that", context do
    pool = :"#{context.test} of one"
    start_supervised!({Pool, name: pool, max_requests: 1, checkout_wait: 30_000}, id: :second)
    test = self()

    call = fn ->
      run = fn value ->
        send(test, {:calling, self()})
        receive(do: (:go_on -> {:ok, value}))
      end

      Pool.run(pool, run, wait_for_ready: :infinity)
    end

    tasks = for _ <- 1..3, do: Task.async(call)
    waiting(pool, 3)
    Pool.join(pool, value: 1)

    for _ <- 1..3 do
      assert_receive {:calling, pid}
      refute_received {:calling, _another}
      send(pid, :go_on)
    end

    assert Task.await_many(tasks) == List.duplicate({:ok, 1}, 3)
  end

  test "the option is refused where it is wrong", %{pool: pool} do
    opts = [wait_for_ready: true]

    assert_raise ArgumentError, ~r/:wait_for_ready of pick\/3 must be/, fn ->
      Pool.pick(pool, nil, opts)
    end

    assert_raise ArgumentError, ~r/:wait_for_ready of checkout\/3/, fn ->
      Pool.checkout(pool, nil, opts)
    end

    assert_raise ArgumentError, ~r/:wait_for_ready of run\/3 must be/, fn ->
      Pool.run(pool, & &1, opts)
    end
  end
end
