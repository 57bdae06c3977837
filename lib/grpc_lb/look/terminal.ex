defmodule GrpcLb.Look.Terminal do
  # What the group leader is, as far as it says.
  @moduledoc false

  @plain %{"…" => "~", "→" => ">", "µ" => "u", "█" => "#"}
  @parts ~w(▏ ▎ ▍ ▌ ▋ ▊ ▉)

  @doc """
  Whether somebody sees what is printed, in a place where a line can be written again. A shell knows it of
  whoever it serves, on another node too; without one the VM's own output has to be a terminal.
  """
  @spec there?() :: boolean()
  def there? do
    match?({:ok, _columns}, :io.columns()) and System.get_env("TERM") != "dumb" and
      (not own?() or IO.ANSI.enabled?())
  end

  @doc "Whether the VM has its terminal for itself, without a shell."
  @spec own?() :: boolean()
  def own?, do: Process.group_leader() == Process.whereis(:user)

  @doc "80 where it is not known."
  @spec columns() :: pos_integer()
  def columns, do: size() |> elem(0)

  @spec size() :: {columns :: pos_integer(), lines :: pos_integer()}
  def size do
    case {:io.columns(), :io.rows()} do
      {{:ok, columns}, {:ok, lines}} when columns > 0 and lines > 0 -> {columns, lines}
      _unknown -> {80, 24}
    end
  end

  @doc """
  The sequences that begin to show screens, show one, and end it. Where a shell has the keyboard, it stays
  below them.
  """
  @spec enter(:keys | :lines) :: String.t()
  def enter(:keys), do: "\e[?1049h\e[?25l\e[2J"
  def enter(:lines), do: "\e[?1049h\e[2J"

  @spec leave(:keys | :lines) :: String.t()
  def leave(:keys), do: "\e[?25h\e[?1049l"
  def leave(:lines), do: "\e[?1049l"

  @spec screen([iodata()]) :: iodata()
  def screen(lines), do: ["\e[H", for(line <- lines, do: [line, "\e[K\r\n"]), "\e[J"]

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
