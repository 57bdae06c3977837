defmodule GrpcLb.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Options

  doctest Options

  @nested [
    size: [type: {:integer, from: 1, to: 9}, doc: "how many."],
    ratio: [type: {:number, above: 0, to: 1}, default: 0.5, doc: "how much."]
  ]

  @specs [
    mode: [type: {:one_of, [:slow, :fast]}, default: :slow, doc: "how it goes."],
    speed: [
      type: {:number, from: 0},
      default: 1.0,
      only_with: {:mode, :fast},
      doc: "how fast\nit goes."
    ],
    wait: [type: {:ms, 1}, default: 5, at_least: 3, doc: "how long."],
    most: [type: {:integer, from: 0, to: 99}, default: 9, at_most: 10, doc: "how many."],
    names: [type: {:strings, at_most: 3, bytes: 5}, default: [], doc: "which."],
    pid: [type: {:or, :local_pid, nil}, default: nil, doc: "who."],
    fun: [type: {:or, {:function, 1}, nil}, default: nil, doc: "what."],
    any: [type: :any, default: :thing, doc: "whatever."],
    more: [type: {:or, {:options, @nested}, nil}, default: nil, doc: "More."]
  ]

  defmodule Stack do
    def push(_stack, _item), do: :ok
    def pop(_stack), do: :ok
  end

  @others [
    mod: [type: {:module_with_opts, push: 2, pop: 1}, secret: true],
    even: [
      type: {:or, {:reader, "an even number", &__MODULE__.read_even/1}, :none},
      default: :none,
      secret: true
    ],
    any: [type: :any],
    again: [type: {:or, {:seconds, 1}, :infinity}, default: 5],
    fast: [type: {:or, {:integer, from: 1}, nil}, default: nil, only_with: {:again, :infinity}],
    nested: [type: {:options, [size: [type: {:number, from: 0}, default: 1]]}, default: []]
  ]

  def read_even(n) when is_integer(n) and rem(n, 2) == 0, do: {:ok, {:even, n}}
  def read_even(n) when is_integer(n), do: {:error, "one is left"}
  def read_even(_other), do: :error

  defp others(opts), do: Options.validate!(opts, @others, {"thing", 7})

  defp validate(opts), do: Options.validate!(opts, @specs, "a thing")

  test "spells out what is left out" do
    assert validate([]) == Map.new(@specs, fn {option, spec} -> {option, spec[:default]} end)
    assert %{more: %{size: 3, ratio: 0.5}} = validate(more: [size: 3])
  end

  test "takes what is allowed, to its bounds" do
    fun = fn _ -> :ok end

    for {option, setting} <- [
          mode: :fast,
          wait: 0xFFFFFFFF,
          wait: 3,
          most: 0,
          most: 10,
          names: ["a", "ü", ""],
          pid: self(),
          pid: nil,
          fun: fun,
          any: nil,
          more: nil
        ] do
      assert validate([{option, setting}])[option] === setting
    end
  end

  test "makes floats of numbers" do
    assert validate(mode: :fast, speed: 2).speed === 2.0
    assert validate(more: [size: 1, ratio: 1]).more.ratio === 1.0
  end

  test "clamps" do
    assert validate(wait: 1).wait == 3
    assert validate(most: 99).most == 10
  end

  test "takes the first of an option that is given twice" do
    assert validate(most: 1, most: 2).most == 1
    assert validate(any: nil, any: 2).any == nil
    assert validate(most: 3, any: 1, most: 99).most == 3

    assert_raise ArgumentError, ~r/:wait of a thing must be/, fn -> validate(wait: 1, wait: 0) end
  end

  test "reads modules, nested options, and what a reader takes" do
    assert others(mod: Stack, any: 1) == %{
             mod: {Stack, []},
             any: 1,
             even: :none,
             again: 5,
             fast: nil,
             nested: %{size: 1.0}
           }

    opts = [mod: {Stack, 9}, any: nil, even: 4, again: :infinity, fast: 2, nested: [size: 3]]

    assert others(opts) == %{
             mod: {Stack, 9},
             any: nil,
             even: {:even, 4},
             again: :infinity,
             fast: 2,
             nested: %{size: 3.0}
           }
  end

  test "what is nil goes with all" do
    assert others(mod: Stack, any: 1, fast: nil).fast == nil
    assert_raise ArgumentError, fn -> others(mod: Stack, any: 1, fast: 1) end
  end

  test "does the same with prepared specs" do
    prepared = Options.prepare(@specs)
    assert Options.validate!([most: 3], prepared, "a thing") == validate(most: 3)

    for opts <- [:none, [most: -1], [mod: 1], [speed: 2.0], [more: []]] do
      message = assert_raise(ArgumentError, fn -> validate(opts) end).message
      assert_raise ArgumentError, message, fn -> Options.validate!(opts, prepared, "a thing") end
    end
  end

  test "names the one of many whose options are wrong, and shows no secret" do
    mod =
      "option :mod of thing 7 must be a module that exports push/2 and pop/1, or {module, opts}"

    even = "option :even of thing 7 must be an even number, or :none, got: "

    for {opts, message} <- [
          {%{a: "secret"},
           "options of thing 7 must be a keyword list, got: a term that is not shown"},
          {[:secret | "secret"],
           "options of thing 7 must be a keyword list, got: a term that is"},
          {[any: 1], String.replace(mod, "must", "is required, and must")},
          {[mod: Stack], "option :any of thing 7 is required"},
          {[mod: Enum], mod <> ", got: Enum"},
          {[mod: NoSuchModule], mod <> ", got: NoSuchModule"},
          {[mod: {Enum, "secret"}], mod <> ", got: {Enum, ...}"},
          {[mod: {Stack, "secret", 1}], mod <> ", got: a term that is not shown"},
          {[mod: {"secret", 1}], mod <> ", got: a term that is not shown"},
          {[even: 3], even <> "3 (one is left)"},
          {[even: "secret"], even <> "a term that is not shown"},
          {[again: 0],
           "option :again of thing 7 must be a number of seconds from 1, or :infinity"},
          {[again: 1.0], "option :again of thing 7 must be a number of seconds"},
          {[nested: nil], "options of :nested of thing 7 must be a keyword list, got: nil"},
          {[nested: [size: -1]], "option :size of :nested of thing 7 must be a number from 0"}
        ] do
      error = assert_raise ArgumentError, fn -> others(opts) end
      assert String.starts_with?(error.message, message), error.message
      refute error.message =~ "secret"
    end
  end

  test "reads an argument that is no option" do
    assert Options.argument!("n", {:integer, from: 0}, 0) == 0
    assert Options.argument!("stack", {:module_with_opts, pop: 1}, Stack) == {Stack, []}

    for {type, value, opts, message} <- [
          {{:integer, from: 0}, -1, [], "it must be an integer from 0, got: -1"},
          {:keyword, "a", [], "it must be a keyword list, got: \"a\""},
          {:keyword, [1 | 2], [], "it must be a keyword list, got: [1 | 2]"},
          {:keyword, "a", [secret: true],
           "it must be a keyword list, got: a term that is not shown"}
        ] do
      assert_raise ArgumentError, message, fn -> Options.argument!("it", type, value, opts) end
    end
  end

  test "names what is wrong, what was given, and what is allowed" do
    remote = :erlang.binary_to_term(<<131, 88, 119, 1, ?x, 1::32, 0::32, 1::32>>)

    for {opts, message} <- [
          {:none, "options of a thing must be a keyword list, got: :none"},
          {%{}, "options of a thing must be a keyword list"},
          {[1], "options of a thing must be a keyword list"},
          {[{:mode, :fast} | :tail], "options of a thing must be a keyword list"},
          {[{"mode", :fast}], "options of a thing must be a keyword list"},
          {[mod: :fast], "unknown option :mod of a thing, expected :mode or :speed or :wait or"},
          {[mode: :odd], "option :mode of a thing must be :slow or :fast, got: :odd"},
          {[wait: 0], "option :wait of a thing must be a number of milliseconds from 1 to 42949"},
          {[wait: 0x100000000], "option :wait"},
          {[wait: 1.0], "option :wait"},
          {[wait: :infinity], "option :wait"},
          {[most: -1], "option :most of a thing must be an integer from 0 to 99, got: -1"},
          {[most: 100], "option :most"},
          {[most: 1.0], "option :most"},
          {[mode: :fast, speed: -0.1],
           "option :speed of a thing must be a number from 0, got: -0.1"},
          {[mode: :fast, speed: "1"], "option :speed"},
          {[mode: :fast, speed: nil], "option :speed"},
          {[mode: :fast, speed: Integer.pow(10, 400)], "option :speed"},
          {[names: ["a", :b]],
           "option :names of a thing must be a list of strings, 3 at most, of 5 bytes each at most, " <>
             "got: [\"a\", "},
          {[names: ["a", "b", "c", "d"]], "option :names"},
          {[names: ["abcdef"]], "option :names"},
          {[names: ["a" | "b"]], "option :names"},
          {[names: "a"], "option :names"},
          {[names: [<<255>>]], "option :names"},
          {[pid: :me], "option :pid of a thing must be a pid of this node, or nil, got: :me"},
          {[pid: remote], "option :pid"},
          {[fun: &Kernel.+/2],
           "option :fun of a thing must be a function of one argument, or nil"},
          {[more: 1], "options of :more of a thing must be a keyword list, got: 1"},
          {[more: []],
           "option :size of :more of a thing is required, and must be an integer from 1 to 9"},
          {[more: [size: 0]], "option :size of :more of a thing must be an integer from 1 to 9"},
          {[more: [size: 1, ratio: 0]],
           "option :ratio of :more of a thing must be a number above 0 to 1, got: 0"},
          {[more: [size: 1, ratio: 1.1]], "option :ratio"},
          {[more: [colour: 1]],
           "unknown option :colour of :more of a thing, expected :size or :ratio"},
          {[speed: 2],
           "option :speed of a thing is for mode: :fast only, got it with mode: :slow"},
          {[speed: 1.0, mode: :slow], "option :speed of a thing is for mode: :fast only"}
        ] do
      error = assert_raise ArgumentError, fn -> validate(opts) end
      assert String.starts_with?(error.message, message), error.message
    end

    error = assert_raise ArgumentError, fn -> Options.validate!([size: 1], []) end
    assert error.message == "unknown option :size, it has none"
  end

  test "documents all options, the nested ones too" do
    assert Options.docs(@specs) == """
             * `:mode` (default `:slow`) - how it goes.
             * `:speed` (default `1.0`) - how fast
               it goes. Only with `mode: :fast`.
             * `:wait` (default `5`) - how long.
             * `:most` (default `9`) - how many.
             * `:names` - which.
             * `:pid` - who.
             * `:fun` - what.
             * `:any` (default `:thing`) - whatever.
             * `:more` - More.

               * `:size` - how many. Required.
               * `:ratio` (default `0.5`) - how much.
           """
  end
end
