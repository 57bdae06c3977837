defmodule GrpcLbTest do
  use ExUnit.Case, async: true

  doctest GrpcLb

  defp values(lb, n), do: for(_ <- 1..n, do: elem(GrpcLb.pick(lb), 1))

  describe "a reconcile" do
    test "with the list that is there publishes nothing, whichever form it has" do
      value = %{host: "10.0.0.1", port: 50_051, tags: [1.5, {:a, "b"}]}
      list = fn -> for id <- 1..50, do: {{"backend", id}, Map.put(value, :id, "number #{id}")} end
      {:ok, lb} = GrpcLb.new(:round_robin, list.())

      forms = [
        list.(),
        for({id, value} <- list.(), do: {id, value, []}),
        for({id, value} <- list.(), do: %GrpcLb.Backend{id: id, value: value})
      ]

      for form <- forms do
        assert GrpcLb.reconcile(lb, form) == {:ok, %{added: 0, removed: 0, kept: 50}}
        assert GrpcLb.add(lb, form) == {:ok, %{added: 0, removed: 0, kept: 50}}
        assert %{generation: 1} = GrpcLb.info(lb)
      end
    end

    test "with a long list does what it does with a short one" do
      list = for id <- 1..5_000, do: {id, %{id: id, tags: ["some", "value"]}}
      {:ok, lb} = GrpcLb.new(:round_robin, list)
      listed = fn -> for %{id: id, value: value} <- GrpcLb.info(lb).backends, do: {id, value} end
      assert GrpcLb.reconcile(lb, list) == {:ok, %{added: 0, removed: 0, kept: 5_000}}
      assert %{generation: 1} = GrpcLb.info(lb)

      for {other, changes} <- [
            {[{:new, :new} | tl(list)], %{added: 1, removed: 1, kept: 4_999}},
            {List.delete_at(list, 2_500), %{added: 1, removed: 2, kept: 4_998}},
            {List.replace_at(list, 4_999, {5_000, :other}), %{added: 1, removed: 0, kept: 4_999}},
            {Enum.reverse(list), %{added: 0, removed: 0, kept: 5_000}},
            {Enum.take(list, 2_100), %{added: 0, removed: 2_900, kept: 2_100}},
            {list, %{added: 2_900, removed: 0, kept: 2_100}}
          ] do
        assert GrpcLb.reconcile(lb, other) == {:ok, changes}
        assert listed.() == other
      end

      for {wrong, message} <- [
            {list ++ [{1, 1}], "backends 0 and 5000 have the same id"},
            {List.replace_at(list, 1_500, {1_500, 1}), "backends 1499 and 1500 have the same id"},
            {list ++ [{:new, 1, weight: -1}], "backend 5000"},
            {list ++ [{:itself, lb}], "backend 5000 has the balancer itself as its value"}
          ] do
        assert_raise ArgumentError, ~r/#{message}/, fn -> GrpcLb.reconcile(lb, wrong) end
        assert listed.() == list
      end

      # So large that it is compared and copied elsewhere.
      large = {:large, Enum.to_list(1..20_000)}
      assert {:ok, %{added: 1}} = GrpcLb.reconcile(lb, [large | list])
      assert GrpcLb.reconcile(lb, [large | list]) == {:ok, %{added: 0, removed: 0, kept: 5_001}}
      assert {:ok, %{removed: 1}} = GrpcLb.reconcile(lb, list)
      :ok = GrpcLb.close(lb)
      assert GrpcLb.reconcile(lb, list) == {:error, :closed}
    end

    test "publishes an order, a value or a weight that differs" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
      round = fn -> for _ <- 1..3, do: elem(GrpcLb.pick(lb), 1) end
      assert {:ok, %{kept: 3}} = GrpcLb.reconcile(lb, [:c, :b, :a])
      assert round.() in [[:c, :b, :a], [:b, :a, :c], [:a, :c, :b]]
      assert {:ok, %{kept: 3}} = GrpcLb.reconcile(lb, [:c, {:b, 2}, :a])
      assert Enum.sort(round.()) == [2, :a, :c]
      assert {:ok, %{kept: 3}} = GrpcLb.reconcile(lb, [:c, {:b, 2, weight: 0}, :a])
      assert Enum.uniq(Enum.sort(round.())) == [:a, :c]
      assert %{generation: 4} = GrpcLb.info(lb)
    end
  end

  describe "new/3" do
    test "takes backends in every form" do
      backends = [
        %GrpcLb.Backend{id: 1, value: :a},
        {2, :b},
        {3, :c, weight: 2},
        :d
      ]

      {:ok, lb} = GrpcLb.new(:round_robin, backends)
      assert is_reference(lb)
      assert values(lb, 4) == [:a, :b, :c, :d]
      assert [1, 2, 3, :d] = Enum.map(GrpcLb.info(lb).backends, & &1.id)
      assert [1, 1, 2, 1] = Enum.map(GrpcLb.info(lb).backends, & &1.weight)
    end

    test "says which backend is malformed, and why" do
      for {backends, message} <- [
            {:oops, "backends must be a proper list, got: :oops"},
            {[:a | :b], "backends must be a proper list"},
            {[:a, {:b, 1, :c}], "options of backend 1 must be a keyword list, got: :c"},
            {[{:b, 1, color: :red}],
             "unknown option :color of backend 0, expected :owner or :weight or :priority or :locality or :state"},
            {[{:b, 1, weight: -1}],
             "option :weight of backend 0 must be an integer from 0 to 4294967295"},
            {[{:b, 1, weight: 0x100000000}], "option :weight of backend 0 must be an integer"},
            {[{:b, 1, weight: 1.0}], "option :weight of backend 0 must be an integer"},
            {[{:b, 1, owner: :me}],
             "option :owner of backend 0 must be a pid of this node, or nil, got: :me"},
            {[%GrpcLb.Backend{id: 1, value: 1, owner: "me"}],
             "option :owner of backend 0 must be"},
            {[{:b, 1, state: :down}], "option :state of backend 0 must be :ready or :connecting"},
            {[%GrpcLb.Backend{id: 1, value: 1, state: 1}], "option :state of backend 0 must be"},
            {[:a, :b, :a], "backends 0 and 2 have the same id"}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(message)}/, fn ->
          GrpcLb.new(:round_robin, backends)
        end
      end
    end

    test "refuses unknown options and owners that are no local pids" do
      assert_raise ArgumentError,
                   ~r/unknown option :oner, expected :owner or :on_owner_death or/,
                   fn ->
                     GrpcLb.new(:random, [], oner: self())
                   end

      assert_raise ArgumentError, ~r/option :owner must be a pid of this node/, fn ->
        GrpcLb.new(:random, [], owner: :me)
      end

      assert_raise ArgumentError, ~r/option :on_owner_death must be :keep or :remove/, fn ->
        GrpcLb.new(:random, [], on_owner_death: :forget)
      end

      assert_raise ArgumentError, ~r/options must be a keyword list/, fn ->
        # Through apply, or the compiler of newer Elixirs sees it, too.
        apply(GrpcLb, :new, [:random, [], %{owner: self()}])
      end
    end

    test "takes any term as a name, for people" do
      for name <- ["payments", :payments, {1, ["two"], %{three: make_ref()}}, nil] do
        {:ok, lb} = GrpcLb.new(:random, [], name: name)
        {:ok, namesake} = GrpcLb.new(:random, [], name: name)
        assert %{name: ^name} = GrpcLb.info(lb)
        assert %{name: ^name} = GrpcLb.info(namesake)

        assert_raise ArgumentError, ~r/unknown option :name/, fn ->
          GrpcLb.configure(lb, name: 1)
        end
      end
    end

    test "refuses a name that is large, also where it is small as long as it is shared" do
      shared = Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end)

      for name <- [shared, List.duplicate(:x, 2_000_000)] do
        message = ~r/^option :name must be a term that takes 1024 bytes at most, got: /
        assert_raise ArgumentError, message, fn -> GrpcLb.new(:random, [], name: name) end
      end
    end

    test "ids that are equal but not the same term differ" do
      {:ok, lb} = GrpcLb.new(:round_robin, [1, 1.0])
      assert values(lb, 2) == [1, 1.0]
    end
  end

  describe "every function" do
    test "raises ArgumentError for what is not a balancer" do
      calls = [
        &GrpcLb.pick/1,
        &GrpcLb.info/1,
        &GrpcLb.close/1,
        &GrpcLb.reconcile(&1, []),
        &GrpcLb.add(&1, []),
        &GrpcLb.remove(&1, []),
        &GrpcLb.pick(&1, :key),
        &GrpcLb.checkout/1,
        &GrpcLb.checkout(&1, :key),
        &GrpcLb.run(&1, fn _ -> :ok end),
        &GrpcLb.set_state(&1, :a, :ready),
        &GrpcLb.report(&1, :a, ""),
        &GrpcLb.Native.pick/1,
        &GrpcLb.Native.info/1,
        &GrpcLb.Native.close/1,
        &GrpcLb.Native.reconcile(&1, []),
        &GrpcLb.Native.add(&1, []),
        &GrpcLb.Native.remove(&1, []),
        &GrpcLb.Native.checkout/1,
        &GrpcLb.Native.set_state(&1, :a, :ready),
        &GrpcLb.Native.report(&1, :a, "")
      ]

      remote = :erlang.binary_to_term(<<131, 90, 0, 3, 119, 1, ?x, 1::32, 1::32, 2::32, 3::32>>)

      for call <- calls,
          {argument, kind} <- [
            {make_ref(), "another reference"},
            {remote, "another reference"},
            {:atomics.new(1, []), "another reference"},
            {self(), "a pid"},
            {nil, "an atom"},
            {[], "a list"},
            {%{}, "a map"},
            {"", "a binary"},
            {1, "an integer"},
            {1.5, "a float"},
            {{}, "a tuple"},
            {fn -> :ok end, "a function"}
          ] do
        error = assert_raise ArgumentError, fn -> call.(argument) end
        assert error.message =~ "argument 1 is not a balancer"
        assert error.message =~ "got " <> kind
      end
    end

    test "says where the balancer is of what leads to one" do
      {:ok, lb} = GrpcLb.new(:round_robin, [])
      handle = %GrpcLb.Connection{name: "payments", balancer: lb}

      for {argument, hint} <- [
            {:payments, "GrpcLb.Connection.handle!/1 finds a connection by name"},
            {:payments, "a pool is called by name with GrpcLb.Pool"},
            {"payments", "GrpcLb.Connection.handle!/1 finds a connection by name"},
            {handle, "a handle of GrpcLb.Connection has its balancer in the field :balancer"}
          ],
          call <- [
            &GrpcLb.pick/1,
            &GrpcLb.info/1,
            &GrpcLb.describe/1,
            &GrpcLb.run(&1, fn v -> v end)
          ] do
        error = assert_raise ArgumentError, fn -> call.(argument) end
        assert error.message =~ hint
      end
    end
  end

  describe "reconcile/2" do
    test "counts ids, whatever else changes about them" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1, b: 2)

      assert GrpcLb.reconcile(lb, [{:b, 3}, {:c, 4}]) ==
               {:ok, %{added: 1, removed: 1, kept: 1}}

      assert values(lb, 2) == [3, 4]
      assert GrpcLb.reconcile(lb, []) == {:ok, %{added: 0, removed: 2, kept: 0}}
      assert GrpcLb.pick(lb) == {:error, :no_backends}
      assert GrpcLb.reconcile(lb, [:z]) == {:ok, %{added: 1, removed: 0, kept: 0}}
      assert GrpcLb.pick(lb) == {:ok, :z}
    end

    test "keeps what was counted for an id" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1, b: 2)
      values(lb, 10)
      GrpcLb.reconcile(lb, b: 20, c: 3)
      values(lb, 4)
      assert [%{id: :b, picks: 7}, %{id: :c, picks: 2}] = GrpcLb.info(lb).backends
      GrpcLb.reconcile(lb, c: 3)
      GrpcLb.reconcile(lb, b: 2, c: 3)
      assert [%{id: :b, picks: 0}, %{id: :c, picks: 2}] = GrpcLb.info(lb).backends
    end

    test "that is refused changes nothing" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1)
      before = GrpcLb.info(lb)

      for bad <- [[:b, :b], [{:b, 1, weight: -1}], :b, [:b | :c]] do
        assert_raise ArgumentError, fn -> GrpcLb.reconcile(lb, bad) end
        assert_raise ArgumentError, fn -> GrpcLb.add(lb, bad) end
      end

      for bad <- [:a, [:a | :b], %{}] do
        assert_raise ArgumentError, fn -> GrpcLb.remove(lb, bad) end
      end

      assert GrpcLb.info(lb) == before
    end
  end

  describe "add/2 and remove/2" do
    test "change what they name and leave the rest alone" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1, b: 2)
      values(lb, 4)

      assert GrpcLb.add(lb, [{:c, 3}, {:a, 10, weight: 5}]) ==
               {:ok, %{added: 1, removed: 0, kept: 2}}

      assert [
               %{id: :a, value: 10, weight: 5, picks: 2},
               %{id: :b, value: 2, picks: 2},
               %{id: :c, value: 3, picks: 0}
             ] = GrpcLb.info(lb).backends

      assert Enum.sort(values(lb, 3)) == [2, 3, 10]
      assert GrpcLb.remove(lb, [:b, :z, :b]) == {:ok, %{added: 0, removed: 1, kept: 2}}
      assert Enum.sort(values(lb, 2)) == [3, 10]
      assert [%{id: :a, picks: 4}, %{id: :c, picks: 2}] = GrpcLb.info(lb).backends
    end

    test "that name nothing change nothing" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1)
      before = GrpcLb.info(lb)
      assert GrpcLb.add(lb, []) == {:ok, %{added: 0, removed: 0, kept: 1}}
      assert GrpcLb.remove(lb, []) == {:ok, %{added: 0, removed: 0, kept: 1}}
      assert GrpcLb.remove(lb, [:z]) == {:ok, %{added: 0, removed: 0, kept: 1}}
      assert GrpcLb.info(lb) == before
    end

    test "bring back what was removed, counted anew" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1, b: 2)
      values(lb, 2)
      GrpcLb.remove(lb, [:a])
      GrpcLb.add(lb, a: 3)
      assert [%{id: :b, picks: 1}, %{id: :a, value: 3, picks: 0}] = GrpcLb.info(lb).backends
    end

    test "keep to the list's order where it matters" do
      {:ok, lb} = GrpcLb.new(:pick_first, [:a, :b, :c])
      GrpcLb.remove(lb, [:a])
      assert GrpcLb.pick(lb) == {:ok, :b}
      GrpcLb.add(lb, [:a])
      assert GrpcLb.pick(lb) == {:ok, :b}
      GrpcLb.remove(lb, [:b])
      assert GrpcLb.pick(lb) == {:ok, :c}
    end

    test "begin a rotation anew that is to be reset" do
      {:ok, lb} = GrpcLb.new({:round_robin, on_reconcile: :reset}, [:a, :b, :c])
      values(lb, 2)
      GrpcLb.add(lb, [:d])
      assert values(lb, 4) == [:a, :b, :c, :d]
    end

    test "are equal, one by one, to a list given at once" do
      ids = Enum.to_list(1..1_000)
      {:ok, lb} = GrpcLb.new(:round_robin, [])
      for id <- ids, do: {:ok, %{added: 1}} = GrpcLb.add(lb, [{id, {:value, id}}])
      assert values(lb, 1_000) == for(id <- ids, do: {:value, id})
      for id <- Enum.take_every(ids, 2), do: {:ok, %{removed: 1}} = GrpcLb.remove(lb, [id])
      left = ids -- Enum.take_every(ids, 2)
      assert Enum.map(GrpcLb.info(lb).backends, & &1.id) == left
      assert Enum.sort(values(lb, 500)) == for(id <- left, do: {:value, id})
    end

    test "say that the balancer is closed" do
      {:ok, lb} = GrpcLb.new(:random, [:a])
      GrpcLb.close(lb)
      assert GrpcLb.add(lb, [:b]) == {:error, :closed}
      assert GrpcLb.remove(lb, [:a]) == {:error, :closed}
    end
  end

  describe "info/1" do
    test "describes the balancer" do
      {:ok, lb} = GrpcLb.new({:round_robin, cursor: :per_scheduler}, [{:a, "x", weight: 3}])
      GrpcLb.pick(lb)

      assert GrpcLb.info(lb) == %{
               name: nil,
               policy: :round_robin,
               generation: 1,
               closed: false,
               malformed_reports: 0,
               layers: [
                 %{priority: 0, locality: nil, share: 1.0, backends: 1, healthy: 1, panics: false}
               ],
               table: nil,
               backends: [
                 %{
                   id: :a,
                   value: "x",
                   state: :ready,
                   owner: nil,
                   in_subset: true,
                   priority: 0,
                   locality: nil,
                   weight: 3,
                   current_weight: 3.0,
                   in_flight: 0,
                   oldest_in_flight: nil,
                   table_share: nil,
                   latency_ns: nil,
                   picks: 1,
                   successes: 0,
                   failures: 0,
                   ejected_until: nil,
                   ejected_by: nil,
                   times_ejected: 0
                 }
               ]
             }

      GrpcLb.reconcile(lb, [])
      GrpcLb.close(lb)
      assert %{generation: 3, closed: true, backends: []} = GrpcLb.info(lb)
    end

    test "shows neither backends nor layers of one that is closed" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, {:b, 2, priority: 1}])
      assert [_, _] = GrpcLb.info(lb).layers
      GrpcLb.close(lb)
      assert %{closed: true, backends: [], layers: []} = GrpcLb.info(lb)
    end

    test "shows how old the oldest call in flight is" do
      clock = GrpcLb.Clock.manual()
      {:ok, lb} = GrpcLb.new(:round_robin, [:a], clock: clock)
      oldest = fn -> hd(GrpcLb.info(lb).backends).oldest_in_flight end
      {:ok, :a, lost} = GrpcLb.checkout(lb)
      assert oldest.() == 0
      for _ <- 1..50, do: GrpcLb.run(lb, fn _ -> GrpcLb.Clock.advance(clock, 1_000) end)
      assert oldest.() == 50_000
      GrpcLb.complete(lost, :ok)
      assert oldest.() == nil
    end

    test "counts checkouts alone where counting would cost the pick" do
      for policy <- [:random, :pick_first, :least_request, :peak_ewma, :weighted_round_robin] do
        {:ok, lb} = GrpcLb.new(policy, [:a])
        GrpcLb.pick(lb)
        assert %{policy: ^policy, backends: [%{picks: 0}]} = GrpcLb.info(lb)
        GrpcLb.run(lb, fn :a -> :ok end)
        assert %{backends: [%{picks: 1}]} = GrpcLb.info(lb)
      end
    end
  end

  describe "close/1" do
    test "is final and can be repeated" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      assert GrpcLb.close(lb) == :ok
      assert GrpcLb.close(lb) == :ok
      assert GrpcLb.pick(lb) == {:error, :closed}
      assert GrpcLb.reconcile(lb, [:a]) == {:error, :closed}
    end

    test "leaves other balancers alone" do
      {:ok, one} = GrpcLb.new(:round_robin, [:a])
      {:ok, other} = GrpcLb.new(:round_robin, [:a])
      GrpcLb.close(one)
      assert GrpcLb.pick(other) == {:ok, :a}
    end
  end
end
