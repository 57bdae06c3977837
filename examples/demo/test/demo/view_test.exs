defmodule Demo.ViewTest do
  use ExUnit.Case, async: true

  alias Demo.Check
  alias Demo.View.{Frame, Style, Text}

  @styles for terminal? <- [true, false],
              unicode? <- [true, false],
              do: %Style{terminal?: terminal?, unicode?: unicode?}

  describe "Frame" do
    @row %{
      name: "a",
      note: "4194304",
      state: :draining,
      share: 1.0,
      numbers: [99_999, 99_999_999]
    }
    @panel %{
      title: nil,
      summary: "123,456,789 answered   123,457/s   1,234 failed",
      heads: ["server", "os pid", "share of the calls", "calls/s", "answered"],
      rows: [
        @row,
        %{@row | name: "b", note: "1", state: :killed, share: 0.0, numbers: [0, 0]}
      ]
    }
    @picture %{
      elapsed_ms: 12_345,
      progress: 0.5,
      panels: [@panel],
      events: [{1_000, "b was killed"}]
    }

    test "has a row for each server, and a foot" do
      lines = lines(%Style{}, @picture)

      assert Enum.any?(
               lines,
               &(&1 =~ ~r/^  a +4194304 +#+ +100.0 % +99,999 +99,999,999  draining/)
             )

      assert Enum.any?(lines, &(&1 =~ ~r/^  b +1 +0.0 % +0 +0  killed/))
      assert Enum.any?(lines, &(&1 =~ ~r/^  =+-+ +50 % +123,456,789 answered/))
      assert Enum.any?(lines, &(&1 =~ "1.0 s  b was killed"))
    end

    test "has a title and a summary for each of several panels, and fits a terminal's 24 lines" do
      panels = for title <- ~w(one other), do: %{@panel | title: title, summary: "6.0 % failed"}
      panels = for panel <- panels, do: %{panel | rows: List.duplicate(@row, 5)}
      events = for n <- 1..9, do: {n * 1_000, "event #{n}"}
      lines = lines(%Style{}, %{@picture | panels: panels, events: events})

      for title <- ~w(one other) do
        assert Enum.any?(lines, &(&1 =~ ~r/^  #{title} +6.0 % failed$/))
      end

      # The cursor is on a line of its own.
      assert length(lines) < 24
      assert List.last(lines) =~ "event 9"
      refute Enum.any?(lines, &(&1 =~ "event 1"))
    end

    test "is a line a panel where nothing can be redrawn" do
      assert [line] = Frame.plain(@picture)
      assert IO.chardata_to_string(line) == "  12.3 s   50 %  99,999,999 answered  a 100"

      assert [line] = Frame.plain(%{@picture | panels: [%{@panel | title: "one"}]})
      assert IO.chardata_to_string(line) =~ ~r/^  12.3 s  one +123,456,789 answered/
    end

    test "draws over the last one" do
      assert drawn(["x"], 0) =~ "x\e[K\n"
      refute drawn(["x"], 0) =~ "\e[0A"
      assert drawn(["x", "y"], 3) =~ ~r/\e\[3A\r.*x\e\[K\ny\e\[K\n/
    end

    # A pid of 64 bits, seven servers, and counts that no demo will see.
    test "is at most 80 columns wide, however long its numbers are" do
      long = %{
        @row
        | note: "<0.134217727.8191>",
          state: :connecting,
          share: 1 / 7,
          numbers: [999_999_999_999, 999_999_999_999_999]
      }

      panel = %{@panel | rows: List.duplicate(long, 7)}
      guarded = %{panel | title: "weighted_round_robin + outlier detection"}
      guarded = %{guarded | summary: "p99 99,999 ms, 100.0 % failed"}
      event = String.duplicate("many words ", 30)

      for panel <- [panel, guarded], style <- @styles do
        picture = %{
          @picture
          | panels: [panel],
            progress: 1.0,
            events: [{999_900, event}]
        }

        for line <- lines(style, picture) ++ strings(Frame.plain(picture)) do
          assert width(line) <= 80, line
        end
      end
    end

    defp lines(style, picture), do: style |> Frame.lines(picture) |> strings()
    defp drawn(lines, above), do: lines |> Frame.redraw(above) |> IO.chardata_to_string()
  end

  describe "Check" do
    test "marks what holds and what does not" do
      lines =
        strings(Check.lines(%Style{}, [{"sums", true, "1 = 1"}, {"shares", false, "1 = 2"}]))

      assert [good, bad] = lines
      assert good =~ ~r/^  ok sums +1 = 1$/
      assert bad =~ ~r/^  FAILED shares +1 = 2$/
      assert Check.failed([{"sums", true, ""}, {"shares", false, ""}]) == ["shares"]
    end

    test "goes on under its own words where a line ends" do
      numbers = Enum.map_join(1..30, " ", &"word#{&1}")

      for style <- @styles, holds? <- [true, false] do
        [first | others] = strings(Check.lines(style, [{"title", holds?, numbers}]))
        assert others != []
        {at, _length} = :binary.match(String.replace(plain(first), ["✓", "✗"], "x"), "word1")
        for line <- others, do: assert(line =~ ~r/^ {#{at}}word/)
        for line <- [first | others], do: assert(width(line) <= 80, line)
      end
    end
  end

  describe "Style" do
    test "draws bars of one width, to an eighth of a column" do
      assert Style.bar(%Style{unicode?: true}, 0.5, 3) == "█▌ "
      assert Style.bar(%Style{unicode?: true}, 7, 3) == "███"
      assert Style.bar(%Style{}, 0.5, 4) == "##  "
      assert Style.bar(%Style{}, 0, 4) == "    "
    end

    test "shows what is done, and what is left" do
      assert IO.chardata_to_string(Style.progress(%Style{}, 0.5, 4)) == "==--"
      assert IO.chardata_to_string(Style.progress(%Style{unicode?: true}, 2, 2)) == "━━"
    end

    test "has no colour where there is no terminal" do
      assert IO.chardata_to_string(Style.paint(%Style{}, :red, "x")) == "x"
      assert IO.chardata_to_string(Style.paint(%Style{terminal?: true}, :red, "x")) =~ "\e[31mx"
    end
  end

  describe "Text" do
    test "groups thousands" do
      assert Enum.map([0, 999, 1_000, 1_234_567], &Text.thousands/1) ==
               ~w(0 999 1,000 1,234,567)
    end

    test "makes numbers fit" do
      assert Text.number(1_234_567, 9) == "1,234,567"
      assert Text.number(1_234_567, 8) == "  1,234k"
      assert Text.number(1_234_567, 5) == "   1M"
      assert Text.number(12.7, 3) == " 13"
      assert Text.decimal(123_456.78, 8) == "123456.8"
      assert Text.decimal(123_456.78, 7) == "123,457"
      assert {Text.percent(0.125), Text.seconds(1_500)} == {"12.5 %", "1.5 s"}
    end

    test "wraps words" do
      assert Text.wrap("", 10) == [""]
      assert Text.wrap("a b", 78) == ["a", String.duplicate(" ", 78) <> "b"]
      assert Text.wrap("a b", 77) == ["a b"]
    end
  end

  defp strings(lines), do: Enum.map(lines, &IO.chardata_to_string/1)
  defp width(line), do: line |> plain() |> String.length()
  defp plain(line), do: String.replace(line, ~r/\e\[[0-9;?]*[A-Za-z]/, "")
end
