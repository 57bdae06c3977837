defmodule GrpcLb.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Options

  doctest Options

  @nested [
    size: [type: {:integer, 1..9}, doc: "how many."],
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
    most: [type: {:integer, 0..99}, default: 9, at_most: 10, doc: "how many."],
    names: [type: :strings, default: [], doc: "which."],
    pid: [type: {:nil_or, :local_pid}, default: nil, doc: "who."],
    fun: [type: {:nil_or, {:function, 1}}, default: nil, doc: "what."],
    any: [type: :any, default: :thing, doc: "whatever."],
    more: [type: {:nil_or, {:options, @nested}}, default: nil, doc: "More."]
  ]

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
           "option :names of a thing must be a list of strings, got: [\"a\", "},
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
