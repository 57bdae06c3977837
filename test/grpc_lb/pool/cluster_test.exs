defmodule GrpcLb.Pool.ClusterTest do
  # Real nodes: three VMs, connected over loopback.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Nodes, only: [run: 3, run: 4]

  alias GrpcLb.Pool
  alias GrpcLb.Test.{Nodes, PoolWorker}
  alias GrpcLb.Test.Peer.PoolNode

  @moduletag :concurrency
  @moduletag timeout: 180_000

  setup_all do
    %{nodes: Nodes.start(3)}
  end

  setup %{test: test, nodes: nodes} do
    # A split that a test has left would fail all others.
    :ok = Nodes.heal(nodes, nodes)
    %{pool: test}
  end

  # Two workers on each node; all of them known everywhere.
  defp start_pools!(nodes, pool, opts \\ []) do
    opts = [name: pool, scope: :cluster, size: 2, worker: {PoolWorker, {pool, []}}] ++ opts
    for node <- nodes, do: :ok = run(node, PoolNode, :start_pool, [opts])
    for node <- nodes, do: :ok = await(node, pool, 2 * length(nodes))
  end

  defp await(node, pool, n), do: run(node, Pool, :await_members, [pool, n, 30_000])
  defp pids(node, pool), do: run(node, PoolNode, :pids, [pool])
  defp pids_of(node, pool), do: Enum.filter(pids(node, pool), &(node(&1) == node.name))
  defp picked(node, pool, n), do: node |> run(PoolNode, :picks, [pool, n]) |> Enum.uniq()

  defp eventually_same(nodes, pool, expected) do
    for node <- nodes do
      eventually(
        fn -> pids(node, pool) == Enum.sort(expected) end,
        fn -> "#{node.name}: #{inspect(pids(node, pool))}, expected: #{inspect(expected)}" end
      )
    end
  end

  for policy <- [:ring_hash, :maglev] do
    test "with #{policy} a key leads to the same member from every node", context do
      %{nodes: [a | others] = nodes, pool: pool} = context
      start_pools!(nodes, pool, policy: unquote(policy))
      led = run(a, PoolNode, :led, [pool, 500])
      assert length(Enum.uniq(led)) == 6
      for node <- others, do: assert(run(node, PoolNode, :led, [pool, 500]) == led)

      # Also by call/3, and after one has left.
      answers = for node <- nodes, do: run(node, PoolNode, :answers, [pool, 50])
      assert [_same_everywhere] = Enum.uniq(answers)
      [gone | _] = led
      owner = Enum.find(nodes, &(&1.name == node(gone)))
      :ok = run(owner, Pool, :leave, [pool, gone])
      for node <- nodes, do: eventually(fn -> gone not in pids(node, pool) end)
      assert [without] = Enum.uniq(for node <- nodes, do: run(node, PoolNode, :led, [pool, 500]))
      refute gone in without
    end
  end

  test "joins, updates, leaves and deaths are seen everywhere", %{nodes: nodes, pool: pool} do
    [a, b, c] = nodes
    start_pools!(nodes, pool)
    workers = Enum.flat_map(nodes, &pids_of(&1, pool))
    eventually_same(nodes, pool, workers)

    # On the way from process to process a pid stays one and the same.
    member = run(a, PoolWorker, :start_member, [pool])
    assert node(member) == a.name
    eventually_same(nodes, pool, [member | workers])

    :ok = run(a, Pool, :join, [pool, member, [value: {:new, "value"}, weight: 3]])

    for node <- [b, c] do
      eventually(fn ->
        {:ok, members} = run(node, Pool, :members, [pool])
        %{pid: member, value: {:new, "value"}, weight: 3} in members
      end)

      assert {:new, "value"} in picked(node, pool, 7)
    end

    eventually_same(nodes, pool, [member | workers])
    :ok = run(a, Pool, :leave, [pool, member])
    eventually_same(nodes, pool, workers)
    :ok = run(a, Pool, :join, [pool, member])
    eventually_same(nodes, pool, [member | workers])
    :ok = run(a, PoolNode, :kill, [member])
    eventually_same(nodes, pool, workers)
  end

  test "picks, calls and broadcasts reach all nodes", %{nodes: nodes, pool: pool} do
    start_pools!(nodes, pool)
    workers = pids(hd(nodes), pool)
    assert length(workers) == 6

    for node <- nodes do
      assert Enum.sort(picked(node, pool, 6)) == workers

      called = for _ <- 1..6, {:ok, pid} = run(node, Pool, :call, [pool, :who]), do: pid
      assert Enum.sort(called) == workers

      assert node |> run(PoolNode, :broadcast_and_hear, [pool]) |> Enum.sort() == workers
    end
  end

  test "every policy", %{nodes: [a, _b, _c] = nodes, pool: pool} do
    for policy <- [
          :random,
          :pick_first,
          {:round_robin, cursor: :per_scheduler},
          :weighted_round_robin,
          :least_request
        ] do
      name = :"#{pool} #{inspect(policy)}"
      start_pools!(nodes, name, policy: policy)
      expected = if policy == :pick_first, do: 1, else: 6
      assert length(picked(a, name, 500)) == expected
    end
  end

  test "a process joins and leaves on its own node", %{nodes: [a, b | _] = nodes, pool: pool} do
    start_pools!(nodes, pool)
    [member | _] = pids_of(a, pool)

    for {function, args} <- [join: [pool, member], leave: [pool, member]] do
      assert run(b, PoolNode, :raised, [function, args]) =~ "pid must be a pid of this node"
    end

    assert member in pids(b, pool)
  end

  test "members of the own node are preferred", %{nodes: [a, b, _c] = nodes, pool: pool} do
    start_pools!(nodes, pool, prefer: :local)
    local = pids_of(a, pool)
    assert Enum.sort(picked(a, pool, 20)) == local
    assert length(pids(a, pool)) == 6
    for pid <- local, do: :ok = run(a, Pool, :leave, [pool, pid])
    assert Enum.sort(picked(a, pool, 20)) == pids(a, pool)
    assert length(pids(a, pool)) == 4
    :ok = run(a, Pool, :join, [pool, hd(local)])
    assert picked(a, pool, 20) == [hd(local)]
    # The others never saw a reason to go elsewhere.
    assert Enum.sort(picked(b, pool, 20)) == pids_of(b, pool)
  end

  test "the share of local members", %{nodes: [a | _] = nodes, pool: pool} do
    start_pools!(nodes, pool, local_share: 0.75)
    picks = run(a, PoolNode, :picks, [pool, 400])
    assert Enum.count(picks, &(node(&1) == a.name)) == 300
    # Both halves are balanced.
    assert picks |> Enum.frequencies() |> Map.values() |> Enum.sort() == [
             25,
             25,
             25,
             25,
             150,
             150
           ]
  end

  test "a pool that starts later knows all, and all know it", context do
    %{nodes: [a, b, c] = nodes, pool: pool} = context
    start_pools!([a, b], pool)
    :ok = run(a, PoolNode, :join_many, [pool, 2_000])
    :ok = await(b, pool, 2_004)
    start_pool = [[name: pool, scope: :cluster]]
    :ok = run(c, PoolNode, :start_pool, start_pool)
    :ok = await(c, pool, 2_004)
    eventually_same(nodes, pool, pids(a, pool))
    assert length(picked(c, pool, 2_004)) == 2_004
  end

  test "a feed that starts hears of what happened before", %{nodes: nodes, pool: pool} do
    [a, b, _c] = nodes
    start_pools!(nodes, pool)
    workers = pids(a, pool)
    [gone, updated] = for _ <- 1..2, do: run(a, PoolWorker, :start_member, [pool])
    eventually_same([b], pool, [gone, updated | workers])

    :ok = run(b, PoolNode, :stop_feed, [pool])
    :ok = run(a, PoolNode, :kill, [gone])
    :ok = run(a, Pool, :join, [pool, updated, [value: :new]])
    joined = run(a, PoolWorker, :start_member, [pool])
    expected = Enum.sort([joined, updated | workers])
    eventually(fn -> run(b, PoolNode, :pids_in_scope, [pool]) == expected end)
    # Without a feed nobody here knows.
    assert pids(b, pool) == Enum.sort([gone, updated | workers])

    :ok = run(b, PoolNode, :start_feed, [pool])
    eventually_same([b], pool, expected)
    assert :new in picked(b, pool, 8)
  end

  test "a scope that starts keeps whom it knew until it is told", context do
    %{nodes: [a, b, c], pool: pool} = context
    start_pools!([b, c], pool)
    :ok = run(a, PoolNode, :start_pool, [[name: pool, scope: :cluster]])
    :ok = await(a, pool, 4)
    [everywhere, silent, here] = [pids(a, pool), pids_of(b, pool), pids_of(c, pool)]

    # One that does not answer. Without members of its own this node would have nobody to pick.
    :ok = run(b, PoolNode, :suspend, [pool, :scope])
    assert [:answers_due, {:removed, removed}] = run(a, PoolNode, :after_kill_of_scope, [pool])
    # That it does not answer at all is not waited for without a limit.
    assert silent -- removed == []
    eventually_same([a], pool, here)
    :ok = run(b, PoolNode, :resume, [pool, :scope])
    eventually_same([a], pool, everywhere)

    # Who has died meanwhile is not kept, who is there is kept longer than that.
    :ok = run(b, PoolNode, :suspend, [pool, :scope])
    :ok = run(a, PoolNode, :kill_part, [pool, :scope])
    [gone | rest] = silent
    :ok = run(b, PoolNode, :kill, [gone])
    :ok = run(b, PoolNode, :resume, [pool, :scope])
    eventually(fn -> gone not in pids(a, pool) end)
    eventually(fn -> rest -- pids(a, pool) == [] end)
  end

  test "values that are equal and not the same", %{nodes: [a, b, c] = nodes, pool: pool} do
    for node <- nodes, do: :ok = run(node, PoolNode, :start_pool, [[name: pool, scope: :cluster]])

    for {value, next} <- [{1, 1.0}, {1.0, 1}, {{:w, [1]}, {:w, [1.0]}}] do
      member = run(a, PoolWorker, :start_member, [pool, [value: value]])
      for node <- nodes, do: :ok = await(node, pool, 1)
      :ok = run(a, Pool, :join, [pool, member, [value: next]])

      for node <- [b, c] do
        eventually(fn ->
          {:ok, [%{value: seen}]} = run(node, Pool, :members, [pool])
          seen === next
        end)
      end

      :ok = run(a, Pool, :leave, [pool, member])
      eventually_same(nodes, pool, [])
    end
  end

  test "who meddles with a member's group is not the member", context do
    %{nodes: [a, b, c] = nodes, pool: pool} = context
    for node <- nodes, do: :ok = run(node, PoolNode, :start_pool, [[name: pool, scope: :cluster]])
    member = run(a, PoolWorker, :start_member, [pool, [value: :mine]])
    for node <- nodes, do: :ok = await(node, pool, 1)
    :ok = run(c, PoolNode, :meddle, [pool, {member, :mine, 1}])
    # What comes later from the same node has been heard: so has that.
    other = run(c, PoolWorker, :start_member, [pool])
    eventually_same([b, c], pool, [member, other])
  end

  test "a node's new scope is heard before the end of the old one", context do
    %{nodes: [a, b, c] = nodes, pool: pool} = context
    start_pools!(nodes, pool)
    members = pids(a, pool)
    :ok = run(b, PoolNode, :speak_as_second_scope, [pool, [a.name, c.name], pids_of(b, pool)])
    # What a scope knows later its feed hears later.
    other = run(b, PoolWorker, :start_member, [pool])
    eventually_same(nodes, pool, [other | members])
  end

  test "calls pass a lost node over though the feed is stuck", %{nodes: [a, b, _c], pool: pool} do
    for policy <- [:round_robin, :random, :pick_first] do
      [victim] = Nodes.start(1)
      Nodes.heal([victim], [a, b])
      name = :"#{pool} #{policy}"
      # The first to join is the first to be picked.
      start_pools!([victim], name, policy: policy)
      start_pools!([a, b], name, policy: policy)
      for node <- [a, b], do: :ok = await(node, name, 6)
      reachable = pids_of(a, name) ++ pids_of(b, name)

      :ok = run(a, PoolNode, :suspend, [name, :feed])
      :ok = Nodes.kill(victim)
      eventually(fn -> victim.name not in run(a, Node, :list) end)
      assert length(pids(a, name)) == 6
      for _ <- 1..20, do: assert({:ok, _} = run(a, Pool, :call, [name, :who, 10_000]))

      # What was answered in place of a lost member is not taken for its success.
      %{members: members} = run(a, Pool, :info, [name])
      lost = Enum.filter(members, &(node(&1.pid) == victim.name))
      assert Enum.all?(lost, &match?(%{successes: 0, in_flight: 0}, &1))
      if policy == :round_robin, do: assert(Enum.any?(lost, &(&1.failures > 0)))

      :ok = run(a, PoolNode, :resume, [name, :feed])
      eventually_same([a, b], name, reachable)
    end
  end

  test "where nobody can be reached, a call says so at once", %{nodes: [a | _], pool: pool} do
    [victim] = Nodes.start(1)
    Nodes.heal([victim], [a])
    start_pools!([victim], pool)
    :ok = run(a, PoolNode, :start_pool, [[name: pool, scope: :cluster]])
    :ok = await(a, pool, 2)
    :ok = run(a, PoolNode, :suspend, [pool, :feed])
    :ok = Nodes.kill(victim)
    eventually(fn -> victim.name not in run(a, Node, :list) end)
    name = victim.name

    assert {:error, {:exit, {{:nodedown, ^name}, _}}} =
             run(a, Pool, :call, [pool, :who, :infinity])

    :ok = run(a, PoolNode, :resume, [pool, :feed])
    eventually(fn -> run(a, Pool, :call, [pool, :who]) == {:error, :no_backends} end)
  end

  test "a value can be a process on a hidden node", %{nodes: [a | _], pool: pool} do
    :ok = run(a, PoolNode, :start_pool, [[name: pool, scope: :cluster]])
    [hidden] = Nodes.start(1, [~c"-hidden"])
    :ok = run(hidden, PoolNode, :start_pool, [[name: pool]])
    far = run(hidden, PoolWorker, :start_member, [pool])
    Nodes.heal([hidden], [a])
    assert hidden.name not in run(a, Node, :list)
    _stand_in = run(a, PoolWorker, :start_member, [pool, [value: far]])
    assert run(a, Pool, :call, [pool, :who]) == {:ok, far}
  end

  for victim <- [:feed, :scope, :cluster] do
    test "the #{victim} of a node is killed: it comes back on all", context do
      %{nodes: [a, b, c] = nodes, pool: pool} = context
      start_pools!(nodes, pool)
      workers = pids(a, pool)

      for _ <- 1..3 do
        :ok = run(b, PoolNode, :kill_part, [pool, unquote(victim)])
        # What happens meanwhile is not lost.
        [gone, stays] = for _ <- 1..2, do: run(a, PoolWorker, :start_member, [pool])
        here = run(b, PoolWorker, :start_member, [pool])
        :ok = run(a, Pool, :leave, [pool, gone])
        eventually_same(nodes, pool, [stays, here | workers])
        :ok = run(a, PoolNode, :kill, [stays])
        :ok = run(b, PoolNode, :kill, [here])
        eventually_same([a, b, c], pool, workers)
      end
    end
  end

  test "the pool of a node stops and starts again", %{nodes: [a, b, c] = nodes, pool: pool} do
    start_pools!(nodes, pool)
    others = pids_of(b, pool) ++ pids_of(c, pool)
    :ok = run(a, PoolNode, :stop_pool, [pool])
    eventually_same([b, c], pool, others)
    start_pools!([a], pool)
    :ok = await(a, pool, 6)
    eventually_same(nodes, pool, pids_of(a, pool) ++ others)
  end

  test "others do not pick from a pool that waits for its calls before it stops", context do
    %{nodes: [a, b, c] = nodes, pool: pool} = context
    start_pools!(nodes, pool, drain_timeout: :infinity)
    others = pids_of(b, pool) ++ pids_of(c, pool)
    supervisor = run(a, Process, :whereis, [pool])
    call = run(a, PoolNode, :stop_with_a_call, [pool])
    eventually_same([b, c], pool, others)
    assert run(a, Process, :alive?, [supervisor])
    run(a, Process, :send, [call, :go_on, []])
    eventually(fn -> not run(a, Process, :alive?, [supervisor]) end)
  end

  test "a net split, and its healing", %{nodes: [a, b, c] = nodes, pool: pool} do
    start_pools!(nodes, pool)
    [one | _] = pids_of(a, pool)
    rest = pids(a, pool) -- [one]
    loads = for node <- nodes, do: {node, run(node, PoolNode, :start_load, [pool, 4])}

    :ok = Nodes.split([a], [b, c])
    eventually_same([a], pool, pids_of(a, pool))
    eventually_same([b, c], pool, pids_of(b, pool) ++ pids_of(c, pool))
    assert Enum.sort(picked(a, pool, 20)) == pids_of(a, pool)

    # Both sides change while neither hears of the other.
    joined_here = run(a, PoolWorker, :start_member, [pool])
    joined_there = run(b, PoolWorker, :start_member, [pool])
    :ok = run(a, Pool, :leave, [pool, one])

    eventually_same(
      [c],
      pool,
      [joined_there | pids_of(b, pool) -- [joined_there]] ++ pids_of(c, pool)
    )

    :ok = Nodes.heal([a], [b, c])
    eventually_same(nodes, pool, [joined_here, joined_there | rest])

    for {node, load} <- loads, caller <- run(node, PoolNode, :stop_load, [load]) do
      # One call can have been in flight over each connection that was cut.
      cut = for error <- caller.errors, {:exit, {{:nodedown, name}, _call}} = error, do: name
      assert cut == Enum.uniq(cut)
      assert length(cut) == length(caller.errors)
    end
  end

  test "a node is killed under load", %{nodes: [a, b, _c], pool: pool} do
    [victim] = Nodes.start(1)
    Nodes.heal([victim], [a, b])

    for policy <- [:round_robin, :random, :pick_first] do
      name = :"#{pool} #{policy}"
      # The first to join is the first to be picked.
      start_pools!([victim], name, policy: policy)
      start_pools!([a, b], name, policy: policy)
      for node <- [victim, a, b], do: :ok = await(node, name, 6)
    end

    loads =
      for node <- [a, b], policy <- [:round_robin, :random, :pick_first] do
        {node, run(node, PoolNode, :start_load, [:"#{pool} #{policy}", 5])}
      end

    :ok = Nodes.kill(victim)

    for policy <- [:round_robin, :random, :pick_first] do
      name = :"#{pool} #{policy}"
      eventually_same([a, b], name, pids_of(a, name) ++ pids_of(b, name))
    end

    for {node, load} <- loads, caller <- run(node, PoolNode, :stop_load, [load]) do
      # One call can have been in flight, and none that began later fails.
      assert length(caller.errors) <= 1
      assert caller.answers > 1

      for error <- caller.errors do
        assert {:exit, {{:nodedown, down}, {GenServer, :call, [pid | _]}}} = error
        assert down == victim.name and node(pid) == victim.name
      end
    end
  end
end
