defmodule GrpcLb.SubsetTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections, except: [ids: 1]

  alias GrpcLb.{Address, Connection, Native, Pool}
  alias GrpcLb.Test.Loopback

  doctest GrpcLb.Connection.Subset

  defp ids(n), do: for(i <- 1..n, do: "10.0.0.#{i}:443")

  defp used(lb), do: for(%{in_subset: true, id: id} <- GrpcLb.info(lb).backends, do: id)

  # A68, of the specification alone.
  defp expected(ids, size, seed) do
    chosen = for position <- Native.subset(ids, size, seed), do: Enum.at(ids, position)
    Enum.filter(ids, &(&1 in chosen))
  end

  for policy <- GrpcLb.Policy.names() do
    test "#{policy} chooses among a subset, and others are listed" do
      ids = ids(20)
      {:ok, lb} = GrpcLb.new(unquote(policy), ids, subset: [size: 3, seed: 7])
      assert used(lb) == expected(ids, 3, 7)
      assert GrpcLb.size(lb) == 20
      picked = for _ <- 1..50, do: elem({:ok, _} = GrpcLb.pick(lb), 1)
      assert Enum.uniq(picked) -- used(lb) == []

      for id <- Enum.shuffle(ids) |> Enum.take(16) do
        before = used(lb)
        GrpcLb.remove(lb, [id])
        assert length(used(lb) -- before) == if(id in before, do: 1, else: 0)
      end

      assert used(lb) |> Enum.sort() ==
               expected(Enum.sort(for(b <- GrpcLb.info(lb).backends, do: b.id)), 3, 7)
    end
  end

  test "any id has a text, and hash_key: is another" do
    {:ok, lb} =
      GrpcLb.new(:random, for(i <- 1..9, do: {{:shard, i}, i}), subset: [size: 4, seed: 1])

    assert length(used(lb)) == 4
    GrpcLb.add(lb, [{:late, 10}])
    GrpcLb.reconcile(lb, for(i <- 1..9, do: {i, i, hash_key: "10.0.0.#{i}:443"}))

    assert used(lb) ==
             for({id, i} <- Enum.with_index(ids(9), 1), id in expected(ids(9), 4, 1), do: i)
  end

  test "a seed of its own, unless one is given" do
    subset = fn opts ->
      {:ok, lb} = GrpcLb.new(:random, ids(100), opts)
      used(lb)
    end

    assert length(Enum.uniq(for _ <- 1..20, do: subset.(subset: [size: 10]))) == 20
    assert subset.(subset: [size: 10, seed: 5]) == subset.(subset: [size: 10, seed: 5])
    assert subset.(subset: [size: 10], seed: 5) == subset.(subset: [size: 10], seed: 5)
    assert length(subset.(subset: [size: 200])) == 100
  end

  test "a balancer alike in all takes an equal part of the backends" do
    counts =
      for _ <- 1..1_000, reduce: %{} do
        counts ->
          {:ok, lb} = GrpcLb.new(:random, ids(10), subset: [size: 3])
          Enum.reduce(used(lb), counts, fn id, counts -> Map.update(counts, id, 1, &(&1 + 1)) end)
      end

    # 300 are expected for each, with a standard deviation of 14.5: one is beyond once in 10^8 runs.
    assert Enum.all?(counts, fn {_id, count} -> count in 210..390 end), inspect(counts)
  end

  test "must have a size, and numbers" do
    for {subset, says} <- [
          {[], ~r/option :size of :subset is required/},
          {[size: 0], ~r/option :size of :subset must be an integer from 1/},
          {[size: 1, seed: -1], ~r/option :seed of :subset must be/},
          {[size: 1, seeds: 1], ~r/unknown option :seeds of :subset/},
          {5, ~r/options of :subset must be a keyword list, got: 5/}
        ] do
      assert_raise ArgumentError, says, fn -> GrpcLb.new(:random, [], subset: subset) end

      assert_raise ArgumentError, says, fn ->
        Pool.start_link(name: __MODULE__, subset: subset)
      end
    end

    {:ok, lb} = GrpcLb.new(:random, [], subset: [size: 1])

    assert_raise ArgumentError, ~r/unknown option :subset/, fn ->
      GrpcLb.configure(lb, subset: [size: 2])
    end

    for bad <- [[[:a], 1, 0], [["a" | "b"], 1, 0], [["a"], -1, 0], [["a"], 1, :seed]] do
      assert_raise ArgumentError, fn -> apply(Native, :subset, bad) end
    end

    assert_raise ArgumentError, ~r/no size/, fn ->
      Native.new({:random, %{}}, [], %{subset: %{size: 0, seed: 0}})
    end
  end

  test "a pool uses some of its members, and others take the places of those that die" do
    start_supervised!({Pool, name: :subset_pool, subset: [size: 2]})
    members = for _ <- 1..10, do: spawn_link(fn -> Process.sleep(:infinity) end)
    for pid <- members, do: :ok = Pool.join(:subset_pool, pid)
    picked = fn -> Enum.uniq(for _ <- 1..20, do: elem({:ok, _} = Pool.pick(:subset_pool), 1)) end
    assert length(picked.()) == 2

    for _ <- 1..8 do
      dies = hd(picked.())
      Process.unlink(dies)
      ref = Process.monitor(dies)
      Process.exit(dies, :kill)
      assert_receive {:DOWN, ^ref, :process, _pid, :killed}
      refute dies in picked.()
      GrpcLb.Test.Eventually.eventually(fn -> length(picked.()) == 2 end)
    end
  end

  test "a connection dials its subset alone, and the same one after a restart of its server" do
    servers = for _ <- 1..6, do: Loopback.start()
    {handle, names} = connect_scripted!(servers, subset: [size: 2])
    GrpcLb.Test.Eventually.eventually(fn -> length(ids_of(handle)) == 2 end)
    chosen = ids_of(handle)
    before = server(handle)
    Process.exit(before, :kill)
    restarted(handle, before)
    Connection.resolve_now(handle)
    GrpcLb.Test.Eventually.eventually(fn -> ids_of(handle) == chosen end)
    assert Enum.sum(Enum.map(servers, &Loopback.clients/1)) == 2

    # One of them is gone: one other takes the place.
    [gone, stays] = chosen
    GrpcLb.Test.ScriptedResolver.set(names, Enum.reject(servers, &(Loopback.id(&1) == gone)))
    Connection.resolve_now(handle)

    GrpcLb.Test.Eventually.eventually(fn ->
      ids = ids_of(handle)
      length(ids) == 2 and stays in ids and gone not in ids
    end)
  end

  defp ids_of(handle), do: handle |> GrpcLb.Test.Connections.ids() |> Enum.sort()

  test "of each priority a connection has a subset" do
    addresses =
      for {id, i} <- Enum.with_index(ids(10)), do: %{Address.new!(id) | priority: rem(i, 2)}

    chosen = GrpcLb.Connection.Subset.take(addresses, %{size: 2, seed: 3})
    assert Enum.frequencies_by(chosen, & &1.priority) == %{0 => 2, 1 => 2}
    assert chosen == Enum.filter(addresses, &(&1 in chosen))
  end
end
