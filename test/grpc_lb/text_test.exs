defmodule GrpcLb.TextTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Loud
  alias GrpcLb.Text

  doctest Text
  doctest GrpcLb.Key, only: [fits?: 2]
  doctest GrpcLb.Name

  defp shared(n), do: Enum.reduce(1..n, :x, fn _, shared -> {shared, shared} end)

  test "what is not large is shown as inspect/1 shows it" do
    terms = [
      [],
      [1, 2],
      [1 | 2],
      [:a, "b" | {3}],
      ~c"abc",
      ~c"it's\n",
      ~c"abc" ++ [:d],
      [255, 256],
      [a: 1],
      [{:"a b", [b: {}]}],
      [{String, 1}],
      [{:a, 1}, :b],
      [{:a, 1} | :b],
      {},
      {1, {2}},
      %{},
      %{a: 1, b: %{c: [2]}},
      %{1 => 2, a: 3},
      %{String => 1},
      "a\"\n\e",
      <<1, 255>>,
      <<1::3>>,
      -1.5,
      Bitwise.bsl(1, 512) - 1,
      nil,
      String,
      :"a b",
      self(),
      make_ref(),
      &IO.puts/1,
      fn -> self() end,
      1..3,
      MapSet.new([1]),
      ~r/a/i,
      ~U[2026-01-01 00:00:00Z],
      %Loud{},
      {%Loud{}, [%Loud{}]},
      %GrpcLb.Address{ip: {1, 2, 3, 4}, port: 5},
      Enum.to_list(1..50),
      Enum.to_list(1..51)
    ]

    # Newer versions of it show more than 50 elements.
    for term <- terms, do: assert(Text.show(term) == inspect(term, limit: 50))
  end

  test "what is large takes as much as it may" do
    large = [
      shared(60),
      [shared(60)],
      [1 | shared(60)],
      %{shared(60) => shared(60)},
      %Loud{does: shared(60)},
      %Loud{does: :shout},
      %MapSet{map: shared(60)},
      Enum.to_list(1..100_000),
      Map.new(1..100_000, &{&1, &1}),
      Enum.reduce(1..100_000, [], fn _, nested -> [nested] end),
      List.to_tuple(Enum.to_list(1..100_000)),
      String.duplicate("a", 1_000_000),
      List.duplicate(?a, 1_000_000),
      :binary.copy(<<255>>, 1_000_000),
      [Bitwise.bsl(1, 4_000_000), Bitwise.bsl(-1, 4_000_000)]
    ]

    for term <- large, bytes <- [40, 200] do
      text = Text.show(term, bytes)
      assert String.valid?(text)
      assert byte_size(text) <= bytes + 100
    end
  end

  test "integers are shown by their digits only where these are few" do
    large = Bitwise.bsl(1, 512)
    assert Text.show([large, -large]) == "[a large integer, a large integer]"
    assert Text.show(%Loud{does: {large}}) == "#Loud<>"
    assert Text.show(1..Bitwise.bsl(1, 4_000_000)) == "%Range{...}"
  end

  test "what a module does to show its structs changes nothing" do
    for does <- [:raise, :throw, :exit, :shout, :mumble] do
      assert Text.show({%Loud{does: does}, 1}) == "{%GrpcLb.Test.Loud{...}, 1}"
    end
  end

  test "of a part that is left out nothing is shown" do
    assert Text.show(Enum.to_list(1..51)) =~ ~r/, 49, 50, \.\.\.\]$/

    assert Text.show(%{a: String.duplicate("b", 300), z: 1}) =~
             ~r/\A%{a: "b{190,}" <> \.\.\., \.\.\.}\z/

    assert Text.show({:a, :b, :c}, 9) == "{:a, ...}"
  end
end
