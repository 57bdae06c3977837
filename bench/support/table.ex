defmodule GrpcLb.Bench.Table do
  @moduledoc false
  # A table on the terminal: the first column to the left, the others to the right.

  def print(title, header, rows) do
    lines = Enum.map([header | rows], fn row -> Enum.map(row, &cell/1) end)

    widths =
      Enum.zip_with(lines, fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

    [header | rows] = Enum.map(lines, &line(&1, widths))

    IO.puts(["\n", title, "\n  ", header, "\n  ", String.duplicate("-", String.length(header))])
    Enum.each(rows, &IO.puts(["  ", &1]))
  end

  defp line([first | rest], [width | widths]) do
    rest = Enum.zip_with(rest, widths, &String.pad_leading/2)
    Enum.join([String.pad_trailing(first, width) | rest], "  ")
  end

  @doc "Three digits that matter, whatever the size."
  def cell(number) when is_float(number) and abs(number) >= 100, do: "#{round(number)}"
  def cell(number) when is_float(number) and abs(number) >= 10, do: decimals(number, 1)
  def cell(number) when is_float(number) and abs(number) >= 1, do: decimals(number, 2)
  def cell(number) when is_float(number), do: decimals(number, 4)
  def cell(other), do: to_string(other)

  defp decimals(number, digits), do: :erlang.float_to_binary(number, decimals: digits)
end
