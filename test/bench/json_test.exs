Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.JsonTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Bench.Json

  test "what is written is read again" do
    term = %{
      text: "\"quoted\", a \\, a line\nand µ",
      numbers: [0, -7, 1.5, -0.25, 1.0e9],
      nothing: nil,
      facts: [true, false],
      empty: %{list: [], inner: [%{a: 1}, %{a: 2}]}
    }

    assert Json.decode(Json.encode(term)) ==
             put_in(term.empty, %{list: [], inner: [%{a: 1}, %{a: 2}]})
  end

  test "the forms that others write are read" do
    assert Json.decode(~s( {"a":[1,2e3,{"b":"\\u00b5\\t\\/"}]} )) == %{
             a: [1, 2.0e3, %{b: "µ\t/"}]
           }
  end

  test "what is no JSON is refused, with where" do
    for text <- ["", "[1,]", "{\"a\" 1}", "[1 2]", "\"open", "nul", "1 1"] do
      assert_raise ArgumentError, ~r/^no JSON/, fn -> Json.decode(text) end
    end
  end
end
