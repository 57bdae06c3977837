defmodule GrpcLb.LayersTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Clock

  defp picks(lb, n) do
    Enum.frequencies(
      for _ <- 1..n do
        {:ok, value} = GrpcLb.pick(lb)
        value
      end
    )
  end

  defp idle, do: spawn_link(fn -> Process.sleep(:infinity) end)

  defp kill(pid) do
    Process.unlink(pid)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, :process, ^pid, :killed}, 5_000
  end

  defp shares(lb) do
    for layer <- GrpcLb.info(lb).layers, do: {layer.priority, layer.locality, layer.share}
  end

  describe "priority" do
    for policy <- GrpcLb.Policy.names() do
      test "with #{policy} the first that has a backend to pick serves" do
        {:ok, lb} =
          GrpcLb.new(unquote(policy), [
            {:far, :far, priority: 2},
            {:near, :near, priority: 1},
            %GrpcLb.Backend{id: :far2, value: :far2, priority: 2}
          ])

        assert picks(lb, 20) == %{near: 20}
        assert GrpcLb.run(lb, & &1) == :near
        GrpcLb.set_state(lb, :near, :transient_failure)
        assert lb |> picks(20) |> Map.keys() |> Enum.all?(&(&1 in [:far, :far2]))
        GrpcLb.set_state(lb, :near, :ready)
        assert picks(lb, 20) == %{near: 20}
        GrpcLb.remove(lb, [:near])
        assert {:ok, value} = GrpcLb.pick(lb)
        assert value in [:far, :far2]
      end
    end

    test "the death of an owner moves picks on, and they come back" do
      [near, far] = [idle(), idle()]

      {:ok, lb} =
        GrpcLb.new(:round_robin, [{near, near, owner: near}, {far, far, owner: far, priority: 1}])

      assert picks(lb, 5) == %{near => 5}
      kill(near)
      assert picks(lb, 5) == %{far => 5}
      again = idle()
      GrpcLb.add(lb, [{near, again, owner: again}])
      assert picks(lb, 5) == %{again => 5}
    end

    test "an ejection moves picks on until it is over" do
      clock = Clock.manual()

      {:ok, lb} =
        GrpcLb.new(:round_robin, [{:near, :near, []}, {:far, :far, priority: 1}],
          clock: clock,
          outlier_detection: [consecutive_failures: 2]
        )

      for _ <- 1..2, do: GrpcLb.run(lb, fn :near -> {:error, :down} end)
      assert picks(lb, 5) == %{far: 5}
      assert [%{share: +0.0, healthy: 0}, %{share: 1.0, healthy: 1}] = GrpcLb.info(lb).layers
      Clock.advance(clock, 40_001)
      assert picks(lb, 5) == %{near: 5}
    end

    test "what has no room at one priority goes to the next, under one limit" do
      {:ok, lb} =
        GrpcLb.new(:least_request, [:near, {:far, :far, priority: 1}],
          max_requests_per_backend: 1,
          max_requests: 2
        )

      assert {:ok, :near, _} = GrpcLb.checkout(lb)
      assert {:ok, :far, _} = GrpcLb.checkout(lb)
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
    end

    test "a reconcile that names another priority keeps what is known" do
      {:ok, lb} = GrpcLb.new(:round_robin, [:a, {:b, :b, priority: 1}])
      for _ <- 1..3, do: GrpcLb.run(lb, fn :a -> :ok end)
      GrpcLb.reconcile(lb, [{:a, :a, priority: 5}, {:b, :b, priority: 1}])
      assert picks(lb, 4) == %{b: 4}

      assert [%{id: :a, priority: 5, successes: 3, picks: 3}, %{id: :b, priority: 1, picks: 4}] =
               GrpcLb.info(lb).backends

      assert [{1, nil, 1.0}, {5, nil, +0.0}] = shares(lb)
    end

    test "must be an integer from 0 to 4294967295" do
      for bad <- [-1, 1.0, nil, :first, 0x100000000] do
        assert_raise ArgumentError, ~r/option :priority of backend 0 must be an integer/, fn ->
          GrpcLb.new(:random, [{:a, :a, priority: bad}])
        end
      end

      assert_raise ArgumentError, ~r/no priority/, fn ->
        GrpcLb.Native.new({:random, %{}}, [{:a, :a, %{priority: -1}}], %{})
      end
    end
  end

  describe "overprovisioning_factor" do
    test "has the next priority take over step by step" do
      backends = for i <- 1..8, do: {i, i, priority: div(i - 1, 4)}
      {:ok, lb} = GrpcLb.new(:round_robin, backends, overprovisioning_factor: 140)
      near = fn -> lb |> picks(1_000) |> Map.take([1, 2, 3, 4]) |> Map.values() |> Enum.sum() end
      assert near.() == 1_000

      for {down, expected} <- [{1, 1_000}, {2, 700}, {3, 350}, {4, 0}] do
        GrpcLb.set_state(lb, down, :transient_failure)
        assert near.() == expected
      end

      GrpcLb.set_state(lb, 1, :ready)
      assert near.() == 350
      assert GrpcLb.configure(lb, overprovisioning_factor: nil) == {:ok, :changed}
      assert near.() == 1_000
      assert GrpcLb.configure(lb, overprovisioning_factor: 100) == {:ok, :changed}
      assert near.() == 250
    end

    test "panics for each priority, and only when all together have too little" do
      backends = for i <- 1..6, do: {i, i, priority: if(i <= 4, do: 0, else: 1)}

      {:ok, lb} =
        GrpcLb.new(:round_robin, backends, overprovisioning_factor: 140, panic_threshold: 50)

      panics = fn -> for layer <- GrpcLb.info(lb).layers, do: layer.panics end
      for down <- 1..3, do: GrpcLb.set_state(lb, down, :transient_failure)
      assert panics.() == [false, false]
      for down <- 5..6, do: GrpcLb.set_state(lb, down, :transient_failure)
      assert panics.() == [true, true]
      assert lb |> picks(600) |> Enum.sort() |> Enum.all?(fn {_, n} -> n in 98..102 end)
    end

    test "must be a percentage, or nil" do
      for bad <- [0, -1, 1.4, "140", 0x100000000] do
        assert_raise ArgumentError, ~r/option :overprovisioning_factor must be/, fn ->
          GrpcLb.new(:random, [], overprovisioning_factor: bad)
        end
      end

      assert_raise ArgumentError, ~r/no overprovisioning_factor/, fn ->
        GrpcLb.Native.new({:random, %{}}, [], %{overprovisioning_factor: 0})
      end
    end
  end

  describe "locality" do
    setup do
      backends = for {name, i} <- [{"a", 1}, {"b", 2}, {"b", 3}], do: {i, i, locality: name}
      %{backends: backends ++ [4]}
    end

    for policy <- Enum.reject(GrpcLb.Policy.names(), &GrpcLb.Policy.sticky?/1) do
      test "with #{policy} the picks are shared by weight", %{backends: backends} do
        weights = %{"a" => 1, "b" => 2, nil => 5}
        {:ok, lb} = GrpcLb.new(unquote(policy), backends, locality_weights: weights)
        picked = picks(lb, 800)
        assert picked[1] in 99..101
        assert (Map.get(picked, 2, 0) + Map.get(picked, 3, 0)) in 198..202
        assert picked[4] in 499..501
      end
    end

    test "shares go by weight, and not by how many backends there are", %{backends: backends} do
      {:ok, lb} = GrpcLb.new(:round_robin, backends)
      assert [{0, nil, third}, {0, "a", third}, {0, "b", third}] = shares(lb)
      assert_in_delta third, 1 / 3, 1.0e-9
      assert GrpcLb.configure(lb, locality_weights: %{nil => 0, "a" => 0}) == {:ok, :changed}
      assert [{0, nil, +0.0}, {0, "a", +0.0}, {0, "b", 1.0}] = shares(lb)
      assert picks(lb, 10) == %{2 => 5, 3 => 5}
      for id <- 2..3, do: GrpcLb.set_state(lb, id, :connecting)
      assert picks(lb, 10) == %{1 => 5, 4 => 5}
      assert GrpcLb.configure(lb, locality_weights: %{}) == {:ok, :changed}
      assert GrpcLb.configure(lb, locality_weights: %{}) == {:ok, :unchanged}
    end

    for policy <- Enum.filter(GrpcLb.Policy.names(), &GrpcLb.Policy.sticky?/1) do
      test "with #{policy} a key has one locality, and the shares are those of keys", context do
        weights = %{"a" => 1, "b" => 2, nil => 5}
        {:ok, lb} = GrpcLb.new(unquote(policy), context.backends, locality_weights: weights)
        pick = fn key -> elem({:ok, _} = GrpcLb.pick(lb, "key #{key}"), 1) end
        before = for key <- 1..8_000, do: pick.(key)
        assert before == for(key <- 1..8_000, do: pick.(key))
        picked = Enum.frequencies(before)
        # 1,000 and 5,000 are expected, with standard deviations of 30 and 43.
        assert picked[1] in 880..1_120
        assert picked[4] in 4_830..5_170
        # Of one locality that is gone the keys go elsewhere, and come back.
        GrpcLb.set_state(lb, 4, :connecting)
        refute Enum.any?(1..1_000, &(pick.(&1) == 4))
        GrpcLb.set_state(lb, 4, :ready)
        assert Enum.take(before, 1_000) == for(key <- 1..1_000, do: pick.(key))
      end
    end

    test "shares are those of one priority" do
      backends =
        for p <- 0..1, name <- ["a", "b"], do: {{p, name}, {p, name}, priority: p, locality: name}

      {:ok, lb} = GrpcLb.new(:random, backends, locality_weights: %{"a" => 3})
      assert picks(lb, 400) == %{{0, "a"} => 300, {0, "b"} => 100}
      for name <- ["a", "b"], do: GrpcLb.set_state(lb, {0, name}, :draining)
      assert picks(lb, 400) == %{{1, "a"} => 300, {1, "b"} => 100}
    end

    test "must be a short string, or nil" do
      for bad <- ["", :a, String.duplicate("x", 256), <<255>>, {"region", "zone"}] do
        assert_raise ArgumentError, ~r/option :locality of backend 1 must be a string/, fn ->
          GrpcLb.new(:random, [:a, {:b, :b, locality: bad}])
        end
      end
    end

    test "weights must be a map of localities to numbers" do
      for bad <- [
            [],
            nil,
            [a: 1],
            %{a: 1},
            %{"a" => -1},
            %{"a" => "1"},
            %{"" => 1},
            %{"a" => 0x100000000},
            # Which can be enumerated, if they are whole.
            1..3,
            Map.put(1..3, :step, nil),
            MapSet.new([{"a", 1}])
          ] do
        assert_raise ArgumentError, ~r/option :locality_weights must be a map/, fn ->
          GrpcLb.new(:random, [], locality_weights: bad)
        end
      end

      assert_raise ArgumentError, ~r/no locality_weights/, fn ->
        GrpcLb.Native.new({:random, %{}}, [], %{locality_weights: %{"a" => -1.0}})
      end
    end
  end

  # Where each layer looked for an empty one among all before it, this took minutes.
  test "as many as there are backends come and go" do
    layered = fn priorities -> for i <- priorities, do: {i, i, priority: i} end
    {:ok, lb} = GrpcLb.new(:round_robin, layered.(100_000..199_999))
    assert GrpcLb.pick(lb) == {:ok, 100_000}
    replaced = %{added: 99_999, removed: 99_999, kept: 1}
    assert GrpcLb.reconcile(lb, layered.(1..100_000)) == {:ok, replaced}
    assert GrpcLb.pick(lb) == {:ok, 1}
    assert GrpcLb.reconcile(lb, layered.(100_000..199_999)) == {:ok, replaced}
    assert GrpcLb.pick(lb) == {:ok, 100_000}
    assert GrpcLb.reconcile(lb, []) == {:ok, %{added: 0, removed: 100_000, kept: 0}}
    assert %{layers: []} = GrpcLb.info(lb)
    assert GrpcLb.reconcile(lb, layered.([7])) == {:ok, %{added: 1, removed: 0, kept: 0}}
    assert [%{priority: 7, backends: 1}] = GrpcLb.info(lb).layers
  end

  describe "under load" do
    # The layers come and go while 50 processes pick 100 backends.
    test "every pick is of one whole list" do
      near = for i <- 1..50, do: {i, {:near, i}, locality: "zone #{rem(i, 3)}"}
      far = for i <- 51..100, do: {i, {:far, i}, priority: 1, locality: "zone #{rem(i, 3)}"}
      {:ok, lb} = GrpcLb.new(:round_robin, near ++ far)

      pickers =
        for _ <- 1..50 do
          Task.async(fn ->
            for _ <- 1..2_000 do
              assert {:ok, {_where, i}} = GrpcLb.pick(lb)
              assert i in 1..100
              assert {:ok, {_where, _i}, ticket} = GrpcLb.checkout(lb)
              :ok = GrpcLb.complete(ticket, :ok)
            end
          end)
        end

      for round <- 1..50 do
        {:ok, _} = GrpcLb.reconcile(lb, if(rem(round, 2) == 0, do: near ++ far, else: far))
        GrpcLb.set_state(lb, 51, if(rem(round, 3) == 0, do: :ready, else: :connecting))
      end

      Task.await_many(pickers, :infinity)
      GrpcLb.reconcile(lb, near ++ far)
      assert Enum.all?(GrpcLb.info(lb).backends, &(&1.in_flight == 0))
      assert lb |> picks(150) |> Map.keys() |> Enum.all?(&match?({:near, _}, &1))
    end

    test "who hears of a death picks the living, wherever they are" do
      owners = for priority <- 0..2, _ <- 1..30, do: {idle(), priority}
      backends = for {pid, priority} <- owners, do: {pid, pid, owner: pid, priority: priority}
      {:ok, lb} = GrpcLb.new(:least_request, backends)

      for {pid, _priority} <- Enum.take(owners, 89) do
        kill(pid)
        assert {:ok, picked} = GrpcLb.pick(lb)
        assert Process.alive?(picked)
      end
    end
  end
end
