defmodule Demo.View.Text do
  @moduledoc false
  # Numbers and sentences as a reader wants them, on lines of at most 80 columns.

  @columns 80

  @spec columns() :: pos_integer()
  def columns, do: @columns

  # 1234567 -> "1,234,567"
  @spec thousands(integer()) :: String.t()
  def thousands(number) do
    number
    |> Integer.to_string()
    |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end

  # Right-aligned in `width` columns, in thousands, millions or more where it is too long for them.
  @spec number(number(), pos_integer()) :: String.t()
  def number(number, width), do: number |> round() |> number(width, ["", "k", "M", "G", "T", "P"])

  defp number(number, width, [unit | larger]) do
    text = thousands(number) <> unit

    if String.length(text) <= width or larger == [],
      do: String.pad_leading(text, width),
      else: number(div(number, 1000), width, larger)
  end

  # With one decimal, but where that is too long for `width` columns.
  @spec decimal(number(), pos_integer()) :: String.t()
  def decimal(number, width \\ @columns) do
    text = :erlang.float_to_binary(number / 1, decimals: 1)
    if String.length(text) <= width, do: text, else: String.trim(number(number, width))
  end

  # 0.5 -> "50.0 %"
  @spec percent(number()) :: String.t()
  def percent(fraction), do: decimal(fraction * 100) <> " %"

  # 1500 -> "1.5 s"
  @spec seconds(milliseconds :: number()) :: String.t()
  def seconds(ms), do: decimal(ms / 1000) <> " s"

  # The words on as many lines as they need, each after `indent` columns but the first, before
  # which its reader puts what belongs there.
  @spec wrap(String.t(), non_neg_integer()) :: [String.t()]
  def wrap(text, indent) do
    [first | others] = text |> String.split() |> fill(@columns - indent, [])
    [first | for(line <- others, do: String.duplicate(" ", indent) <> line)]
  end

  defp fill([], _width, []), do: [""]
  defp fill([], _width, lines), do: Enum.reverse(lines)

  defp fill([word | words], width, [line | lines])
       when byte_size(line) + 1 + byte_size(word) <= width do
    fill(words, width, [line <> " " <> word | lines])
  end

  defp fill([word | words], width, lines), do: fill(words, width, [word | lines])
end
