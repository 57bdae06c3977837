defmodule GrpcLb.Bench.Json do
  @moduledoc false
  # Writes JSON, one member a line, and reads it. The floor of Elixir versions has neither.

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

  @doc """
  What a JSON text says. Names become atoms, for the files that are read are written by this
  project. Raises where a text is no JSON.
  """
  def decode(text) do
    {value, rest} = read(skip(text))
    if skip(rest) != "", do: bad(rest)
    value
  end

  defp read("null" <> rest), do: {nil, rest}
  defp read("true" <> rest), do: {true, rest}
  defp read("false" <> rest), do: {false, rest}
  defp read("\"" <> rest), do: text(rest, [])
  defp read("[" <> rest), do: members(skip(rest), "]", [], &read/1)

  defp read("{" <> rest) do
    {members, rest} = members(skip(rest), "}", [], &member/1)
    {Map.new(members), rest}
  end

  defp read(text), do: number(text)

  defp member(text) do
    {name, rest} = read(text)

    case skip(rest) do
      ":" <> rest ->
        {value, rest} = read(skip(rest))
        {{String.to_atom(name), value}, rest}

      rest ->
        bad(rest)
    end
  end

  defp members(<<close::binary-1, rest::binary>>, close, [], _read), do: {[], rest}

  defp members(text, close, done, read) do
    {member, rest} = read.(text)

    case skip(rest) do
      "," <> rest -> members(skip(rest), close, [member | done], read)
      <<^close::binary-1, rest::binary>> -> {Enum.reverse([member | done]), rest}
      rest -> bad(rest)
    end
  end

  defp text("\"" <> rest, done), do: {done |> Enum.reverse() |> IO.iodata_to_binary(), rest}
  defp text("\\" <> rest, done), do: escaped(rest, done)
  defp text(<<char::utf8, rest::binary>>, done), do: text(rest, [<<char::utf8>> | done])
  defp text(text, _done), do: bad(text)

  defp escaped("u" <> <<hex::binary-4, rest::binary>>, done) do
    text(rest, [<<String.to_integer(hex, 16)::utf8>> | done])
  end

  for {escape, char} <- [n: "\n", r: "\r", t: "\t", b: "\b", f: "\f"] do
    defp escaped(unquote(to_string(escape)) <> rest, done), do: text(rest, [unquote(char) | done])
  end

  defp escaped(<<char::binary-1, rest::binary>>, done), do: text(rest, [char | done])

  defp number(text) do
    with [digits] <- Regex.run(~r/^-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/, text) do
      {number, ""} =
        if digits =~ ~r/^-?\d+$/, do: Integer.parse(digits), else: Float.parse(digits)

      {number, binary_part(text, byte_size(digits), byte_size(text) - byte_size(digits))}
    else
      nil -> bad(text)
    end
  end

  defp skip(<<space, rest::binary>>) when space in [?\s, ?\n, ?\r, ?\t], do: skip(rest)
  defp skip(text), do: text

  defp bad(rest), do: raise(ArgumentError, "no JSON: #{inspect(String.slice(rest, 0, 20))}")
end
