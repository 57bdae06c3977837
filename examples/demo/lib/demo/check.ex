defmodule Demo.Check do
  @moduledoc false
  # Something that must hold, with the numbers that show it.

  alias Demo.View.{Style, Text}

  @type t :: {title :: String.t(), holds? :: boolean(), numbers :: String.t()}

  @title_columns 20

  @spec failed([t()]) :: [String.t()]
  def failed(checks), do: for({title, false, _numbers} <- checks, do: title)

  @spec lines(Style.t(), [t()]) :: [IO.chardata()]
  def lines(style, checks), do: Enum.flat_map(checks, &lines_of(style, &1))

  defp lines_of(style, {title, holds?, numbers}) do
    {mark, columns} = Style.mark(style, holds?)
    [first | others] = Text.wrap(numbers, 2 + columns + 1 + @title_columns + 1)
    [["  ", mark, " ", String.pad_trailing(title, @title_columns), " ", first] | others]
  end
end
