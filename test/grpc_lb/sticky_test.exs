defmodule GrpcLb.StickyTest do
  # Policies that hash, through the API. Where keys lead while backends come, go, fail and are busy is
  # tested in native/core/tests/keyed.rs.
  use ExUnit.Case, async: true

  alias GrpcLb.{Key, Native, Pool, Test.Nodes}
  alias GrpcLb.Test.Peer.StickyNode

  doctest GrpcLb.Key

  @sticky [:ring_hash, :maglev]

  @backends for n <- 1..10, do: "10.0.0.#{n}:50051"

  defp new!(policy, backends \\ @backends, opts \\ []) do
    {:ok, lb} = GrpcLb.new(policy, backends, opts)
    lb
  end

  defp picks(lb, keys), do: for(key <- keys, do: elem(GrpcLb.pick(lb, key), 1))

  defp set(lb, id, state), do: :ok = GrpcLb.set_state(lb, id, state)

  describe "keys" do
    test "equal ones lead to one backend, and all of them to all backends" do
      keys = Enum.map(1..2_000, &"user #{&1}")

      for policy <- @sticky do
        lb = new!(policy)
        picked = picks(lb, keys)
        assert picks(lb, keys) == picked
        assert picked |> Enum.uniq() |> Enum.sort() == Enum.sort(@backends)
        assert for(key <- keys, do: GrpcLb.run(lb, & &1, key: key)) == picked

        checked_out =
          for key <- keys do
            {:ok, value, ticket} = GrpcLb.checkout(lb, key)
            GrpcLb.complete(ticket, :ok)
            value
          end

        assert checked_out == picked
      end
    end

    test "are hashed as by gRPC and Envoy" do
      # Published answers of Envoy's ring of 12 and of its table of 7, by the hashes themselves.
      ring = new!({:ring_hash, min_ring_size: 12}, for(n <- 90..95, do: "127.0.0.1:#{n}"))

      for {hash, port} <- [
            {0, 94},
            {3_551_244_743_356_806_947, 95},
            {3_551_244_743_356_806_948, 93},
            {16_117_243_373_044_804_880, 90}
          ],
          do: assert(GrpcLb.pick(ring, hash) == {:ok, "127.0.0.1:#{port}"})

      table = new!({:maglev, table_size: 7}, for(n <- 90..95, do: "127.0.0.1:#{n}"))
      slots = for slot <- 0..6, do: GrpcLb.pick(table, slot)
      assert slots == for(n <- [2, 4, 0, 1, 5, 0, 3], do: {:ok, "127.0.0.1:#{90 + n}"})

      # XXH64 of "bar".
      for policy <- @sticky, lb = new!(policy) do
        assert GrpcLb.pick(lb, "bar") == GrpcLb.pick(lb, 5_234_164_152_756_840_025)
      end
    end

    test "that are integers are the hash, modulo 2^64" do
      for policy <- @sticky, lb = new!(policy), hash <- [0, 1, 7_000, 2 ** 63, 2 ** 64 - 1] do
        picked = GrpcLb.pick(lb, hash)

        for same <- [hash + 2 ** 64, hash - 2 ** 64, hash + 5 * 2 ** 80] do
          assert GrpcLb.pick(lb, same) == picked
        end
      end
    end

    test "of any other kind go by their external form" do
      map = Map.new(1..100, &{{:key, &1}, "value"})
      backwards = 100..1//-1 |> Enum.map(&{{:key, &1}, "value"}) |> Map.new()

      for policy <- @sticky, lb = new!(policy) do
        assert GrpcLb.pick(lb, map) == GrpcLb.pick(lb, backwards)

        for key <- [:user, {:user, 7}, [~c"list"], 1.0, self(), make_ref(), <<1::3>>, map] do
          assert GrpcLb.pick(lb, key) == GrpcLb.pick(lb, Key.external(key))
        end
      end
    end

    test "there may be none: then picks go anywhere" do
      for policy <- @sticky, lb = new!(policy) do
        for pick <- [fn -> GrpcLb.pick(lb) end, fn -> GrpcLb.pick(lb, nil) end] do
          assert length(Enum.uniq(for _ <- 1..500, do: pick.())) == 10
        end
      end
    end

    test "are ignored by policies that do not hash, and take no part in a rotation" do
      for policy <- GrpcLb.Policy.names() -- @sticky do
        refute GrpcLb.Policy.sticky?(policy)
        refute GrpcLb.Policy.sticky?({policy, []})
      end

      lb = new!(:round_robin)
      assert picks(lb, for(_ <- 1..10, do: "user 7")) == @backends
      assert Enum.all?(@sticky, &GrpcLb.Policy.sticky?/1)
    end

    test "that no NIF takes are named" do
      for policy <- [:round_robin, :ring_hash], lb = new!(policy) do
        for key <- [:user, {1, 2}, 2 ** 64, 1.0] do
          for call <- [&Native.pick/2, &Native.checkout/2, &Native.checkout_except(&1, [], &2)] do
            message =
              ~r/the key, must be a binary of 1048576 bytes at most, an integer from .* or nil, got/

            assert_raise ArgumentError, message, fn -> call.(lb, key) end
          end
        end

        long = String.duplicate("k", 2_000_000)
        assert_raise ArgumentError, ~r/1048576 bytes at most/, fn -> GrpcLb.pick(lb, long) end
      end
    end

    # Spelled out they have 2^60 parts: nothing but a bound ends that.
    test "that are small only as long as they are shared are refused, and so are such ids" do
      shared = Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end)
      closed_over = fn -> shared end

      for policy <- [:round_robin, :ring_hash], lb = new!(policy) do
        for key <- [shared, [shared], %{shared => 1}, {1, %{a: shared}}, closed_over] do
          for call <- [
                &GrpcLb.pick/2,
                &GrpcLb.checkout/2,
                &GrpcLb.run(&1, fn v -> v end, key: &2)
              ] do
            message =
              "a key must have 1048576 bytes at most, got one that is longer when it is spelled out"

            assert_raise ArgumentError, message, fn -> call.(lb, key) end
          end
        end
      end

      assert_raise ArgumentError, ~r/spelled out/, fn -> GrpcLb.new(:ring_hash, [{shared, 1}]) end
    end

    test "of many parts are spelled out" do
      key = {:a, %{b: [1, 2 | 3]}, fn x -> x end, Map.new(1..100, &{&1, &1}), <<1::3>>, "text"}

      assert GrpcLb.Key.to_native(key) ==
               :erlang.term_to_binary(key, [:deterministic, minor_version: 2])

      # One byte each.
      assert byte_size(GrpcLb.Key.to_native(List.duplicate(7, 60_000))) < 60_100
    end

    test "and seeds go together" do
      seeded = fn policy -> new!(policy, @backends, seed: 7) end

      for policy <- @sticky do
        [one, other] = [seeded.(policy), seeded.(policy)]
        assert picks(one, List.duplicate(nil, 50)) == picks(other, List.duplicate(nil, 50))
        assert GrpcLb.pick(one, "user 7") == GrpcLb.pick(other, "user 7")
      end
    end
  end

  describe "texts of backends" do
    test "are the id, what is given, or the external form of the id" do
      keys = 1..500

      for policy <- @sticky do
        picked = policy |> new!() |> picks(keys)
        given = for {text, n} <- Enum.with_index(@backends), do: {n, text, hash_key: text}
        assert policy |> new!(given) |> picks(keys) == picked

        structs =
          for {text, n} <- Enum.with_index(@backends),
              do: %GrpcLb.Backend{id: n, value: text, hash_key: text}

        assert policy |> new!(structs) |> picks(keys) == picked

        by_id = new!(policy, for(text <- @backends, do: {{:at, text}, text}))
        forms = for text <- @backends, do: {text, text, hash_key: Key.external({:at, text})}
        assert picks(by_id, keys) == picks(new!(policy, forms), keys)

        # Also where they are listed later.
        later = new!(policy, [])
        {:ok, _} = GrpcLb.add(later, for(text <- @backends, do: {{:at, text}, text}))
        assert picks(later, keys) == picks(by_id, keys)
        {:ok, _} = GrpcLb.reconcile(later, given)
        assert picks(later, keys) == picked
      end
    end

    test "that are none are named" do
      assert_raise ArgumentError,
                   ~r/:hash_key of backend 1 must be a binary of 1048576 bytes at most, or nil, got: :a/,
                   fn ->
                     new!(:ring_hash, ["a", {:b, 2, hash_key: :a}])
                   end

      large = String.duplicate("a", 1_048_577)

      assert_raise ArgumentError, ~r/:hash_key of backend 0 must be a binary of 1048576/, fn ->
        new!(:ring_hash, [{:b, 2, hash_key: large}])
      end

      for id <- [large, {:at, large}], backend <- [{id, 2}, {id, 2, weight: 2}] do
        assert_raise ArgumentError, ~r/^the id of backend 1 takes more than 1048576 bytes/, fn ->
          new!(:ring_hash, ["a", backend])
        end
      end

      assert %{} = new!(:ring_hash, ["a", {large, 2, hash_key: "b"}]) |> GrpcLb.info()

      policy = GrpcLb.Policy.to_native(:maglev)

      assert_raise ArgumentError,
                   "backend 1 has no hash_key, by which maglev finds its place",
                   fn ->
                     Native.new(policy, [{"a", 1, %{}}, {:b, 2, %{}}], %{})
                   end

      assert_raise ArgumentError, ~r/backend 0 has no hash_key, or one that it cannot have/, fn ->
        Native.new(policy, [{"a", 1, %{hash_key: 7}}], %{})
      end
    end
  end

  describe "options" do
    test "are checked" do
      for {policy, message} <- [
            {{:ring_hash, min_ring_size: 0},
             "option :min_ring_size of :ring_hash must be an integer from 1 to 8388608, got: 0"},
            {{:ring_hash, min_ring_size: 20, max_ring_size: 10},
             "option :min_ring_size of :ring_hash must not be above :max_ring_size, got: 20 and 10"},
            {{:maglev, table_size: 65_536},
             "option :table_size of :maglev must be a prime number from 2 to 5000011, got: 65536"},
            {{:maglev, table_size: 5_000_077},
             "option :table_size of :maglev must be a prime number from 2 to 5000011, got: 5000077"},
            {{:maglev, hash_balance_factor: 99},
             "option :hash_balance_factor of :maglev must be an integer from 100 to 4294967295, or nil, got: 99"}
          ] do
        assert_raise ArgumentError, message, fn -> new!(policy) end
      end

      for size <- [2, 3, 7, 17, 65_537, 5_000_011] do
        assert {:maglev, %{table_size: ^size}} =
                 GrpcLb.Policy.to_native({:maglev, table_size: size})
      end
    end

    test "can be changed, and move keys only as far as the table does" do
      lb = new!(:ring_hash)
      before = picks(lb, 1..500)
      bounded = {:ring_hash, hash_balance_factor: 150}
      assert GrpcLb.configure(lb, policy: bounded) == {:ok, :changed}
      assert picks(lb, 1..500) == before
      assert GrpcLb.info(lb).table.entries == 1_030
      assert GrpcLb.configure(lb, policy: {:ring_hash, min_ring_size: 4_000}) == {:ok, :changed}
      assert GrpcLb.info(lb).table == %{entries: 4_000, bytes: 4_000 * 12 + 10 * 20}
    end
  end

  test "info tells the size of the table" do
    assert GrpcLb.info(new!(:maglev)).table == %{entries: 65_537, bytes: 65_537 * 4 + 10 * 20}
    assert GrpcLb.info(new!(:random)).table == nil
  end

  test "the keys of who is down pass on, those of the others stay" do
    keys = 1..1_000

    for policy <- @sticky, lb = new!(policy) do
      before = picks(lb, keys)
      [gone | _] = before
      set(lb, gone, :transient_failure)

      for {was, now} <- Enum.zip(before, picks(lb, keys)),
          do: assert(if was == gone, do: now != gone, else: now == was)

      set(lb, gone, :ready)
      assert picks(lb, keys) == before
    end
  end

  describe "hash_balance_factor" do
    test "has a hot key use others, as long as calls are in flight" do
      for policy <- @sticky, lb = new!({policy, hash_balance_factor: 125}) do
        {:ok, hot} = GrpcLb.pick(lb, "hot")
        checkouts = for _ <- 1..100, do: GrpcLb.checkout(lb, "hot")
        assert {:ok, ^hot, _ticket} = hd(checkouts)
        of = Enum.frequencies(for {:ok, value, _ticket} <- checkouts, do: value)
        # A quarter more than a tenth of 100, and one.
        assert Enum.all?(Map.values(of), &(&1 <= 14))
        assert map_size(of) >= 8
        for {:ok, _value, ticket} <- checkouts, do: GrpcLb.complete(ticket, :ok)
        assert {:ok, ^hot, _ticket} = GrpcLb.checkout(lb, "hot")
      end
    end
  end

  describe "on two nodes" do
    @tag timeout: 180_000
    test "terms hash alike, and backends in another order are chosen alike" do
      [node] = Nodes.start(1)

      terms = [
        :atom,
        :ätom,
        :原子,
        {:user, 7},
        [1, 2.5, -3],
        Map.new(1..100, &{&1, {&1, "v"}}),
        %{a: %{b: [c: 1]}},
        self(),
        make_ref(),
        <<5::7>>,
        2 ** 100
      ]

      for policy <- @sticky ++ [{:ring_hash, min_ring_size: 10, max_ring_size: 16}] do
        backends = for n <- 1..40, do: {"10.0.0.#{n}:50051", n, weight: rem(n, 3) + 1}
        here = StickyNode.picks(policy, backends, terms ++ Enum.to_list(1..500))
        reversed = Enum.reverse(backends)
        args = [policy, reversed, terms ++ Enum.to_list(1..500)]
        assert Nodes.run(node, StickyNode, :picks, args) == here
      end

      # Ids that are no binaries have the same text, too.
      ids = for n <- 1..20, do: {{:ätom, n, %{n: n}}, n}
      here = StickyNode.picks(:maglev, ids, Enum.to_list(1..500))
      assert Nodes.run(node, StickyNode, :picks, [:maglev, ids, Enum.to_list(1..500)]) == here
    end
  end

  describe "in a pool" do
    setup %{test: test} do
      # Four entries of a member in its ring, of five members as of four.
      start_supervised!({Pool, name: test, policy: {:ring_hash, min_ring_size: 16}})

      for n <- 1..5 do
        {:ok, agent} = Agent.start_link(fn -> n end)
        :ok = Pool.join(test, agent)
      end

      %{pool: test}
    end

    test "a key leads to one member, however the call is made", %{pool: pool} do
      for key <- ["a", {:user, 7}, :b] do
        {:ok, member} = Pool.pick(pool, key)
        n = Agent.get(member, & &1)
        assert Pool.pick(pool, key) == {:ok, member}
        assert {:ok, ^member, ticket} = Pool.checkout(pool, key)
        GrpcLb.complete(ticket, :ok)
        assert Pool.run(pool, & &1, key: key) == member
        assert Pool.call(pool, {:get, & &1}, key: key) == {:ok, n}
        assert Pool.call(pool, {:get, & &1}, key: key, timeout: :infinity) == {:ok, n}
      end
    end

    test "options of a call are checked", %{pool: pool} do
      message = ~r/unknown option :keys of "?call/
      assert_raise ArgumentError, message, fn -> Pool.call(pool, :request, keys: 1) end
      assert_raise ArgumentError, ~r/:timeout/, fn -> Pool.call(pool, :request, timeout: -1) end
      assert_raise ArgumentError, ~r/timeout/, fn -> Pool.call(pool, :request, -1) end
    end

    test "a member that dies passes its keys on, and the others keep theirs", %{pool: pool} do
      before = for key <- 1..200, do: elem(Pool.pick(pool, {:key, key}), 1)
      [gone | _] = before
      Process.unlink(gone)
      Process.exit(gone, :kill)
      # Picks that begin after its death is heard of do not choose it.
      GrpcLb.Test.Eventually.eventually(fn ->
        {:ok, gone} not in for(key <- 1..200, do: Pool.pick(pool, {:key, key}))
      end)

      now = for key <- 1..200, do: elem(Pool.pick(pool, {:key, key}), 1)
      for {was, is} <- Enum.zip(before, now), was != gone, do: assert(is == was)
      refute gone in now
    end
  end
end
