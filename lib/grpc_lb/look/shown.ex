defmodule GrpcLb.Look.Shown do
  # Terms, times and numbers as people read them, in few columns. A term may be anything, and of any size:
  # what it is shown as has no character in it that a terminal would take for something else.
  @moduledoc false

  alias GrpcLb.Text

  @doc """
  A term in at most so many columns. A text that needs no quotes has none.

      iex> GrpcLb.Look.Shown.term("10.0.0.1:50051", 20)
      "10.0.0.1:50051"
      iex> GrpcLb.Look.Shown.term({:shard, 7}, 20)
      "{:shard, 7}"
      iex> GrpcLb.Look.Shown.term("\\e[2J", 20)
      ~S("\\e[2J")
      iex> GrpcLb.Look.Shown.term(Enum.to_list(1..99), 12)
      "[1, 2, 3, 4…"
  """
  @spec term(term(), pos_integer()) :: String.t()
  def term(term, columns) do
    text = if plain?(term), do: term, else: Text.show(term, 2 * columns)
    text |> harmless() |> fit(columns)
  end

  defp plain?(term) do
    is_binary(term) and byte_size(term) in 1..200 and String.valid?(term) and
      Regex.match?(~r/\A[\p{L}\p{N}\p{P}\p{S}]+\z/u, term) and
      not String.starts_with?(term, ["\"", ":"])
  end

  # `inspect` lets characters through that turn the direction of writing.
  defp harmless(text) do
    Regex.replace(~r/[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/u, text, fn <<char::utf8>> ->
      "\\x{#{Integer.to_string(char, 16)}}"
    end)
  end

  @doc """
  A text cut to so many columns.

      iex> GrpcLb.Look.Shown.fit("10.0.0.1:50051", 8)
      "10.0.0.…"
  """
  @spec fit(String.t(), non_neg_integer()) :: String.t()
  def fit(text, columns) do
    if columns(text) <= columns, do: text, else: cut(String.graphemes(text), columns - 1, [])
  end

  defp cut([grapheme | rest], left, kept) do
    left = left - columns_of(grapheme)
    if left < 0, do: cut([], 0, kept), else: cut(rest, left, [kept, grapheme])
  end

  defp cut([], _left, kept), do: IO.iodata_to_binary([kept, "…"])

  @doc """
  How many columns of a terminal a text takes.

      iex> {GrpcLb.Look.Shown.columns("żółw"), GrpcLb.Look.Shown.columns("東京")}
      {4, 4}
  """
  @spec columns(String.t()) :: non_neg_integer()
  def columns(text), do: text |> String.graphemes() |> Enum.map(&columns_of/1) |> Enum.sum()

  # East Asian wide and fullwidth characters (UAX 11), by their blocks.
  @wide [
    0x1100..0x115F,
    0x2E80..0xA4CF,
    0xAC00..0xD7A3,
    0xF900..0xFAFF,
    0xFE30..0xFE6F,
    0xFF00..0xFF60,
    0xFFE0..0xFFE6,
    0x1F300..0x1FAFF,
    0x20000..0x3FFFD
  ]

  defp columns_of(<<char::utf8, _marks::binary>>) do
    if char > 0x10FF and Enum.any?(@wide, &(char in &1)), do: 2, else: 1
  end

  @doc """
  Milliseconds.

      iex> Enum.map([0, 950, 12_300, 200_000, 7_500_000, 200_000_000], &GrpcLb.Look.Shown.ms/1)
      ["0ms", "950ms", "12s", "3m20s", "2h5m", "2d7h"]
  """
  @spec ms(non_neg_integer()) :: String.t()
  def ms(ms) when ms < 1_000, do: "#{ms}ms"
  def ms(ms) when ms < 60_000, do: "#{div(ms, 1_000)}s"
  def ms(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)}m#{div(rem(ms, 60_000), 1_000)}s"
  def ms(ms) when ms < 86_400_000, do: "#{div(ms, 3_600_000)}h#{div(rem(ms, 3_600_000), 60_000)}m"
  def ms(ms), do: "#{div(ms, 86_400_000)}d#{div(rem(ms, 86_400_000), 3_600_000)}h"

  @doc """
  Nanoseconds; `nil` is not known.

      iex> Enum.map([nil, 850, 12_300, 3_456_000, 123_456_000, 1_500_000_000], &GrpcLb.Look.Shown.ns/1)
      ["-", "850ns", "12µs", "3.5ms", "123ms", "1.5s"]
  """
  @spec ns(non_neg_integer() | nil) :: String.t()
  def ns(nil), do: "-"
  def ns(ns) when ns < 1_000, do: "#{ns}ns"
  def ns(ns) when ns < 1_000_000, do: digits(ns / 1_000) <> "µs"
  def ns(ns) when ns < 1_000_000_000, do: digits(ns / 1_000_000) <> "ms"
  def ns(ns), do: digits(ns / 1_000_000_000) <> "s"

  @doc """
  A number in four columns or five; `nil` is not known.

      iex> Enum.map([nil, 0, 0.25, 7, 7.0, 999, 12_345, 1_234_567], &GrpcLb.Look.Shown.number/1)
      ["-", "0", "0.25", "7", "7", "999", "12k", "1.2M"]
  """
  @spec number(number() | nil) :: String.t()
  def number(nil), do: "-"
  def number(number) when number < 1_000, do: digits(number)

  def number(number) do
    {unit, name} =
      Enum.find([{1.0e12, "T"}, {1.0e9, "G"}, {1.0e6, "M"}, {1.0e3, "k"}], fn {unit, _name} ->
        number >= unit
      end)

    digits(number / unit) <> name
  end

  # Two digits, or those before the point.
  defp digits(number) when is_integer(number), do: Integer.to_string(number)
  defp digits(number) when number >= 9.95, do: number |> round() |> Integer.to_string()
  defp digits(number) when number >= 0.995, do: point(number, 1)
  defp digits(number), do: point(number, 2)

  defp point(number, decimals) do
    number
    |> :erlang.float_to_binary(decimals: decimals)
    |> String.trim_trailing("0")
    |> String.trim_trailing(".")
  end

  @doc """
  A part of a whole, from 0 to 1.

      iex> Enum.map([0.0, 0.004, 0.25, 1.0], &GrpcLb.Look.Shown.percent/1)
      ["0%", "0.4%", "25%", "100%"]
  """
  @spec percent(number()) :: String.t()
  def percent(part) when part > 0 and part < 0.0095, do: point(part * 100, 1) <> "%"
  def percent(part), do: "#{round(part * 100)}%"
end
