defmodule GrpcLb.Test.Guide do
  @moduledoc """
  The Elixir code of a guide: what stands between ```` ```elixir ```` and ```` ``` ````.

  A block whose first line is a comment with a path is an excerpt of that file. The others are to be
  run, from top to bottom.
  """

  @type block :: %{line: pos_integer(), code: String.t(), file: Path.t() | nil}

  @spec blocks(Path.t()) :: [block()]
  def blocks(path) do
    path |> File.read!() |> String.split("\n") |> Enum.with_index(1) |> outside([])
  end

  defp outside([], blocks), do: Enum.reverse(blocks)

  defp outside([{"```elixir", line} | rest], blocks) do
    {code, [_end_of_block | rest]} = Enum.split_while(rest, fn {text, _line} -> text != "```" end)
    outside(rest, [block(Enum.map(code, &elem(&1, 0)), line + 1) | blocks])
  end

  defp outside([_text | rest], blocks), do: outside(rest, blocks)

  defp block([first | rest] = lines, line) do
    case Regex.run(~r"^# (\S+/\S+\.exs?)$", first) do
      [_first, file] -> %{line: line + 1, code: Enum.join(rest, "\n"), file: file}
      nil -> %{line: line, code: Enum.join(lines, "\n"), file: nil}
    end
  end

  @doc """
  Runs blocks one after the other; what one binds is known to the next. Raises what a block raises,
  and says where in the guide it stands.
  """
  @spec run([block()], Path.t()) :: :ok
  def run(blocks, path) do
    Enum.reduce(blocks, [], &run_block(&1, &2, path))
    :ok
  end

  defp run_block(block, binding, path) do
    {_value, binding} = Code.eval_string(block.code, binding, file: path, line: block.line)
    binding
  rescue
    error ->
      message = "#{path}:#{block.line}: #{Exception.message(error)}"
      reraise RuntimeError, [message: message], __STACKTRACE__
  end

  @doc "Whether the lines of an excerpt stand in its file, one after the other, however indented."
  @spec in_file?(block()) :: boolean()
  def in_file?(%{file: file, code: code}), do: unindented(File.read!(file)) =~ unindented(code)

  defp unindented(code), do: String.replace(code, ~r/^ +/m, "")
end
