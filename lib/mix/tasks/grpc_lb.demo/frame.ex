defmodule Mix.Tasks.GrpcLb.Demo.Frame do
  @moduledoc false
  # How the live view looks: pure functions from what was sampled to text, at most 80 columns
  # wide.

  alias Mix.Tasks.GrpcLb.Demo.Style

  @type row :: %{
          name: String.t(),
          os_pid: pos_integer(),
          state: atom(),
          answered: non_neg_integer(),
          rate: number(),
          share: float()
        }
  @type event :: {elapsed_ms :: non_neg_integer(), String.t()}
  @type picture :: %{
          elapsed_ms: non_neg_integer(),
          progress: float(),
          answered: non_neg_integer(),
          failed: non_neg_integer(),
          rate: number(),
          rows: [row()],
          events: [event()]
        }

  @share_columns 22
  # A bar is full at this share: with four to six backends in the rotation, half is an even one.
  @full_share 0.4
  @progress_columns 24

  @spec lines(Style.t(), picture()) :: [IO.chardata()]
  def lines(style, picture) do
    Enum.concat([
      ["", heading(style)],
      Enum.map(picture.rows, &row(style, &1)),
      ["", progress(style, picture), ""],
      Enum.map(picture.events, &event(style, &1))
    ])
  end

  # Draws over the `drawn` lines that the last frame left above the cursor. A line longer than
  # the terminal is cut, for one that wraps would put the cursor off.
  @spec redraw([IO.chardata()], non_neg_integer()) :: IO.chardata()
  def redraw(lines, drawn) do
    up = if drawn > 0, do: "\e[#{drawn}A\r", else: ""
    [up, "\e[?7l", Enum.map(lines, &[&1, "\e[K\n"]), "\e[?7h"]
  end

  # The same on one line, where nothing can be redrawn.
  @spec line(picture()) :: IO.chardata()
  def line(picture) do
    shares = for row <- picture.rows, row.rate > 0, do: " #{row.name} #{round(row.share * 100)}%"

    [
      seconds(picture.elapsed_ms),
      percent(picture.progress, 0),
      String.pad_leading(Style.thousands(picture.answered), 11),
      " answered",
      String.pad_leading(Style.thousands(round(picture.rate)), 9),
      "/s  shares",
      shares
    ]
  end

  @spec event(Style.t(), event()) :: IO.chardata()
  def event(style, {elapsed_ms, text}) do
    [Style.paint(style, :faint, seconds(elapsed_ms)), "  ", text]
  end

  defp heading(style) do
    Style.paint(
      style,
      :faint,
      "  server  os pid  share of the requests          requests/s   answered  state"
    )
  end

  defp row(style, row) do
    colour = colour(row.state)

    [
      "  ",
      Style.paint(style, :bright, String.pad_trailing(row.name, 6)),
      String.pad_leading("#{row.os_pid}", 8),
      "  ",
      Style.paint(style, colour, Style.bar(style, row.share / @full_share, @share_columns)),
      percent(row.share),
      String.pad_leading(Style.thousands(round(row.rate)), 10),
      String.pad_leading(Style.thousands(row.answered), 11),
      "  ",
      Style.paint(style, colour, Atom.to_string(row.state))
    ]
  end

  defp colour(:serving), do: :cyan
  defp colour(:killed), do: :red
  defp colour(_leaving), do: :yellow

  defp progress(style, picture) do
    [
      "  ",
      Style.paint(style, :green, Style.bar(style, picture.progress, @progress_columns)),
      percent(picture.progress, 0),
      String.pad_leading(Style.thousands(picture.answered), 12),
      " answered",
      String.pad_leading(Style.thousands(round(picture.rate)), 9),
      "/s",
      "  ",
      Style.paint(
        style,
        if(picture.failed > 0, do: :red, else: :faint),
        "#{picture.failed} failed"
      )
    ]
  end

  defp seconds(ms), do: String.pad_leading("#{Float.round(ms / 1000, 1)} s", 8)

  defp percent(fraction, decimals \\ 1) do
    number = :erlang.float_to_binary(fraction * 100.0, decimals: decimals)
    String.pad_leading(number <> " %", 8)
  end
end
