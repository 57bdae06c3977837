defmodule GrpcLb.CraftedIdsTest do
  # Ids that somebody has chosen so that the VM's own hash of all of them is one: a list that is found
  # by such hashes takes minutes to build, with all who wait for the balancer.
  use ExUnit.Case, async: true

  @moduletag :capture_log

  setup do
    :erts_debug.set_internal_state(:available_internal_state, true)
    on_exit(fn -> :erts_debug.set_internal_state(:available_internal_state, false) end)
  end

  # The hash of later VMs has 64 bits, and its collisions take too long to find.
  if String.to_integer(System.otp_release()) < 26 do
    # Each turns one list into two. All compare with each other: that is 2 billion times.
    @turns 16

    test "ids with one hash make a list like any others" do
      ids = crafted(@turns)
      assert length(ids) == 65_536
      assert [_same] = ids |> Enum.map(&hash/1) |> Enum.uniq()

      {:ok, lb} = GrpcLb.new(:round_robin, ids)
      assert {:ok, %{added: 0, kept: 65_536}} = GrpcLb.reconcile(lb, ids)
      assert {:ok, %{removed: 2}} = GrpcLb.remove(lb, Enum.take(ids, 2))
    end

    # The hash of a list is made from its head to its tail: what collides goes on to collide whatever
    # follows.
    defp crafted(turns) do
      pairs =
        Enum.scan(1..turns, {nil, nil, []}, fn _turn, {_one, _other, prefix} ->
          colliding(prefix)
        end)

      for {one, other, _prefix} <- Enum.reverse(pairs), reduce: [[]] do
        tails -> for tail <- tails, head <- [one, other], do: [head | tail]
      end
    end

    # Two numbers that collide at the end of this list, and the list with one of them. None is a byte:
    # those are taken four at a time. Lists that collide may do so in the last step alone; if both do
    # with another end, they go on to.
    defp colliding(prefix) do
      Enum.reduce_while(Stream.iterate(1_000, &(&1 + 1)), %{}, fn number, seen ->
        hash = hash(prefix ++ [number])
        ends_alike? = &(hash(prefix ++ [&1, 1_000]) == hash(prefix ++ [number, 1_000]))

        case seen do
          %{^hash => other} ->
            if ends_alike?.(other),
              do: {:halt, {other, number, prefix ++ [number]}},
              else: {:cont, seen}

          _new ->
            {:cont, Map.put(seen, hash, number)}
        end
      end)
    end

    defp hash(term), do: :erts_debug.get_internal_state({:internal_hash, term})
  end
end
