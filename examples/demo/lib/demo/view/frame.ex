defmodule Demo.View.Frame do
  @moduledoc false
  # How the live view looks: pure functions from what was sampled to text, at most 80 columns
  # wide.

  alias Demo.View.{Style, Text}

  # share      of the calls of the last second or so
  # numbers    what stands under the last two heads, in that order
  @type row :: %{
          name: String.t(),
          note: String.t(),
          state: atom(),
          share: float(),
          numbers: [number()]
        }
  # heads      of name, note, share, and the two numbers
  # summary    what the panel says on one line: in its own title, or at the foot of the only one
  @type panel :: %{
          title: String.t() | nil,
          summary: String.t(),
          heads: [String.t()],
          rows: [row()]
        }
  @type event :: {elapsed_ms :: non_neg_integer(), String.t()}
  @type picture :: %{
          elapsed_ms: non_neg_integer(),
          progress: float(),
          panels: [panel()],
          events: [event()]
        }

  @name_columns 6
  @note_columns 11
  @bar_columns 15
  @share_columns 8
  @number_columns [10, 11]
  @title_columns 41
  @progress_columns 16
  @event_columns 10

  # A bar is full at this share.
  @full_share 0.5
  # A frame with the panels of two contenders, and these, is no higher than a terminal of 24 lines.
  @events 4

  @spec lines(Style.t(), picture()) :: [IO.chardata()]
  def lines(style, picture) do
    Enum.concat([
      Enum.flat_map(picture.panels, &panel(style, &1)),
      ["", foot(style, picture), ""],
      picture.events |> Enum.take(-@events) |> Enum.flat_map(&event(style, &1))
    ])
  end

  # Draws over the `drawn` lines that the last frame left above the cursor. A line longer than
  # the terminal is cut, for one that wraps would put the cursor off. So that nothing flickers the
  # terminal is asked to show all of it at once; one that does not know how ignores that.
  @spec redraw([IO.chardata()], non_neg_integer()) :: IO.chardata()
  def redraw(lines, drawn) do
    up = if drawn > 0, do: "\e[#{drawn}A\r", else: ""
    ["\e[?2026h", up, "\e[?7l", Enum.map(lines, &[&1, "\e[K\n"]), "\e[J\e[?7h\e[?2026l"]
  end

  # The same on one line for each panel, where nothing can be redrawn.
  @spec plain(picture()) :: [IO.chardata()]
  def plain(picture) do
    for panel <- picture.panels do
      [String.pad_leading(Text.seconds(picture.elapsed_ms), 8), "  ", plain(panel, picture)]
    end
  end

  defp plain(%{title: nil} = panel, picture) do
    [_rate, counts] = panel.rows |> Enum.map(& &1.numbers) |> Enum.zip_with(& &1)
    shares = for row <- panel.rows, row.share > 0, do: "  #{row.name} #{round(row.share * 100)}"

    [
      String.pad_leading("#{floor(picture.progress * 100)} %", 5),
      Text.number(Enum.sum(counts), 12),
      " answered",
      shares
    ]
  end

  defp plain(panel, _picture) do
    [String.pad_trailing(panel.title, @title_columns), panel.summary]
  end

  @spec event(Style.t(), event()) :: [IO.chardata()]
  def event(style, {elapsed_ms, text}) do
    [first | others] = Text.wrap(text, @event_columns)
    time = String.pad_leading(Text.seconds(elapsed_ms), @event_columns - 2)
    [[Style.paint(style, :faint, time), "  ", first] | others]
  end

  defp panel(style, panel) do
    title =
      if panel.title do
        name = String.pad_trailing(panel.title, @title_columns)
        [["  ", Style.paint(style, :bright, name), panel.summary]]
      else
        []
      end

    [""] ++ title ++ [heading(style, panel.heads) | Enum.map(panel.rows, &row(style, &1))]
  end

  defp heading(style, [name, note, share | numbers]) do
    columns = [
      "  ",
      String.pad_trailing(name, @name_columns),
      "  ",
      String.pad_trailing(note, @note_columns),
      "  ",
      String.pad_trailing(share, @bar_columns + @share_columns),
      Enum.zip_with(numbers, @number_columns, &String.pad_leading/2),
      "  state"
    ]

    Style.paint(style, :faint, columns)
  end

  defp row(style, row) do
    colour = colour(row.state)

    [
      "  ",
      Style.paint(style, :bright, String.pad_trailing(row.name, @name_columns)),
      "  ",
      row.note |> String.slice(0, @note_columns) |> String.pad_trailing(@note_columns),
      "  ",
      Style.paint(style, colour, Style.bar(style, row.share / @full_share, @bar_columns)),
      String.pad_leading(Text.percent(row.share), @share_columns),
      # One column less, for a long number not to touch the one before it.
      for({number, width} <- Enum.zip(row.numbers, @number_columns)) do
        [" ", Text.number(number, width - 1)]
      end,
      "  ",
      Style.paint(style, colour, Atom.to_string(row.state))
    ]
  end

  # A state is a word, too, for who sees no colour.
  defp colour(state) when state in [:serving, :member], do: :cyan
  defp colour(state) when state in [:killed, :ejected], do: :red
  defp colour(_in_between), do: :yellow

  defp foot(style, picture) do
    summary = for %{title: nil, summary: summary} <- picture.panels, do: ["   ", summary]

    [
      "  ",
      Style.progress(style, picture.progress, @progress_columns),
      String.pad_leading("#{floor(picture.progress * 100)} %", 6),
      summary
    ]
  end
end
