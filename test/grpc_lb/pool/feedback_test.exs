defmodule GrpcLb.Pool.FeedbackTest do
  # What pools know of the calls that their members are picked for.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1, together: 2]

  alias GrpcLb.Pool
  alias GrpcLb.Test.PoolWorker

  @moduletag :capture_log

  setup context do
    %{pool: context.test}
  end

  defp start_pool!(pool, opts \\ []), do: start_supervised!({Pool, [name: pool] ++ opts})

  # Members that are values, each with a process of its own.
  defp join!(pool, values) do
    for value <- values, do: :ok = Pool.join(pool, idle(), value: value)
  end

  defp member(pool, value) do
    %{members: members} = Pool.info(pool)
    Enum.find(members, &(&1.value == value))
  end

  defp counts(pool, value) do
    member = member(pool, value)
    {member.successes, member.failures, member.in_flight}
  end

  # Holds calls to this member until `n` are in flight there.
  defp hold(_pool, _value, 0), do: []

  defp hold(pool, value, n) do
    {:ok, picked, ticket} = Pool.checkout(pool)

    if picked == value do
      [ticket | hold(pool, value, n - 1)]
    else
      GrpcLb.complete(ticket, :cancelled)
      hold(pool, value, n)
    end
  end

  describe "checkout/1" do
    test "counts a call as in flight until it is completed", %{pool: pool} do
      start_pool!(pool)
      assert Pool.checkout(pool) == {:error, :no_backends}
      join!(pool, [:a])
      assert {:ok, :a, ticket} = Pool.checkout(pool)
      assert counts(pool, :a) == {0, 0, 1}
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert counts(pool, :a) == {1, 0, 0}
      assert is_integer(member(pool, :a).latency_ns)
      assert {:ok, :a, ticket} = Pool.checkout(pool, :key)
      assert GrpcLb.complete(ticket, {:error, :down}) == :ok
      assert GrpcLb.complete(ticket, :ok) == {:error, :already_completed}
      assert counts(pool, :a) == {1, 1, 0}
    end

    test "of a member that leaves meanwhile can be completed", %{pool: pool} do
      # Not under a supervisor, which would start it again.
      {:ok, _supervisor} = Pool.start_link(name: pool, drain_timeout: 0)
      :ok = Pool.join(pool, value: :a)
      {:ok, :a, ticket} = Pool.checkout(pool)
      :ok = Pool.leave(pool)
      assert Pool.checkout(pool) == {:error, :no_backends}
      assert GrpcLb.complete(ticket, :ok) == :ok
      :ok = Pool.join(pool, value: :a)
      {:ok, :a, ticket} = Pool.checkout(pool)
      :ok = Pool.stop(pool)
      assert Pool.checkout(pool) == {:error, :not_running}
      assert GrpcLb.complete(ticket, :ok) == :ok
    end

    test "is refused where the pool is not given by its name" do
      assert_raise ArgumentError, ~r/by its name/, fn -> apply(Pool, :checkout, ["pool"]) end
      assert_raise ArgumentError, ~r/by its name/, fn -> apply(Pool, :checkout, ["pool", 1]) end
    end
  end

  describe "run/3" do
    test "tells how calls went", %{pool: pool} do
      start_pool!(pool)
      join!(pool, [:a])

      for result <- [:ok, {:ok, 1}, nil, {:no, :error}] do
        assert Pool.run(pool, fn :a -> result end) == result
      end

      assert counts(pool, :a) == {4, 0, 0}

      for result <- [:error, {:error, 1}, {:error, 1, 2}] do
        assert Pool.run(pool, fn :a -> result end) == result
      end

      assert catch_error(Pool.run(pool, fn :a -> raise "mine" end)) == %RuntimeError{
               message: "mine"
             }

      assert catch_exit(Pool.run(pool, fn :a -> exit(:mine) end)) == :mine
      assert catch_throw(Pool.run(pool, fn :a -> throw(:mine) end)) == :mine
      assert counts(pool, :a) == {4, 6, 0}
    end

    test "takes the options of GrpcLb.run/3", %{pool: pool} do
      weights = {:weighted_round_robin, weights: :reported, blackout_period: 0}
      start_pool!(pool, policy: weights)
      join!(pool, [:a])
      report = fn {:load, load} -> %{rps_fractional: 100, application_utilization: load} end

      assert Pool.run(pool, fn :a -> {:load, 0.5} end, load_report: report, key: 1) ==
               {:load, 0.5}

      eventually(fn -> member(pool, :a).current_weight == 200.0 end)
      assert Pool.run(pool, fn :a -> :fine end, outcome: fn :fine -> :cancelled end) == :fine
      assert counts(pool, :a) == {1, 0, 0}

      for {opts, message} <- [
            {[outcome: :ok], ~r/option :outcome of run\/3 must be a function of one argument/},
            {[retries: 1], ~r/unknown option :retries of run\/3/},
            {:opts, ~r/options of run\/3 must be a keyword list, got: :opts/}
          ] do
        assert_raise ArgumentError, message, fn ->
          apply(Pool, :run, [pool, fn _ -> flunk("called") end, opts])
        end
      end
    end

    test "leaves nothing in flight when its process is killed", %{pool: pool} do
      start_pool!(pool)
      join!(pool, [:a])
      test = self()

      callers =
        for _ <- 1..20 do
          spawn(fn ->
            Pool.run(pool, fn :a ->
              send(test, :calling)
              Process.sleep(:infinity)
            end)
          end)
        end

      for _ <- callers, do: assert_receive(:calling, 10_000)
      assert counts(pool, :a) == {0, 0, 20}
      kill(callers)
      eventually(fn -> counts(pool, :a) == {0, 0, 0} end)
    end
  end

  describe "call/3" do
    test "tells how calls went", %{pool: pool} do
      start_pool!(pool)
      member = PoolWorker.start_member(pool)

      for {reply, answer} <- [{:ok, {:ok, :ok}}, {{:ok, 1}, {:ok, 1}}, {nil, {:ok, nil}}] do
        assert Pool.call(pool, {:echo, reply}) == answer
      end

      assert counts(pool, member) == {3, 0, 0}

      for {reply, answer} <- [{:error, {:ok, :error}}, {{:error, :full}, {:error, :full}}] do
        assert Pool.call(pool, {:echo, reply}) == answer
      end

      assert {:error, {:exit, {:timeout, _call}}} = Pool.call(pool, {:hang, self()}, 10)
      assert counts(pool, member) == {3, 3, 0}
    end

    test "counts a member that it found dead as one that failed", %{pool: pool} do
      start_pool!(pool, max_requests: 1)
      ghost = idle()
      kill([ghost])
      join!(pool, [ghost])
      member = PoolWorker.start_member(pool)
      # Passed over with one call allowed: the first has been completed before the second.
      for _ <- 1..2, do: assert(Pool.call(pool, :who) == {:ok, member})
      {successes, failures, in_flight} = counts(pool, ghost)
      assert {successes, in_flight} == {0, 0} and failures in 1..2
      assert counts(pool, member) == {2, 0, 0}
    end

    test "says that the pool is overloaded", %{pool: pool} do
      start_pool!(pool, max_requests_per_backend: 1)
      member = PoolWorker.start_member(pool)
      test = self()
      caller = Task.async(fn -> Pool.call(pool, {:hang, test}, :infinity) end)
      assert_receive {:reached, ^member}, 10_000
      assert Pool.call(pool, :who) == {:error, :overloaded}
      assert Pool.run(pool, fn _ -> flunk("called") end) == {:error, :overloaded}
      # It is not a limit of picks.
      assert Pool.pick(pool) == {:ok, member}
      Task.shutdown(caller, :brutal_kill)
      eventually(fn -> Pool.call(pool, :who) == {:ok, member} end)
    end

    test "completes the call when it raises", %{pool: pool} do
      start_pool!(pool)
      join!(pool, [{:not, :a, :server}])
      assert_raise ArgumentError, ~r/must be a server/, fn -> Pool.call(pool, :who) end
      assert counts(pool, {:not, :a, :server}) == {0, 1, 0}
    end
  end

  describe "policies and options that look at calls" do
    test "least_request spares who is busy", %{pool: pool} do
      start_pool!(pool, policy: :least_request)
      join!(pool, [:busy, :free])
      [ticket] = hold(pool, :busy, 1)
      assert Enum.all?(1..400, fn _ -> Pool.run(pool, & &1) == :free end)
      :ok = GrpcLb.complete(ticket, :ok)
    end

    test "peak_ewma spares who fails", %{pool: pool} do
      start_pool!(pool, policy: :peak_ewma)
      join!(pool, [:bad, :good])
      call = fn value -> if value == :bad, do: {:error, :bad}, else: {:ok, value} end
      results = for _ <- 1..400, do: Pool.run(pool, call)
      # As above, once it has failed for the first time.
      assert Enum.count(results, &(&1 == {:error, :bad})) < 150
    end

    test "outlier detection takes out who fails", %{pool: pool} do
      start_pool!(pool,
        outlier_detection: [consecutive_failures: 3, base_ejection_time: 3_600_000]
      )

      [bad, good | _] = PoolWorker.start_members(pool, 4)
      call = fn pid -> if pid == bad, do: {:error, :bad}, else: {:ok, pid} end
      for _ <- 1..12, do: Pool.run(pool, call)
      eventually(fn -> member(pool, bad).times_ejected == 1 end)
      assert is_integer(member(pool, bad).ejected_until)
      assert member(pool, good).ejected_until == nil
      for _ <- 1..12, do: assert({:ok, _pid} = Pool.run(pool, call))
      refute {:ok, bad} in for(_ <- 1..12, do: Pool.pick(pool))
      # It is still a member.
      assert {:ok, [_, _, _, _]} = Pool.members(pool)
      assert Pool.await_members(pool, 4, 0) == :ok
    end

    test "in a panic those that are out are picked all the same", %{pool: pool} do
      detection = [
        consecutive_failures: 1,
        base_ejection_time: 3_600_000,
        max_ejection_percent: 100
      ]

      for {threshold, picked} <- [{0, [:b]}, {51, [:a, :b]}] do
        name = :"#{pool} #{threshold}"
        opts = [outlier_detection: detection, panic_threshold: threshold]
        start_supervised!({Pool, [name: name] ++ opts})
        join!(name, [:a, :b])
        for _ <- 1..2, do: Pool.run(name, &if(&1 == :a, do: :error))
        eventually(fn -> member(name, :a).times_ejected == 1 end)
        picks = for _ <- 1..10, do: Pool.pick!(name)
        assert picks |> Enum.uniq() |> Enum.sort() == picked
      end
    end

    test "slow start shows in the weights", %{pool: pool} do
      start_pool!(pool, policy: :random, slow_start: [window: 3_600_000])
      :ok = Pool.join(pool, value: :a, weight: 100)
      assert {:ok, [%{weight: 100}]} = Pool.members(pool)
      assert member(pool, :a).current_weight < 100
    end

    # What other nodes are told, by a feed that has begun since `member` joined.
    defp told_after_kill(pool, part, member) do
      {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
      before = Process.whereis(entry.feed)
      kill([Process.whereis(Map.fetch!(entry, part))])
      eventually(fn -> Process.whereis(entry.feed) not in [nil, before] end)
      _state = :sys.get_state(entry.feed)
      for {^member, _value, weight} <- :pg.which_groups(entry.scope), do: weight
    end

    test "slow start does not change what other nodes are told", %{pool: pool} do
      for {window, part} <- [{3_600_000, :feed}, {1, :feed}, {1, :scope}] do
        name = :"#{pool} #{window} #{part}"
        opts = [policy: :random, slow_start: [window: window]]
        start_supervised!({Pool, [name: name, scope: :cluster] ++ opts})
        :ok = Pool.join(name, value: :a, weight: 100)
        weight = fn -> member(name, :a).current_weight end

        if window == 1,
          do: eventually(fn -> weight.() == 100.0 end),
          else: assert(weight.() < 100)

        assert told_after_kill(name, part, self()) == [100]
      end
    end

    test "outlive the process that keeps the balancer", %{pool: pool} do
      start_pool!(pool, policy: :least_request, max_requests: 0)
      {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
      kill([entry.holder])

      eventually(fn ->
        Pool.join(pool) == :ok and Pool.checkout(pool) == {:error, :overloaded}
      end)

      info = Pool.info(pool)
      assert info.policy == :least_request
    end

    @tag :concurrency
    test "a limit holds for all callers together", %{pool: pool} do
      for limit <- [[max_requests: 3], [max_requests_per_backend: 1]] do
        name = :"#{pool} #{inspect(limit)}"
        start_supervised!({Pool, [name: name] ++ limit})
        join!(name, [:a, :b, :c])
        running = :atomics.new(1, [])

        call = fn _value ->
          most = :atomics.add_get(running, 1, 1)
          :atomics.sub(running, 1, 1)
          {:ok, most}
        end

        results = together(8, fn _ -> for(_ <- 1..2_000, do: Pool.run(name, call)) end)
        for result <- List.flatten(results), {:ok, most} <- [result], do: assert(most <= 3)

        assert Enum.all?(
                 List.flatten(results),
                 &(match?({:ok, _}, &1) or &1 == {:error, :overloaded})
               )

        for value <- [:a, :b, :c], do: assert(member(name, value).in_flight == 0)
      end
    end
  end

  describe "configure/2" do
    test "changes what calls meet, and forgets nothing of the members", %{pool: pool} do
      start_pool!(pool, policy: :least_request, max_requests: 1)
      join!(pool, [:a])
      {:ok, :a, ticket} = Pool.checkout(pool)
      assert Pool.checkout(pool) == {:error, :overloaded}
      assert Pool.configure(pool, max_requests: 2) == {:ok, :changed}
      assert Pool.configure(pool, max_requests: 2) == {:ok, :unchanged}
      assert counts(pool, :a) == {0, 0, 1}
      {:ok, :a, other} = Pool.checkout(pool)
      assert Pool.checkout(pool) == {:error, :overloaded}
      for ticket <- [ticket, other], do: :ok = GrpcLb.complete(ticket, :ok)
      assert counts(pool, :a) == {2, 0, 0}
    end

    test "refuses what is wrong, and changes nothing", %{pool: pool} do
      start_pool!(pool, policy: {:weighted_round_robin, weights: :reported}, max_requests: 0)
      join!(pool, [:a])

      for {opts, message} <- [
            {[max_requests: -1], ~r/option :max_requests must be/},
            {[max_requests: 5, nonsense: 1], ~r/unknown option :nonsense/},
            {[policy: :random, max_requests: 5],
             ~r/option :policy must be :weighted_round_robin/},
            {[
               policy: {:weighted_round_robin, weights: :reported, reports: :out_of_band},
               max_requests: 5
             ], ~r/must be :per_call in a pool/},
            {:max_requests, ~r/must be a keyword list/}
          ] do
        assert_raise ArgumentError, message, fn -> Pool.configure(pool, opts) end
      end

      assert Pool.checkout(pool) == {:error, :overloaded}
      assert_raise ArgumentError, ~r/by its name/, fn -> Pool.configure("pool", []) end
      assert Pool.configure(:nobody, max_requests: 1) == {:error, :not_running}
    end
  end
end
