defmodule GrpcLb.AllTest do
  # Counts what lives on the node.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  defp mine(owner \\ self()), do: for(listed <- GrpcLb.all(), listed.owner == owner, do: listed)

  # A balancer that is held by a process of its own, until that is told to end.
  defp held(policy, backends, opts \\ []) do
    test = self()

    pid =
      spawn_link(fn ->
        {:ok, lb} = GrpcLb.new(policy, backends, [owner: self()] ++ opts)
        send(test, {self(), :made})
        receive do: (:end -> is_reference(lb))
      end)

    assert_receive {^pid, :made}
    pid
  end

  defp let_go(pid) do
    monitor = Process.monitor(pid)
    send(pid, :end)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}
  end

  describe "all/0" do
    test "lists a balancer with its name, policy, owner and size" do
      name = {:shard, "payments"}
      opts = [owner: self(), name: name]
      {:ok, lb} = GrpcLb.new({:least_request, choices: 3}, [:a, :b, :c], opts)

      assert [%{name: ^name, policy: :least_request, size: 3, closed: false} = listed] = mine()
      assert listed.owner == self()
      assert listed.number == GrpcLb.Native.summary(lb).number

      GrpcLb.remove(lb, [:a])
      assert [%{size: 2}] = mine()
      GrpcLb.close(lb)
      assert [%{size: 0, closed: true}] = mine()
    end

    test "lists them in the order in which they were made" do
      owners = for _ <- 1..40, do: held(:random, [:a])
      listed = for %{owner: owner} <- GrpcLb.all(), owner in owners, do: owner
      assert listed == owners
      Enum.each(owners, &let_go/1)
    end

    test "keeps none alive, nor do the views in it" do
      pid = held(:round_robin, Enum.to_list(1..2_000))
      [%{balancer: view}] = mine(pid)
      assert GrpcLb.size(view) == 2_000

      let_go(pid)
      eventually(fn -> mine(pid) == [] end)
      assert {GrpcLb.size(view), GrpcLb.closed?(view)} == {0, true}
      assert %{policy: :round_robin, closed: true, backends: []} = GrpcLb.info(view)
    end

    test "shows what the balancer itself does" do
      {:ok, lb} = GrpcLb.new(:ring_hash, ["a", "b"], owner: self())
      {:ok, _value, ticket} = GrpcLb.checkout(lb, "key")
      :ok = GrpcLb.complete(ticket, :ok)
      [%{balancer: view}] = mine()

      assert GrpcLb.info(view) == GrpcLb.info(lb)
      assert GrpcLb.Native.summary(view) == GrpcLb.Native.summary(lb)
    end

    test "an owner that has died is seen by a look through a view, too" do
      owner = spawn(fn -> receive do: (:end -> :ok) end)
      {:ok, lb} = GrpcLb.new(:random, [{:a, 1, owner: owner}, :b], owner: self())
      [%{balancer: view}] = mine()
      Process.exit(owner, :kill)
      eventually(fn -> hd(GrpcLb.info(view).backends).state == :down end)
      assert GrpcLb.pick(lb) == {:ok, :b}
    end

    test "a view is none to call or to change by" do
      {:ok, lb} = GrpcLb.new(:random, [:a], owner: self())
      [%{balancer: view}] = mine()
      message = ~r/argument 1 is not a balancer: .*got a view of one/

      assert_raise ArgumentError, message, fn -> GrpcLb.pick(view) end
      assert_raise ArgumentError, message, fn -> GrpcLb.checkout(view) end
      assert_raise ArgumentError, message, fn -> GrpcLb.reconcile(view, [:b]) end
      assert_raise ArgumentError, message, fn -> GrpcLb.close(view) end
      assert_raise ArgumentError, ~r/got another reference/, fn -> GrpcLb.info(make_ref()) end
      assert GrpcLb.pick(lb) == {:ok, :a}
    end

    @tag :concurrency
    test "lists all that live while many are made and dropped" do
      kept = for _ <- 1..50, do: held(:random, [:a, :b])
      stop = :atomics.new(1, [])

      churning =
        for _ <- 1..8 do
          Task.async(fn ->
            Stream.repeatedly(fn -> GrpcLb.new(:random, [:a], owner: self()) end)
            |> Enum.find(fn {:ok, _lb} -> :atomics.get(stop, 1) == 1 end)
          end)
        end

      for _ <- 1..200 do
        all = GrpcLb.all()
        assert for(%{owner: owner} <- all, owner in kept, do: owner) == kept
        assert all == Enum.sort_by(all, & &1.number)

        # Each look waits for a dirty scheduler, which takes long on a busy machine: at those alone that may
        # be gone already.
        for %{balancer: view, owner: owner, policy: policy} <- all,
            owner not in kept,
            do: assert(%{policy: ^policy} = GrpcLb.info(view))
      end

      :atomics.put(stop, 1, 1)
      Task.await_many(churning, :infinity)
      Enum.each(kept, &let_go/1)
      pids = MapSet.new(churning, & &1.pid)
      eventually(fn -> not Enum.any?(GrpcLb.all(), &(&1.owner in pids)) end)
    end
  end
end
