defmodule GrpcLb.Connection.RotationTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Workers, only: [idle: 0, kill: 1, picking_during: 3]

  alias GrpcLb.Connection.Rotation
  alias GrpcLb.Secret

  setup do
    {:ok, balancer} = GrpcLb.new(:round_robin, [])
    owner = idle()
    on_exit(fn -> Process.exit(owner, :kill) end)
    %{balancer: balancer, rotation: Rotation.new(balancer), owner: owner}
  end

  defp up(id, value, owner), do: {id, {:up, Secret.hide(value), owner}, [weight: 1]}
  defp not_up(id), do: {id, :not_up, [weight: 1]}

  defp update(rotation, wanted) do
    {:ok, _changes, [], rotation} = Rotation.update(rotation, wanted)
    rotation
  end

  defp listed(balancer) do
    for %{id: id, state: state, value: value} <- GrpcLb.info(balancer).backends,
        do: {id, state, value}
  end

  defp picks(balancer, n), do: for(_ <- 1..n, do: GrpcLb.pick(balancer))

  test "interns where its balancer does, and keeps what stays where it is", %{owner: owner} do
    {:ok, balancer} = GrpcLb.new(:round_robin, [], values: :interned)
    [one, other] = [{:transport, 1}, {:transport, 2}]
    rotation = update(Rotation.new(balancer), [up("a", one, owner), not_up("b")])
    [{:ok, picked}, {:ok, again}] = picks(balancer, 2)
    assert picked == one and :erts_debug.same(picked, again)

    update(rotation, [up("a", one, owner), up("b", other, owner)])
    [{:ok, first}, {:ok, second}] = Enum.sort(picks(balancer, 2))
    assert :erts_debug.same(picked, first)
    assert second == other
  end

  test "lists what is up, in order, with weights", context do
    %{balancer: balancer, rotation: rotation, owner: owner} = context
    refute Rotation.ready?(rotation)

    rotation =
      update(rotation, [
        not_up("new"),
        {"b", {:up, Secret.hide(2), owner}, [weight: 7]},
        up("a", 1, owner)
      ])

    assert Rotation.ready?(rotation)
    assert listed(balancer) == [{"b", :ready, 2}, {"a", :ready, 1}]

    assert [%{weight: 7, owner: ^owner}, %{weight: 1, owner: ^owner}] =
             GrpcLb.info(balancer).backends
  end

  test "with a policy that hashes lists all at once, so that keys go where they go for others" do
    ids = for n <- 1..8, do: "10.0.0.#{n}:50051"
    owner = idle()

    for policy <- [:ring_hash, :maglev] do
      {:ok, balancer} = GrpcLb.new(policy, [])
      {:ok, others} = GrpcLb.new(policy, Enum.reverse(ids))
      led = fn lb -> for key <- 1..200, do: elem(GrpcLb.pick(lb, {:key, key}), 1) end
      rotation = Rotation.new(balancer)
      rotation = update(rotation, [up(hd(ids), hd(ids), owner) | Enum.map(tl(ids), &not_up/1)])
      assert Enum.uniq(led.(balancer)) == [hd(ids)]
      assert for(backend <- GrpcLb.info(balancer).backends, do: backend.id) == ids
      entries = GrpcLb.info(balancer).table.entries
      rotation = update(rotation, for(id <- ids, do: up(id, id, owner)))
      assert led.(balancer) == led.(others)
      # One that is down is passed over as everywhere.
      [down | _] = led.(others)

      update(
        rotation,
        for(id <- ids, do: if(id == down, do: not_up(id), else: up(id, id, owner)))
      )

      :ok = GrpcLb.set_state(others, down, :transient_failure)
      assert led.(balancer) == led.(others)
      assert GrpcLb.info(balancer).table.entries == entries
    end

    Process.exit(owner, :kill)
  end

  test "keeps what was up in its place, and does not pick it", context do
    %{balancer: balancer, rotation: rotation, owner: owner} = context
    rotation = update(rotation, [up("a", 1, owner), up("b", 2, owner)])
    assert picks(balancer, 2) == [ok: 1, ok: 2]
    rotation = update(rotation, [not_up("a"), up("b", 2, owner)])
    assert listed(balancer) == [{"a", :connecting, nil}, {"b", :ready, 2}]
    assert picks(balancer, 2) == [ok: 2, ok: 2]
    rotation = update(rotation, [not_up("a"), not_up("b")])
    refute Rotation.ready?(rotation)
    assert GrpcLb.pick(balancer) == {:error, :no_backends}
    update(rotation, [up("a", 3, owner), not_up("b")])
    assert listed(balancer) == [{"a", :ready, 3}, {"b", :connecting, nil}]
    assert [%{picks: 1}, %{picks: 3}] = GrpcLb.info(balancer).backends
    assert picks(balancer, 2) == [ok: 3, ok: 3]
  end

  test "forgets what is not wanted, up or not, and takes it back when it is up", context do
    %{balancer: balancer, rotation: rotation, owner: owner} = context
    rotation = update(rotation, [up("a", 1, owner), up("b", 2, owner)])
    rotation = update(rotation, [not_up("a"), up("b", 2, owner)])
    rotation = update(rotation, [])
    assert listed(balancer) == []
    assert Rotation.update(rotation, [not_up("a"), not_up("b")]) == :same
    update(rotation, [not_up("a"), up("b", 3, owner)])
    assert listed(balancer) == [{"b", :ready, 3}]
  end

  test "says when nothing is to be done, and when the balancer is closed", context do
    %{balancer: balancer, rotation: rotation, owner: owner} = context
    rotation = update(rotation, [up("a", 1, owner)])
    assert Rotation.update(rotation, [up("a", 1, owner)]) == :same
    assert Rotation.update(rotation, [up("a", 1, owner), not_up("b")]) == :same
    GrpcLb.close(balancer)
    assert Rotation.update(rotation, [not_up("a")]) == {:error, :closed}
    assert Rotation.update(rotation, []) == {:error, :closed}
  end

  test "goes on from what another process has left, at whatever point", context do
    %{balancer: balancer, owner: owner} = context
    [dead, dying] = for _ <- 1..2, do: idle()

    {:ok, _} =
      GrpcLb.reconcile(balancer, [
        {"up", 1, owner: owner},
        {"coming back", 2, owner: owner},
        {"dead", 3, owner: dead},
        {"going", 4, owner: dying},
        {"gone", 5, owner: owner}
      ])

    for _ <- 1..5, do: GrpcLb.pick(balancer)
    GrpcLb.set_state(balancer, "coming back", :connecting)
    kill([dead])
    rotation = Rotation.adopt(balancer)

    rotation =
      update(rotation, [
        not_up("never"),
        up("up", 1, owner),
        up("coming back", 2, owner),
        up("dead", 6, owner),
        not_up("going")
      ])

    assert Rotation.ready?(rotation)

    assert listed(balancer) == [
             {"up", :ready, 1},
             {"coming back", :ready, 2},
             {"dead", :ready, 6},
             {"going", :connecting, nil}
           ]

    assert Enum.map(GrpcLb.info(balancer).backends, & &1.picks) == [1, 1, 1, 1]
  end

  @tag :concurrency
  test "no pick sees one that is down while transports come and go", context do
    %{balancer: balancer, rotation: rotation, owner: owner} = context
    stays = up("stays", :stays, owner)
    rotation = update(rotation, [stays, up("a", 0, owner)])

    # Who picks remembers what differs only, and all values that are up are alike here.
    pick = fn ->
      with {:ok, value} when value != nil <- GrpcLb.pick(balancer), do: :up
    end

    seen =
      picking_during(4, pick, fn ->
        for n <- 1..100, reduce: rotation do
          rotation ->
            rotation
            |> update([stays, not_up("a")])
            |> update([stays, up("a", n, owner)])
        end
      end)

    assert Enum.uniq(seen) == [[before: :up, after: :up]]
  end
end
