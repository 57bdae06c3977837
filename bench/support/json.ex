defmodule GrpcLb.Bench.Json do
  @moduledoc false
  # Writes JSON, one member a line. The floor of Elixir versions has no encoder of its own.

  def encode(term), do: IO.iodata_to_binary([value(term, "\n"), ?\n])

  defp value(nil, _line), do: "null"
  defp value(true, _line), do: "true"
  defp value(false, _line), do: "false"
  defp value(atom, _line) when is_atom(atom), do: string(Atom.to_string(atom))
  defp value(text, _line) when is_binary(text), do: string(text)
  defp value(number, _line) when is_integer(number), do: Integer.to_string(number)
  defp value(number, _line) when is_float(number), do: Float.to_string(Float.round(number, 6))
  defp value([], _line), do: "[]"
  defp value(list, line) when is_list(list), do: block(?[, list, ?], line, &value/2)

  defp value(map, line) when is_map(map) do
    block(?{, Enum.sort(map), ?}, line, fn {key, value}, line ->
      [string(to_string(key)), ": ", value(value, line)]
    end)
  end

  defp block(open, members, close, line, encode) do
    inner = line <> "  "
    [open, inner, Enum.map_intersperse(members, [?,, inner], &encode.(&1, inner)), line, close]
  end

  defp string(text), do: [?", for(<<char::utf8 <- text>>, do: escape(char)), ?"]

  defp escape(char) when char in [?", ?\\], do: [?\\, char]

  defp escape(char) when char < 0x20 do
    ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]
  end

  defp escape(char), do: <<char::utf8>>
end
