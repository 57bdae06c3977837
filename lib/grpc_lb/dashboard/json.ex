defmodule GrpcLb.Dashboard.Json do
  # Writes JSON, of what samples are made of. The floor of Elixir versions has no encoder of its own.
  @moduledoc false

  @type value ::
          nil | boolean() | number() | atom() | String.t() | [value()] | %{atom() => value()}

  @doc """
      iex> GrpcLb.Dashboard.Json.encode(%{id: "<b>\\n", share: 0.5, left: nil}) |> IO.iodata_to_binary()
      ~S({"id":"\\u003Cb\\u003E\\u000A","left":null,"share":0.5})
  """
  @spec encode(value()) :: iodata()
  def encode(nil), do: "null"
  def encode(true), do: "true"
  def encode(false), do: "false"
  def encode(atom) when is_atom(atom), do: encode(Atom.to_string(atom))
  def encode(number) when is_integer(number), do: Integer.to_string(number)
  def encode(number) when is_float(number), do: Float.to_string(number)
  def encode(text) when is_binary(text), do: [?", for(<<char::utf8 <- text>>, do: char(char)), ?"]
  def encode(list) when is_list(list), do: [?[, Enum.map_intersperse(list, ?,, &encode/1), ?]]

  def encode(map) when is_map(map) do
    members = map |> Enum.sort() |> Enum.map_intersperse(?,, &member/1)
    [?{, members, ?}]
  end

  defp member({key, value}), do: [encode(Atom.to_string(key)), ?:, encode(value)]

  # Also what would be markup where a text is taken for a page.
  defp char(char) when char < 0x20 or char in [?", ?\\, ?<, ?>, ?&, 0x2028, 0x2029],
    do: ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]

  defp char(char), do: <<char::utf8>>
end
