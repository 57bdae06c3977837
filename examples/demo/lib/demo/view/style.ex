defmodule Demo.View.Style do
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

  # How much is done, and how much is left, always `width` columns long.
  @spec progress(t(), number(), pos_integer()) :: IO.chardata()
  def progress(style, fraction, width) do
    {done, left} = if style.unicode?, do: {"━", "─"}, else: {"=", "-"}
    columns = round(clamp(fraction) * width)

    [
      paint(style, :green, String.duplicate(done, columns)),
      paint(style, :faint, String.duplicate(left, width - columns))
    ]
  end

  # What holds and what does not, with the columns that it takes.
  @spec mark(t(), boolean()) :: {IO.chardata(), pos_integer()}
  def mark(style, holds?) do
    {text, codes} =
      case {style.unicode?, holds?} do
        {true, true} -> {"✓", :green}
        {true, false} -> {"✗", [:red, :bright]}
        {false, true} -> {"ok", :green}
        {false, false} -> {"FAILED", [:red, :bright]}
      end

    {paint(style, codes, text), String.length(text)}
  end

  defp clamp(fraction), do: fraction |> max(0) |> min(1)
end
