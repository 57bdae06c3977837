defmodule GrpcLb.Attack.Hostile do
  @moduledoc "Terms that nobody expects. None makes an atom that was not there."

  import Bitwise, only: [<<<: 2]

  alias GrpcLb.Attack.Stash

  @doc "Any term, small most of the time."
  def term, do: term(3)

  defp term(depth) do
    case :rand.uniform(40) do
      1 -> nil
      2 -> :rand.uniform(20)
      3 -> Enum.random([-1, 0, 0xFFFFFFFF, 0x100000000, 0xFFFFFFFFFFFFFFFF, -0x8000000000000001])
      4 -> Enum.random([1.0e308, -1.0, 5.0e-324, 0.5])
      5 -> Enum.random([:a, :ok, :error, :infinity, true, :nonode@nohost, :"", GrpcLb])
      6 -> Enum.random(["", "a", "10.0.0.1:443", <<0>>, <<0xFF>>, String.duplicate("x", 300)])
      7 -> :rand.bytes(:rand.uniform(100))
      8 -> <<1::size(3)>>
      9 -> unaligned(:rand.uniform(5_000))
      10 -> make_ref()
      11 -> self()
      12 -> Stash.get(:pid, &self/0)
      13 -> %MapSet{}
      14 -> <<0::size(7)>>
      15 -> {:a, make_ref()}
      16 -> &self/0
      17 -> elsewhere()
      18 -> fn x -> x end
      19 -> &Function.identity/1
      20 -> improper(depth)
      21 -> [1 | 2]
      22 -> Enum.to_list(1..:rand.uniform(300))
      23 -> Map.new(1..:rand.uniform(100), &{&1, &1})
      24 -> %{__struct__: Enum.random([GrpcLb.Backend, GrpcLb.Connection, Range, :none])}
      25 -> struct(Enum.random([GrpcLb.Backend, GrpcLb.Address, GrpcLb.Connection, Range]), %{})
      26 -> 1 <<< :rand.uniform(3_000)
      27 -> Enum.random([~c"abc", [0xD800], [256, -1], ~c""])
      28 -> []
      29 -> {}
      30 -> make_ref()
      31 -> Enum.random([[a: 1], [a: 1, a: 2], [{:a, 1, 2}], [:a], [{"a", 1}], [nil]])
      n when n <= 35 -> for(_ <- 1..:rand.uniform(4), do: deeper(depth)) |> List.to_tuple()
      n when n <= 38 -> for _ <- 1..:rand.uniform(4), do: deeper(depth)
      _ -> %{deeper(depth) => deeper(depth), id: deeper(depth), value: deeper(depth)}
    end
  end

  @doc """
  A thing of the library's own, for a place where it is none. No part of a value of a backend: a balancer that
  is held by its own value lives until it is closed.
  """
  def misplaced, do: Stash.get(Enum.random([:balancer, :ticket, :waiter, :clock]), &make_ref/0)

  defp deeper(0), do: :end
  defp deeper(depth), do: term(depth - 1)

  defp improper(depth), do: [deeper(depth) | deeper(depth)]

  # The VM copies what does not begin at a byte.
  defp unaligned(bytes) do
    <<_bit::1, rest::bitstring>> = <<0::1, :binary.copy("a", bytes)::binary>>
    rest
  end

  # A pid, a port and a reference of a node that is not there, in their external form.
  defp elsewhere do
    Enum.random([
      <<131, 88, 119, 1, ?n, 0::32, 1::32, 0::32, 1::32>>,
      <<131, 120, 119, 1, ?n, 1::64, 1::32>>,
      <<131, 90, 3::16, 119, 1, ?n, 1::32, 1::32, 2::32, 3::32>>
    ])
    |> :erlang.binary_to_term()
  end

  @doc "A large one. No value of a backend, for picks copy that."
  def large do
    Process.put(:large, true)

    case :rand.uniform(6) do
      1 -> Enum.to_list(1..100_000)
      2 -> :erlang.make_tuple(500_000, 0)
      3 -> :binary.copy("a", 20_000_000)
      4 -> Map.new(1..20_000, &{&1, &1})
      5 -> 1 <<< 500_000
      6 -> Enum.reduce(1..100_000, [], fn _, nested -> [nested] end)
    end
  end

  @doc """
  A term that is small only as long as what is in it is shared. Whatever copies it needs 2^60 words, so it
  must stay in the process that made it, and is no message, no value of a closure and no row of a table.
  """
  def shared do
    Process.put(:large, true)
    Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end)
  end
end
