defmodule Mix.Tasks.GrpcLb.Demo.Style do
  @moduledoc false
  # What the output can show, and how: a terminal gets colour and a view that redraws itself,
  # anything else plain lines; a UTF-8 device gets blocks, any other ASCII.

  defstruct terminal?: false, unicode?: false

  @type t :: %__MODULE__{terminal?: boolean(), unicode?: boolean()}

  @eighths {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}

  @spec detect() :: t()
  def detect do
    %__MODULE__{
      terminal?:
        IO.ANSI.enabled?() and System.get_env("NO_COLOR", "") == "" and
          System.get_env("TERM") != "dumb",
      unicode?: :io.getopts()[:encoding] == :unicode
    }
  end

  @spec paint(t(), IO.ANSI.ansidata(), IO.chardata()) :: IO.chardata()
  def paint(style, codes, text), do: IO.ANSI.format([codes, text], style.terminal?)

  # `fraction` of `width` columns, always `width` columns long.
  @spec bar(t(), number(), pos_integer()) :: String.t()
  def bar(%{unicode?: true}, fraction, width) do
    eighths = round(clamp(fraction) * width * 8)
    full = String.duplicate("█", div(eighths, 8))
    String.pad_trailing(full <> elem(@eighths, rem(eighths, 8)), width)
  end

  def bar(_ascii, fraction, width) do
    String.pad_trailing(String.duplicate("#", round(clamp(fraction) * width)), width)
  end

  @spec mark(t(), boolean()) :: IO.chardata()
  def mark(%{unicode?: true} = style, true), do: paint(style, :green, "✓")
  def mark(%{unicode?: true} = style, false), do: paint(style, [:red, :bright], "✗")
  def mark(style, true), do: paint(style, :green, "ok")
  def mark(style, false), do: paint(style, [:red, :bright], "FAILED")

  # 1234567 -> "1,234,567"
  @spec thousands(integer()) :: String.t()
  def thousands(number) do
    number
    |> Integer.to_string()
    |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end

  defp clamp(fraction), do: fraction |> max(0) |> min(1)
end
