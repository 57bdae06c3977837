defmodule GrpcLb.Look.Columns do
  # Lays a table out in the columns of a terminal: one line a row, and none longer than it may be.
  @moduledoc false

  alias GrpcLb.Look.Shown

  @typedoc """
  A column: its title, the side of its texts, and how wide it is at least. Where there is not enough room
  texts are cut, first those of the column that is most above its least.
  """
  @type column :: {title :: String.t(), :left | :right, at_least :: pos_integer()}

  @typedoc "A text, also with a style: a function of `IO.ANSI`."
  @type cell :: String.t() | {style :: atom(), String.t()}

  @doc """
  The lines of a table, the first of titles.

      iex> columns = [{"backend", :left, 4}, {"picks", :right, 5}]
      iex> GrpcLb.Look.Columns.lines(columns, [["10.0.0.1:50051", "7"], ["b", "12k"]], 16, false)
      ...> |> Enum.map(&IO.iodata_to_binary/1)
      [
        "backend    picks",
        "10.0.0.1:…     7",
        "b            12k"
      ]
  """
  @spec lines([column()], [[cell()]], columns :: pos_integer(), styled :: boolean()) :: [iodata()]
  def lines(columns, rows, width, styled) do
    titles = for {title, _side, _at_least} <- columns, do: {:faint, title}
    rows = [titles | rows]
    widths = columns |> widths(rows) |> shrink(columns, width)

    for row <- rows do
      [columns, widths, row]
      |> Enum.zip()
      |> Enum.map_intersperse(" ", fn {{_title, side, _at_least}, width, cell} ->
        cell(cell, side, width, styled)
      end)
    end
  end

  defp widths(columns, rows) do
    rows
    |> Enum.zip_with(fn cells -> cells |> Enum.map(&Shown.columns(text(&1))) |> Enum.max() end)
    |> Enum.zip_with(columns, fn width, {_title, _side, at_least} -> max(width, at_least) end)
  end

  defp shrink(widths, columns, width) do
    over = Enum.sum(widths) + length(widths) - 1 - width
    spare = Enum.zip_with(widths, columns, fn width, {_title, _side, least} -> width - least end)
    most = Enum.max(spare)

    if over > 0 and most > 0 do
      widest = Enum.find_index(spare, &(&1 == most))
      widths |> List.update_at(widest, &(&1 - min(over, most))) |> shrink(columns, width)
    else
      widths
    end
  end

  defp cell(cell, side, width, styled) do
    text = cell |> text() |> Shown.fit(width)
    fill = String.duplicate(" ", width - Shown.columns(text))
    text = if styled, do: style(cell, text), else: text
    if side == :left, do: [text, fill], else: [fill, text]
  end

  defp text({_style, text}), do: text
  defp text(text), do: text

  defp style({style, _text}, text), do: [apply(IO.ANSI, style, []), text, IO.ANSI.reset()]
  defp style(_cell, text), do: text
end
