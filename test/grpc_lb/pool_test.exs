defmodule GrpcLb.PoolTest do
  use ExUnit.Case, async: true

  @moduletag :capture_log

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1, together: 2, picking_during: 4]

  alias GrpcLb.Pool
  alias GrpcLb.Pool.Membership
  alias GrpcLb.Test.PoolWorker

  doctest GrpcLb.Pool

  setup context do
    %{pool: context.test}
  end

  defp start_pool!(pool, opts \\ []) do
    start_supervised!({Pool, [name: pool] ++ opts})
  end

  defp values(pool) do
    {:ok, members} = Pool.members(pool)
    Enum.map(members, & &1.value)
  end

  defp pids(pool) do
    {:ok, members} = Pool.members(pool)
    Enum.map(members, & &1.pid)
  end

  # In the external term format: NEW_PID_EXT, with a creation that is no node's here.
  defp remote_pid(node) do
    name = Atom.to_string(node)
    :erlang.binary_to_term(<<131, 88, 119, byte_size(name), name::binary, 50::32, 0::32, 7::32>>)
  end

  # Looks through picks alone: reading the members would make the balancer act on deaths.
  defp picked(pool, n), do: for(_ <- 1..n, {:ok, value} = Pool.pick(pool), uniq: true, do: value)

  test "interns what members stand for where that is wanted", %{pool: pool} do
    start_pool!(pool, values: :interned)
    value = Enum.to_list(1..100)
    :ok = Pool.join(pool, idle(), value: value)
    [{:ok, ^value = one}, {:ok, other}] = [Pool.pick(pool), Pool.pick(pool)]
    assert :erts_debug.same(one, other)
    assert values(pool) == [value]
  end

  describe "start_link/1" do
    test "the supervisor is registered under the pool's name", %{pool: pool} do
      supervisor = start_pool!(pool)
      assert Process.whereis(pool) == supervisor
      assert Pool.start_link(name: pool) == {:error, {:already_started, supervisor}}
    end

    test "the balancer has the pool's name", %{pool: pool} do
      start_pool!(pool)
      {:ok, %{balancer: balancer}} = GrpcLb.Pool.Handle.fetch(pool)
      assert %{name: ^pool} = GrpcLb.info(balancer)
    end

    test "who joins, leaves and dies is told", %{pool: pool} do
      GrpcLb.Test.Telemetry.attach_all()
      test = self()
      on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
      start_pool!(pool)
      {:ok, %{balancer: balancer}} = GrpcLb.Pool.Handle.fetch(pool)
      [a, b] = for _ <- 1..2, do: idle()

      told = fn event, measured, rest ->
        metadata = Map.merge(%{name: pool, balancer: balancer}, rest)
        assert_receive {:event, [:grpc_lb, :member, ^event], ^measured, ^metadata}
      end

      for pid <- [a, b] do
        :ok = Pool.join(pool, pid)
        told.(:joined, %{count: 1}, %{ids: [pid]})
      end

      # Nothing that is new.
      :ok = Pool.join(pool, a)
      :ok = Pool.leave(pool, a)
      told.(:left, %{count: 1}, %{ids: [a]})
      :ok = Pool.leave(pool, a)
      kill([b])
      told.(:died, %{}, %{id: b})
      refute_received {:event, [:grpc_lb, :member, _event], _measured, %{name: ^pool}}
    end

    test "workers join by themselves, each a child with an id of its own", %{pool: pool} do
      supervisor = start_pool!(pool, size: 3, worker: {PoolWorker, {pool, []}})

      {:workers, workers, :supervisor, _} =
        supervisor |> Supervisor.which_children() |> List.keyfind(:workers, 0)

      children = Supervisor.which_children(workers)

      assert Enum.sort(for({id, _, _, _} <- children, do: id)) ==
               for(i <- 1..3, do: {PoolWorker, i})

      assert Enum.sort(for({_, pid, _, _} <- children, do: pid)) == Enum.sort(pids(pool))
      assert Enum.sort(picked(pool, 3)) == Enum.sort(pids(pool))
    end

    test "a worker can be a map or a module", %{pool: pool} do
      worker = %{id: :mine, start: {PoolWorker, :start_link, [{pool, [value: :mapped]}]}}
      start_pool!(pool, size: 2, worker: worker)
      assert values(pool) == [:mapped, :mapped]
    end

    test "a pool never lists a worker that has not joined", %{pool: pool} do
      start_pool!(pool, size: 2, worker: {Agent, fn -> :not_a_member end})
      assert Pool.members(pool) == {:ok, []}
      assert Pool.pick(pool) == {:error, :no_backends}
    end

    test "a worker that cannot start fails the pool, and nothing is left", %{pool: pool} do
      Process.flag(:trap_exit, true)
      worker = %{id: :worker, start: {__MODULE__, :refuse, []}}

      assert {:error, {:shutdown, {:failed_to_start_child, :workers, _reason}}} =
               Pool.start_link(name: pool, size: 1, worker: worker)

      eventually(fn -> :persistent_term.get(pool, :none) == :none end)
      assert Pool.pick(pool) == {:error, :not_running}
      start_pool!(pool)
    end

    test "a name that is somebody else's key is refused and left alone", %{pool: pool} do
      :persistent_term.put(pool, :mine)
      on_exit(fn -> :persistent_term.erase(pool) end)

      assert_raise ArgumentError, ~r/:name .* :persistent_term .*#{inspect(pool)}/, fn ->
        Pool.start_link(name: pool)
      end

      assert :persistent_term.get(pool) == :mine
      assert Pool.pick(pool) == {:error, :not_running}
      assert Pool.stop(pool) == {:error, :not_running}
      assert Process.whereis(pool) == nil
    end

    test "the name's entry is written once", %{pool: pool} do
      start_pool!(pool)
      entry = :persistent_term.get(pool)
      members = PoolWorker.start_members(pool, 5)
      Enum.each(members, &Pool.leave(pool, &1))
      assert :erts_debug.same(entry, :persistent_term.get(pool))
    end
  end

  def refuse, do: {:error, :refused}

  describe "join and leave" do
    test "a member is picked from its join to its leave", %{pool: pool} do
      start_pool!(pool)
      assert Pool.join(pool) == :ok
      assert Pool.pick(pool) == {:ok, self()}
      assert Pool.leave(pool) == :ok
      assert Pool.pick(pool) == {:error, :no_backends}
      assert Pool.join(pool, value: :again) == :ok
      assert Pool.pick(pool) == {:ok, :again}
    end

    test "joining twice updates and never duplicates", %{pool: pool} do
      start_pool!(pool)
      [one, two] = [idle(), idle()]
      assert Pool.join(pool, one) == :ok
      assert Pool.join(pool, two, value: :two) == :ok
      assert Pool.join(pool, one, value: :one, weight: 7, value: 2, weight: 3) == :ok

      assert Pool.members(pool) ==
               {:ok, [%{pid: one, value: :one, weight: 7}, %{pid: two, value: :two, weight: 1}]}

      assert Pool.join(pool, one) == :ok
      assert Enum.sort(values(pool)) == Enum.sort([one, :two])
      kill([one, two])
    end

    test "counts stay with a member that joins again", %{pool: pool} do
      start_pool!(pool)
      Pool.join(pool, value: 1)
      for _ <- 1..5, do: Pool.pick(pool)
      Pool.join(pool, value: 2)
      Pool.pick(pool)
      assert %{members: [%{value: 2, picks: 6}]} = Pool.info(pool)
    end

    test "leave is idempotent, and touches nobody else", %{pool: pool} do
      start_pool!(pool)
      [member, stranger] = [idle(), idle()]
      Pool.join(pool, member)
      assert Pool.leave(pool, stranger) == :ok
      assert Pool.leave(pool, member) == :ok
      assert Pool.leave(pool, member) == :ok
      assert pids(pool) == []
      kill([member, stranger])
    end

    test "a member that dies has left, however it dies", %{pool: pool} do
      start_pool!(pool)

      for reason <- [:normal, :shutdown, :kill, :boom] do
        member =
          spawn(fn ->
            receive do
              :die -> exit(reason)
            end
          end)

        assert Pool.join(pool, member) == :ok
        send(member, :die)
        eventually(fn -> Pool.pick(pool) == {:error, :no_backends} end)
        assert pids(pool) == []
      end
    end

    test "a dead process does not join", %{pool: pool} do
      start_pool!(pool)
      dead = idle()
      kill([dead])
      assert Pool.join(pool, dead) == {:error, :noproc}
      assert pids(pool) == []
      assert Pool.leave(pool, dead) == :ok
    end

    test "nor does one of this node as it was before a restart", %{pool: pool} do
      earlier = remote_pid(node())
      assert node(earlier) == node() and not Process.alive?(earlier)

      for {scope, name} <- [node: pool, cluster: :"#{pool} cluster"] do
        {:ok, supervisor} = Pool.start_link(name: name, scope: scope)
        children = Supervisor.which_children(supervisor)
        assert Pool.join(name, earlier) == {:error, :noproc}
        assert Pool.leave(name, earlier) == :ok
        assert Pool.join(name) == :ok
        assert Supervisor.which_children(supervisor) == children
        Pool.stop(name)
      end
    end

    test "one process can be a member of several pools", %{pool: pool} do
      other = :"#{pool} other"
      start_pool!(pool)
      start_supervised!({Pool, name: other})
      Pool.join(pool, value: 1)
      Pool.join(other, value: 2)
      Pool.leave(pool)
      assert Pool.pick(pool) == {:error, :no_backends}
      assert Pool.pick(other) == {:ok, 2}
    end

    test "values and pids of any shape", %{pool: pool} do
      start_pool!(pool)

      for value <- [nil, 1.5, "text", %{a: [1]}, make_ref(), fn -> 1 end, {:error, :no_backends}] do
        Pool.join(pool, value: value)
        assert Pool.pick(pool) == {:ok, value}
      end
    end
  end

  describe "without a pool of that name" do
    test "everything says so", %{pool: pool} do
      for fun <- [
            &Pool.pick/1,
            &Pool.pick(&1, :key),
            &Pool.checkout/1,
            &Pool.checkout(&1, :key),
            &Pool.join/1,
            &Pool.join(&1, self()),
            &Pool.leave/1,
            &Pool.stop/1,
            &Pool.members/1,
            &Pool.broadcast(&1, :message),
            &Pool.call(&1, :request),
            &Pool.cast(&1, :request),
            &Pool.send_request(&1, :request),
            &Pool.run(&1, fn _ -> flunk("there is nothing to run on") end),
            &Pool.await_members(&1, 0, 1_000)
          ] do
        assert fun.(pool) == {:error, :not_running}
      end

      assert_raise ArgumentError, "there is no pool #{inspect(pool)}", fn -> Pool.info(pool) end

      error = catch_error(Pool.pick!(pool))
      assert error == %Pool.NoMembersError{pool: pool, reason: :not_running}
      assert Exception.message(error) == "pool #{inspect(pool)} is not running"
    end
  end

  describe "wrong arguments" do
    test "raise, say what is wrong, and change nothing", %{pool: pool} do
      start_pool!(pool)
      Pool.join(pool, value: 1)
      far = remote_pid(:far@nowhere)

      for {fun, args, message} <- [
            {:pick, ["MyPool"], ~r/a pool must be given by its name, an atom, got: "MyPool"/},
            {:pick, [{:via, Registry, :x}, :key], ~r/by its name/},
            {:members, [self()], ~r/by its name/},
            {:stop, [self()], ~r/by its name/},
            {:join, [1], ~r/by its name/},
            {:join, [pool, :opts], ~r/options of a member must be a keyword list, got: :opts/},
            {:join, [pool, [vlue: 2]],
             ~r/unknown option :vlue of a member, expected :value or :weight/},
            {:join, [pool, [value: 2, weight: -1]], ~r/:weight of a member must be .* got: -1/},
            {:join, [pool, [weight: 0x100000000]], ~r/:weight/},
            {:join, [pool, :me, []], ~r/pid must be a pid of this node .* got: :me/},
            {:join, [pool, far, []], ~r/pid must be a pid of this node/},
            {:leave, [pool, far], ~r/pid must be a pid of this node/},
            {:leave, [pool, nil], ~r/pid must be/},
            {:run, [pool, fn -> 1 end], ~r/fun must be a function of one argument/},
            {:call, [pool, :request, -1], ~r/timeout must be .* got: -1/},
            {:call, [pool, :request, nil], ~r/timeout must be/},
            {:await_members, [pool, -1, 10], ~r/n must be an integer from 0, got: -1/},
            {:await_members, [pool, 1, 0x100000000], ~r/timeout must be .* to 4294967295/},
            {:await_members, [pool, 1, 1.5], ~r/timeout must be/}
          ] do
        assert_raise ArgumentError, message, fn -> apply(Pool, fun, args) end
      end

      assert Pool.members(pool) == {:ok, [%{pid: self(), value: 1, weight: 1}]}
    end
  end

  describe "policies" do
    test "round_robin takes all in turn", %{pool: pool} do
      start_pool!(pool, policy: {:round_robin, start: :first})
      members = PoolWorker.start_members(pool, 4)
      assert for(_ <- 1..8, do: Pool.pick!(pool)) == members ++ members
    end

    test "pick_first takes the first until it leaves", %{pool: pool} do
      start_pool!(pool, policy: :pick_first)
      [first, second, third] = PoolWorker.start_members(pool, 3)
      assert picked(pool, 20) == [first]
      kill([first])
      eventually(fn -> picked(pool, 20) == [second] end)
      Pool.leave(pool, second)
      assert picked(pool, 20) == [third]
    end

    test "random takes any", %{pool: pool} do
      start_pool!(pool, policy: :random)
      members = PoolWorker.start_members(pool, 3)
      assert Enum.sort(picked(pool, 500)) == Enum.sort(members)
    end
  end

  describe "pick/2, pick!/1, run/2" do
    test "a key makes no difference to policies that do not hash", %{pool: pool} do
      start_pool!(pool)
      members = PoolWorker.start_members(pool, 2)
      assert for(_ <- 1..2, do: Pool.pick(pool, :same)) == for(m <- members, do: {:ok, m})
    end

    test "pick! returns the value or names the pool", %{pool: pool} do
      start_pool!(pool)
      error = catch_error(Pool.pick!(pool))
      assert error == %Pool.NoMembersError{pool: pool, reason: :no_backends}
      assert Exception.message(error) == "pool #{inspect(pool)} has no members"
      Pool.join(pool, value: :v)
      assert Pool.pick!(pool) == :v
    end

    test "run returns what fun returns, and lets it raise", %{pool: pool} do
      start_pool!(pool)
      assert Pool.run(pool, fn _ -> flunk("nobody to run on") end) == {:error, :no_backends}
      Pool.join(pool, value: 20)
      assert Pool.run(pool, &(&1 + 1)) == 21
      assert_raise RuntimeError, "mine", fn -> Pool.run(pool, fn _ -> raise "mine" end) end
    end
  end

  describe "call/3" do
    test "calls a member with its answer", %{pool: pool} do
      start_pool!(pool)
      assert Pool.call(pool, :who) == {:error, :no_backends}
      members = PoolWorker.start_members(pool, 3)
      answers = for _ <- 1..3, {:ok, pid} = Pool.call(pool, :who), do: pid
      assert Enum.sort(answers) == Enum.sort(members)
    end

    test "a value can be a name", %{pool: pool} do
      start_pool!(pool)
      name = :"#{pool} named"
      {:ok, _agent} = Agent.start_link(fn -> 5 end, name: name)
      Pool.join(pool, value: name)
      assert Pool.call(pool, {:get, & &1}) == {:ok, 5}
    end

    test "a value that is no server is refused, and counts as a failure", %{pool: pool} do
      start_pool!(pool)
      Pool.join(pool, value: "no server")
      message = ~r/the value of a member that is called must be a server, .* got: "no server"/
      assert_raise ArgumentError, message, fn -> Pool.call(pool, :who) end
    end

    # A member that is dead but listed: a member whose value is the pid of a dead process.
    defp start_haunted!(pool, n) do
      ghosts = for _ <- 1..n, do: idle()
      kill(ghosts)
      for ghost <- ghosts, do: Pool.join(pool, idle(), value: ghost)
      ghosts
    end

    test "passes one dead member over", %{pool: pool} do
      start_pool!(pool)
      start_haunted!(pool, 1)
      member = PoolWorker.start_member(pool)
      for _ <- 1..4, do: assert(Pool.call(pool, :who) == {:ok, member})
    end

    test "passes no more than one over, and says which was the second", %{pool: pool} do
      start_pool!(pool)
      [_first, second] = start_haunted!(pool, 2)
      PoolWorker.start_member(pool)

      assert Pool.call(pool, :who, 100) ==
               {:error, {:exit, {:noproc, {GenServer, :call, [second, :who, 100]}}}}
    end

    test "a call that times out is not made again", %{pool: pool} do
      start_pool!(pool)
      members = PoolWorker.start_members(pool, 2)
      request = {:hang, self()}

      assert {:error, {:exit, {:timeout, {GenServer, :call, [pid, ^request, 50]}}}} =
               Pool.call(pool, request, 50)

      # Who was called has heard of it by the time it answers.
      for member <- members, do: assert(GenServer.call(member, :who) == member)
      assert_received {:reached, ^pid}
      refute_received {:reached, _other}
    end

    test "a call whose member dies is not made again", %{pool: pool} do
      start_pool!(pool)
      PoolWorker.start_members(pool, 2)

      for reason <- [:normal, {:noproc, :nested}] do
        PoolWorker.start_member(pool)
        request = {:die, self(), reason}

        assert {:error, {:exit, {^reason, {GenServer, :call, [pid, ^request, 5_000]}}}} =
                 Pool.call(pool, request)

        assert_received {:reached, ^pid}
        refute_received {:reached, _other}
      end
    end

    test "passes the caller over", %{pool: pool} do
      start_pool!(pool, outlier_detection: [consecutive_failures: 1])
      Pool.join(pool)
      others = for n <- 1..2, do: elem(Agent.start_link(fn -> n end), 1)
      for pid <- others, do: Pool.join(pool, pid)

      answers = for _ <- 1..40, do: Pool.call(pool, {:get, fn n -> n end})
      assert Enum.frequencies(answers) == %{{:ok, 1} => 20, {:ok, 2} => 20}
      %{members: members} = Pool.info(pool)

      assert [{0, 0, 0, 0, nil}, {0, 20, 20, 0, nil}, {0, 20, 20, 0, nil}] ==
               for(
                 m <- members,
                 do: {m.in_flight, m.picks, m.successes, m.failures, m.ejected_until}
               )
    end

    test "finds no member where the caller is the only one", %{pool: pool} do
      start_pool!(pool)
      Pool.join(pool)
      assert Pool.call(pool, :who) == {:error, :no_backends}
      Process.register(self(), pool_name = :"#{pool} caller")
      Pool.join(pool, value: pool_name)
      assert Pool.call(pool, :who) == {:error, :no_backends}
      Pool.join(pool, value: {pool_name, node()})
      assert Pool.call(pool, :who) == {:error, :no_backends}
      # What run/3 makes of a member is up to the caller.
      assert Pool.run(pool, fn value -> value end) == {pool_name, node()}
      %{members: [%{in_flight: 0, failures: 0}]} = Pool.info(pool)
    end

    test "calls what a member stands for, who is not the caller", %{pool: pool} do
      start_pool!(pool)
      {:ok, agent} = Agent.start_link(fn -> 7 end)
      Pool.join(pool, value: agent)
      assert Pool.call(pool, {:get, fn n -> n end}) == {:ok, 7}
    end
  end

  describe "a member that leaves and joins again" do
    defp unstable(pool, opts) do
      detection = [consecutive_failures: 3, max_ejection_percent: 100]
      start_pool!(pool, [outlier_detection: detection] ++ opts)
      [bad | others] = for _ <- 1..4, do: idle()
      for {pid, n} <- Enum.with_index([bad | others]), do: :ok = Pool.join(pool, pid, value: n)
      bad
    end

    defp call_all(pool, n) do
      for _ <- 1..n do
        Pool.run(pool, fn
          0 -> {:error, :broken}
          value -> value
        end)
      end
    end

    defp member(pool, pid) do
      %{members: members} = Pool.info(pool)
      Enum.find(members, &(&1.pid == pid))
    end

    test "is what it was: ejected, and with all that was counted", %{pool: pool} do
      bad = unstable(pool, [])
      call_all(pool, 12)
      eventually(fn -> member(pool, bad).ejected_until end)
      {ejected_until, before} = Map.pop!(member(pool, bad), :ejected_until)

      for value <- [0, :another] do
        :ok = Pool.leave(pool, bad)
        refute member(pool, bad)
        :ok = Pool.join(pool, bad, value: value, weight: 2)
        {until, again} = Map.pop!(member(pool, bad), :ejected_until)
        # Time goes on, and the ejection was to last for half a minute.
        assert until in 1..ejected_until//1
        assert again == %{before | value: value, weight: 2, current_weight: 2.0}
      end

      refute {:error, :broken} in call_all(pool, 12)
    end

    test "has its failures in a row", %{pool: pool} do
      bad = unstable(pool, [])
      call_all(pool, 8)
      :ok = Pool.leave(pool, bad)
      :ok = Pool.join(pool, bad, value: 0)
      assert %{failures: 2, ejected_until: nil} = member(pool, bad)
      call_all(pool, 4)
      eventually(fn -> member(pool, bad).ejected_until end)
    end

    test "is forgotten at once where nothing is to be remembered", %{pool: pool} do
      bad = unstable(pool, remember: 0)
      call_all(pool, 12)
      eventually(fn -> member(pool, bad).ejected_until end)
      :ok = Pool.leave(pool, bad)
      :ok = Pool.join(pool, bad, value: 0)
      assert %{failures: 0, ejected_until: nil, times_ejected: 0} = member(pool, bad)
    end

    test "that is dead is forgotten with its pid", %{pool: pool} do
      start_pool!(pool)
      opts = [remember: 1_000]
      assert Pool.configure(pool, opts) == {:ok, :changed}
      assert Pool.configure(pool, opts) == {:ok, :unchanged}
      pids = for _ <- 1..10, do: idle()
      for pid <- pids, do: :ok = Pool.join(pool, pid)
      kill(pids)
      assert pids(pool) == []
    end
  end

  describe "broadcast/2" do
    test "reaches every member's process, whatever its value", %{pool: pool} do
      start_pool!(pool)
      assert Pool.broadcast(pool, :nobody) == :ok
      members = PoolWorker.start_members(pool, 3)
      valued = PoolWorker.start_member(pool, value: :not_a_pid)
      assert Pool.broadcast(pool, {:report_to, self()}) == :ok
      for pid <- [valued | members], do: assert_receive({:reported, ^pid}, 5_000)
      refute_received {:reported, _}
    end
  end

  describe "info/1" do
    test "says how the pool was made, and who its members are", %{pool: pool} do
      start_pool!(pool, policy: :random, size: 1, worker: {PoolWorker, {pool, [weight: 3]}})

      assert info = Pool.info(pool)
      assert [%{pid: pid, value: pid, weight: 3, picks: 0, in_flight: 0}] = info.members

      assert Map.delete(info, :members) == %{
               name: pool,
               policy: :random,
               scope: :node,
               local_share: nil,
               size: 1,
               layers: [
                 %{priority: 0, locality: nil, share: 1.0, backends: 1, healthy: 1, panics: false}
               ]
             }
    end
  end

  describe "workers" do
    test "can differ: one child spec for each", %{pool: pool} do
      start_pool!(pool,
        workers: for(value <- [:a, :b, :c], do: {PoolWorker, {pool, [value: value]}})
      )

      assert Pool.await_members(pool, 3) == :ok
      {:ok, members} = Pool.members(pool)
      assert members |> Enum.map(& &1.value) |> Enum.sort() == [:a, :b, :c]
      assert Pool.info(pool).size == 3

      # Each is started again as itself.
      [%{pid: pid, value: value} | _] = members
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 5_000

      eventually(fn ->
        {:ok, now} = Pool.members(pool)
        length(now) == 3 and Enum.any?(now, &(&1.value == value and &1.pid != pid))
      end)
    end

    test "can be none", %{pool: pool} do
      start_pool!(pool, workers: [])
      assert Pool.info(pool).size == 0
      assert Pool.pick(pool) == {:error, :no_backends}
    end
  end

  describe "cast/3" do
    test "sends to the member that is picked", %{pool: pool} do
      start_pool!(pool)
      {:ok, agent} = Agent.start_link(fn -> 1 end)
      Pool.join(pool, agent)
      for _ <- 1..3, do: assert(Pool.cast(pool, {:cast, &(&1 + 1)}) == :ok)
      assert Pool.cast(pool, {:cast, &(&1 + 1)}, key: "k") == :ok
      assert Agent.get(agent, & &1) == 5
      assert %{members: [%{picks: 4, in_flight: 0}]} = Pool.info(pool)
      assert_raise ArgumentError, ~r/:timeout/, fn -> Pool.cast(pool, :request, timeout: 1) end
    end
  end

  describe "send_request/3" do
    setup %{pool: pool} do
      start_pool!(pool)
      %{member: PoolWorker.start_member(pool)}
    end

    defp counts(pool) do
      %{members: [member]} = Pool.info(pool)
      {member.in_flight, member.successes, member.failures}
    end

    test "is in flight until the answer is received", %{pool: pool, member: member} do
      {:ok, request} = Pool.send_request(pool, :who)
      assert counts(pool) == {1, 0, 0}
      assert Pool.receive_response(request) == {:ok, member}
      assert counts(pool) == {0, 1, 0}
    end

    test "is named where its answer is asked of something else" do
      for other <- [:request, make_ref(), nil],
          ask <- [
            &Pool.receive_response/1,
            &Pool.receive_response(&1, 10),
            &Pool.check_response(:message, &1)
          ] do
        assert_raise ArgumentError,
                     ~r/^request must be what GrpcLb.Pool.send_request\/3 returned, got: /,
                     fn -> ask.(other) end
      end
    end

    test "answers without nesting", %{pool: pool} do
      for {reply, answer} <- [{{:ok, 1}, {:ok, 1}}, {{:error, 1}, {:error, 1}}, {nil, {:ok, nil}}] do
        {:ok, request} = Pool.send_request(pool, {:echo, reply})
        assert Pool.receive_response(request) == answer
        assert Pool.call(pool, {:echo, reply}) == answer
      end

      assert counts(pool) == {0, 4, 2}
    end

    test "finds its answer among messages", %{pool: pool, member: member} do
      {:ok, first} = Pool.send_request(pool, {:echo, 1})
      {:ok, second} = Pool.send_request(pool, :who, key: 7)
      assert Pool.check_response({:none, "of them"}, first) == :no_reply
      assert_receive message
      assert Pool.check_response(message, second) == :no_reply
      assert Pool.check_response(message, first) == {:ok, 1}
      assert counts(pool) == {1, 1, 0}
      assert_receive message
      assert Pool.check_response(message, second) == {:ok, member}
      assert counts(pool) == {0, 2, 0}
    end

    test "says that none came in time, and that the member died", %{pool: pool, member: member} do
      {:ok, late} = Pool.send_request(pool, {:hang, self()})
      assert Pool.receive_response(late, 10) == {:error, {:exit, :timeout}}
      assert counts(pool) == {0, 0, 1}

      {:ok, request} = Pool.send_request(pool, {:hang, self()})
      Process.exit(member, :kill)
      assert Pool.receive_response(request) == {:error, {:exit, :killed}}
      assert Pool.send_request(pool, :who) == {:error, :no_backends}
    end

    test "holds nothing when its sender dies", %{pool: pool} do
      {sender, monitor} =
        spawn_monitor(fn ->
          {:ok, _request} = Pool.send_request(pool, {:hang, self()})
          exit(:normal)
        end)

      assert_receive {:DOWN, ^monitor, :process, ^sender, :normal}, 5_000
      eventually(fn -> counts(pool) == {0, 0, 0} end)
    end

    test "raises for a value that is no server, and holds nothing", %{pool: pool, member: member} do
      Pool.leave(pool, member)
      Pool.join(pool, value: {:no, :server, :at_all})

      for call <- [&Pool.send_request(&1, :who), &Pool.cast(&1, :who), &Pool.call(&1, :who)] do
        assert_raise ArgumentError, ~r/must be a server/, fn -> call.(pool) end
      end

      assert {0, 0, _failed} = counts(pool)
    end
  end

  describe "await_members/3" do
    test "returns at once when they are there", %{pool: pool} do
      start_pool!(pool)
      assert Pool.await_members(pool, 0, 0) == :ok
      PoolWorker.start_members(pool, 2)
      assert Pool.await_members(pool, 2, 0) == :ok
      assert Pool.await_members(pool, 3, 0) == {:error, :timeout}
    end

    test "copies no member", %{pool: pool} do
      start_pool!(pool)
      Pool.join(pool, value: Enum.to_list(1..100_000))

      {waiter, ref} =
        :erlang.spawn_opt(
          fn -> exit(Pool.await_members(pool, 2, 0)) end,
          [:monitor, max_heap_size: %{size: 50_000, kill: true, error_logger: false}]
        )

      assert_receive {:DOWN, ^ref, :process, ^waiter, {:error, :timeout}}, 5_000
    end

    test "waits for the last of them", %{pool: pool} do
      start_pool!(pool)
      waiter = Task.async(fn -> Pool.await_members(pool, 3, :infinity) end)
      awaiting(pool, 1)
      PoolWorker.start_members(pool, 2)
      assert Task.yield(waiter, 50) == nil
      PoolWorker.start_member(pool)
      assert Task.await(waiter) == :ok
    end

    test "members here and elsewhere count together", %{pool: pool} do
      start_supervised!({Pool, name: pool, scope: :cluster, prefer: :local})
      {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
      waiter = Task.async(fn -> Pool.await_members(pool, 3, :infinity) end)
      awaiting(pool, 1)
      [first, second, elsewhere] = for _ <- 1..3, do: idle()
      Pool.join(pool, first)
      # As the feed does when it hears of one.
      {:ok, _} = Membership.add_remote(entry, [{elsewhere, :elsewhere, 1}])
      assert Task.yield(waiter, 50) == nil
      Pool.join(pool, second)
      assert Task.await(waiter) == :ok
      assert Pool.await_members(pool, 3, 0) == :ok
      assert Pool.await_members(pool, 4, 0) == {:error, :timeout}
      kill([first, second, elsewhere])
    end

    test "members that left or update do not count", %{pool: pool} do
      start_pool!(pool)
      waiter = Task.async(fn -> Pool.await_members(pool, 2, :infinity) end)
      awaiting(pool, 1)
      member = PoolWorker.start_member(pool)
      for n <- 1..5, do: Pool.join(pool, member, value: n)
      Pool.leave(pool, member)
      Pool.join(pool, member)
      assert Task.yield(waiter, 50) == nil
      Pool.join(pool)
      assert Task.await(waiter) == :ok
    end

    test "leaves nothing behind, however it ends", %{pool: pool} do
      start_pool!(pool)
      assert Pool.await_members(pool, 1, 1) == {:error, :timeout}
      awaiting(pool, 0)
      waiter = spawn(fn -> Pool.await_members(pool, 1, :infinity) end)
      awaiting(pool, 1)
      kill([waiter])
      Pool.join(pool)
      awaiting(pool, 0)
      assert Pool.await_members(pool, 1, 1_000) == :ok
      assert Process.info(self(), :messages) == {:messages, []}
      assert Process.info(self(), :monitors) == {:monitors, []}
    end

    test "says when the pool stops meanwhile", %{pool: pool} do
      start_pool!(pool)
      waiter = Task.async(fn -> Pool.await_members(pool, 1, :infinity) end)
      awaiting(pool, 1)
      stop_supervised!({Pool, pool})
      assert Task.await(waiter) == {:error, :not_running}
    end

    @tag :concurrency
    test "no join is missed, at whatever moment it comes", %{pool: pool} do
      start_pool!(pool)
      member = idle()

      for _ <- 1..500 do
        results =
          together(5, fn
            1 -> Pool.join(pool, member)
            _ -> Pool.await_members(pool, 1, 20_000)
          end)

        assert Enum.uniq(results) == [:ok]
        Pool.leave(pool, member)
      end

      kill([member])
    end

    @tag :concurrency
    test "many wait while many join", %{pool: pool} do
      start_pool!(pool)

      results =
        together(200, fn
          i when rem(i, 2) == 0 ->
            Pool.join(pool, idle())

          i ->
            Pool.await_members(pool, rem(i, 100), :infinity)
        end)

      assert Enum.uniq(results) == [:ok]
      awaiting(pool, 0)
      {:ok, members} = Pool.members(pool)
      kill(Enum.map(members, & &1.pid))
    end

    defp awaiting(pool, n) do
      {GrpcLb.Pool, _route, entry} = :persistent_term.get(pool)
      eventually(fn -> map_size(:sys.get_state(entry.waiters).refs) == n end)
    end
  end

  describe "stop/1 and names" do
    test "a name can be used again at once, for an empty pool", %{pool: pool} do
      for policy <- [:round_robin, :random, :pick_first] do
        {:ok, supervisor} = Pool.start_link(name: pool, policy: policy)
        assert Pool.pick(pool) == {:error, :no_backends}
        Pool.join(pool)
        assert %{policy: ^policy} = Pool.info(pool)
        assert Pool.stop(pool) == :ok
        refute Process.alive?(supervisor)
        assert :persistent_term.get(pool, :none) == :none
        assert Pool.pick(pool) == {:error, :not_running}
      end
    end

    test "a supervisor that stops the pool erases the name before it goes on", %{pool: pool} do
      for _ <- 1..20 do
        start_pool!(pool, size: 2, worker: {PoolWorker, {pool, []}})
        assert length(pids(pool)) == 2
        stop_supervised!({Pool, pool})
        assert :persistent_term.get(pool, :none) == :none
      end
    end

    test "picks say that the pool is not running before its workers end", %{pool: pool} do
      test = self()

      worker = %{
        id: :late,
        start: {Task, :start_link, [fn -> witness(pool, test) end]}
      }

      start_pool!(pool, size: 1, worker: worker)
      assert_receive :joined, 5_000
      stop_supervised!({Pool, pool})
      assert_receive {:at_the_end, {:error, :not_running}}, 5_000
    end

    defp witness(pool, test) do
      Process.flag(:trap_exit, true)
      Pool.join(pool)
      send(test, :joined)

      receive do
        {:EXIT, _supervisor, :shutdown} -> send(test, {:at_the_end, Pool.pick(pool)})
      end
    end
  end

  describe "many at once" do
    @describetag :concurrency

    test "ten thousand processes join at the same moment", %{pool: pool} do
      start_pool!(pool)
      results = together(10_000, fn i -> Pool.join(pool, idle(), value: i) end)

      assert Enum.uniq(results) == [:ok]
      assert Enum.sort(values(pool)) == Enum.to_list(1..10_000)
      assert length(picked(pool, 10_000)) == 10_000
      members = pids(pool)
      kill(members)
      eventually(fn -> Pool.pick(pool) == {:error, :no_backends} end)
      assert pids(pool) == []
    end

    test "a member is in or out once all that happens to it is over", %{pool: pool} do
      start_pool!(pool)
      members = for _ <- 1..20, do: idle()

      together(8, fn i ->
        for _ <- 1..50, member <- members do
          if rem(i, 2) == 0, do: Pool.join(pool, member), else: Pool.leave(pool, member)
        end
      end)

      Enum.each(members, &Pool.join(pool, &1))
      assert Enum.sort(pids(pool)) == Enum.sort(members)
      Enum.each(members, &Pool.leave(pool, &1))
      assert pids(pool) == []
      kill(members)
    end

    test "a member that dies while others join it is not listed", %{pool: pool} do
      start_pool!(pool)

      for _ <- 1..100 do
        member = idle()

        results =
          together(4, fn
            1 -> kill([member])
            _ -> for _ <- 1..5, do: Pool.join(pool, member)
          end)

        for {:error, reason} <- List.flatten(tl(results)), do: assert(reason == :noproc)
        assert Pool.join(pool, member) == {:error, :noproc}
        assert pids(pool) == []
      end
    end

    test "a join is seen by every pick that begins after it", %{pool: pool} do
      start_pool!(pool, policy: :pick_first)
      [one, two] = [idle(), idle()]
      Pool.join(pool, one, value: 1)

      seen =
        picking_during(
          4,
          fn -> Pool.pick(pool) end,
          fn ->
            Pool.join(pool, two, value: 2)
            Pool.leave(pool, one)
          end,
          100
        )

      for results <- seen do
        assert Enum.uniq(for({:after, result} <- results, do: result)) == [{:ok, 2}]
      end

      kill([one, two])
    end
  end
end
