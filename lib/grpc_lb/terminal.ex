defmodule GrpcLb.Terminal do
  # What the group leader is, as far as it says.
  @moduledoc false

  @plain %{"…" => "~", "→" => ">", "µ" => "u", "█" => "#"}
  @parts ~w(▏ ▎ ▍ ▌ ▋ ▊ ▉)

  @doc "Whether somebody sees what is printed, in a place where a line can be written again."
  @spec there?() :: boolean()
  def there?, do: match?({:ok, _columns}, :io.columns()) and System.get_env("TERM") != "dumb"

  @spec styled?() :: boolean()
  def styled?, do: there?() or IO.ANSI.enabled?()

  @doc "80 where it is not known."
  @spec columns() :: pos_integer()
  def columns, do: size() |> elem(0)

  @spec size() :: {columns :: pos_integer(), lines :: pos_integer()}
  def size do
    case {:io.columns(), :io.rows()} do
      {{:ok, columns}, {:ok, lines}} -> {columns, lines}
      _unknown -> {80, 24}
    end
  end

  @doc "Writes text, without the characters that a terminal of bytes does not have."
  @spec write(iodata()) :: :ok
  def write(text) do
    case :io.getopts() do
      options when is_list(options) ->
        if options[:encoding] in [:unicode, :utf8, nil],
          do: IO.write(text),
          else: write_plain(text)

      {:error, _unknown} ->
        IO.write(text)
    end
  end

  defp write_plain(text) do
    text
    |> IO.iodata_to_binary()
    |> String.replace(Map.keys(@plain), &Map.fetch!(@plain, &1))
    |> String.replace(@parts, "#")
    |> IO.write()
  end
end
