defmodule GrpcLb.OwnerTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1]

  defp states(lb), do: Enum.map(GrpcLb.info(lb).backends, &{&1.id, &1.state})

  # Looks through picks alone: info and reconcile act on deaths that nobody has acted on yet, and
  # that must not be needed.
  defp picked(lb, n), do: for(_ <- 1..n, {:ok, value} = GrpcLb.pick(lb), uniq: true, do: value)

  test "a backend leaves the rotation when its owner dies" do
    [one, two] = [idle(), idle()]
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: one}, {:b, 2, owner: two}, {:c, 3}])
    kill([one])
    eventually(fn -> Enum.sort(picked(lb, 6)) == [2, 3] end)
    assert states(lb) == [a: :down, b: :ready, c: :ready]
    assert Enum.sort(for(_ <- 1..4, do: GrpcLb.pick(lb))) == [ok: 2, ok: 2, ok: 3, ok: 3]
    kill([two])
    eventually(fn -> states(lb) == [a: :down, b: :down, c: :ready] end)
    assert GrpcLb.pick(lb) == {:ok, 3}
  end

  test "any way to die will do" do
    for how <- [:normal, :shutdown, :kill, :boom] do
      owner =
        spawn(fn ->
          receive do
            :die -> exit(how)
          end
        end)

      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: owner}])
      send(owner, :die)
      eventually(fn -> GrpcLb.pick(lb) == {:error, :no_backends} end)
    end
  end

  test "one owner can own many backends, and others can share a balancer" do
    owner = idle()
    backends = for id <- 1..100, do: {id, id, owner: owner}
    {:ok, lb} = GrpcLb.new(:round_robin, [:free | backends])
    kill([owner])
    eventually(fn -> Enum.count(states(lb), &match?({_, :down}, &1)) == 100 end)
    assert for(_ <- 1..3, do: GrpcLb.pick(lb)) == [ok: :free, ok: :free, ok: :free]
  end

  test "thousands of owners can die at once" do
    owners = for _ <- 1..5_000, do: idle()
    {:ok, lb} = GrpcLb.new(:round_robin, [:free | for(pid <- owners, do: {pid, 1, owner: pid})])
    kill(owners)
    eventually(fn -> picked(lb, 5_001) == [:free] end)
    assert [:free | owners] == for({id, _} <- states(lb), do: id)
    assert Enum.count(states(lb), &match?({_, :down}, &1)) == 5_000
  end

  test "an owner that is dead already is treated the same" do
    owner = idle()
    kill([owner])
    eventually(fn -> not Process.alive?(owner) end)
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: owner}, {:b, 2}])
    assert GrpcLb.pick(lb) == {:ok, 2}
    assert states(lb) == [a: :down, b: :ready]
    GrpcLb.reconcile(lb, [{:a, 1, owner: owner}])
    assert GrpcLb.pick(lb) == {:error, :no_backends}
  end

  test "a reconcile with an owner that lives brings a backend back, with its counts" do
    [dead, alive] = [idle(), idle()]
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: dead}])
    GrpcLb.pick(lb)
    kill([dead])
    eventually(fn -> states(lb) == [a: :down] end)
    assert {:ok, %{kept: 1}} = GrpcLb.reconcile(lb, [{:a, 2, owner: alive}])
    assert GrpcLb.pick(lb) == {:ok, 2}
    assert [%{state: :ready, picks: 2}] = GrpcLb.info(lb).backends
  end

  test "an owner whose backends are gone does not matter any more" do
    owner = idle()
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: owner}])
    GrpcLb.reconcile(lb, [{:a, 1}])
    generation = GrpcLb.info(lb).generation
    kill([owner])
    # The next death that does matter is seen after it.
    other = idle()
    GrpcLb.reconcile(lb, [{:a, 1}, {:b, 2, owner: other}])
    kill([other])
    eventually(fn -> states(lb) == [a: :ready, b: :down] end)
    assert GrpcLb.info(lb).generation == generation + 2
  end

  test "what is added has owners, too" do
    [one, two] = [idle(), idle()]
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: one}])
    GrpcLb.add(lb, [{:a, 2, owner: two}, {:b, 3, owner: two}])
    # It owns nothing any more.
    kill([one])
    assert Enum.sort(picked(lb, 2)) == [2, 3]
    assert [%{owner: ^two}, %{owner: ^two}] = GrpcLb.info(lb).backends
    kill([two])
    assert GrpcLb.pick(lb) == {:error, :no_backends}
    assert [%{owner: nil, state: :down}, %{state: :down}] = GrpcLb.info(lb).backends
  end

  test "with on_owner_death: :remove, backends leave the list with their owner" do
    [one, two] = [idle(), idle()]
    list = [{:a, 1, owner: one}, {:b, 2, owner: one}, :free, {:c, 3, owner: two}]
    {:ok, lb} = GrpcLb.new(:round_robin, list, on_owner_death: :remove)
    kill([one])
    eventually(fn -> states(lb) == [free: :ready, c: :ready] end)

    dead = {:d, 4, owner: one}
    assert GrpcLb.add(lb, [dead]) == {:ok, %{added: 0, removed: 0, kept: 2}}
    assert GrpcLb.add(lb, [{:c, 3, owner: one}]) == {:ok, %{added: 0, removed: 1, kept: 1}}
    assert GrpcLb.reconcile(lb, [dead, :x]) == {:ok, %{added: 1, removed: 1, kept: 0}}
    assert states(lb) == [x: :ready]
  end

  test "a backend whose owner died is not picked by who monitored it since, and heard of it" do
    # In a list so long that a thread takes the dead out, some time later.
    {:ok, lb} = GrpcLb.new(:round_robin, Enum.map(1..2_000, &{&1, :alive}))

    for _ <- 1..100 do
      owner = idle()
      GrpcLb.add(lb, [{:mortal, :dead, owner: owner}])
      kill([owner])
      assert picked(lb, 2_001) == [:alive]
    end
  end

  test "a balancer closes when its owner dies" do
    owner = idle()
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], owner: owner)
    assert GrpcLb.pick(lb) == {:ok, :a}
    kill([owner])
    eventually(fn -> GrpcLb.pick(lb) == {:error, :closed} end)
    assert GrpcLb.info(lb).closed
    eventually(fn -> not Process.alive?(owner) end)
    assert {:ok, closed} = GrpcLb.new(:round_robin, [:a], owner: owner)
    assert GrpcLb.pick(closed) == {:error, :closed}
  end

  test "a process can own a balancer and its backends, itself included" do
    test = self()

    owner =
      spawn(fn ->
        {:ok, lb} = GrpcLb.new(:round_robin, [{:a, 1, owner: self()}], owner: self())
        send(test, {:lb, lb})
        Process.sleep(:infinity)
      end)

    assert_receive {:lb, lb}, 10_000
    assert GrpcLb.pick(lb) == {:ok, 1}
    kill([owner])
    eventually(fn -> GrpcLb.pick(lb) == {:error, :closed} end)
  end
end
