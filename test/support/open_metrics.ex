defmodule GrpcLb.Test.OpenMetrics do
  @moduledoc """
  Reads OpenMetrics text, as its specification has the format, and raises what is wrong with it:
  families in one piece, each with its type first; no sample twice; labels escaped; one end.
  """

  @name "[a-zA-Z_:][a-zA-Z0-9_:]*"

  @doc "The samples as `%{{name, labels} => value}`, and the families' types."
  @spec parse!(String.t()) :: {%{{String.t(), map()} => number()}, %{String.t() => String.t()}}
  def parse!(text) do
    unless String.valid?(text), do: raise("no UTF-8")
    {lines, ["# EOF", ""]} = text |> String.split("\n") |> Enum.split(-2)

    {samples, types, _family} =
      Enum.reduce(lines, {%{}, %{}, nil}, fn line, {samples, types, family} ->
        case line do
          "# TYPE " <> rest ->
            [name, type] = String.split(rest, " ")
            if is_map_key(types, name), do: raise("#{name} is in two pieces")
            unless type in ["gauge", "counter", "unknown"], do: raise("type #{type}")
            unless name =~ ~r/\A#{@name}\z/, do: raise("name #{name}")
            {samples, Map.put(types, name, type), name}

          "# HELP " <> rest ->
            [^family, _help] = String.split(rest, " ", parts: 2)
            {samples, types, family}

          sample ->
            {name, labels, value} = sample!(sample)
            if name != family, do: raise("#{name} is outside of its family")
            if is_map_key(samples, {name, labels}), do: raise("twice: #{sample}")
            {Map.put(samples, {name, labels}, value), types, family}
        end
      end)

    {samples, types}
  end

  defp sample!(line) do
    [_line, name, rest] = Regex.run(~r/\A(#{@name})(.*)\z/s, line)
    {labels, rest} = if "{" == String.first(rest), do: labels!(rest), else: {%{}, rest}
    " " <> number = rest
    {value, ""} = Float.parse(number)
    {name, labels, value}
  end

  defp labels!("{" <> rest), do: label!(rest, %{})

  defp label!(text, labels) do
    [all, name] = Regex.run(~r/\A([a-zA-Z_][a-zA-Z0-9_]*)="/, text)

    {value, rest} =
      value!(binary_part(text, byte_size(all), byte_size(text) - byte_size(all)), "")

    if is_map_key(labels, name), do: raise("label #{name} twice")
    labels = Map.put(labels, name, value)

    case rest do
      "," <> rest -> label!(rest, labels)
      "}" <> rest -> {labels, rest}
    end
  end

  defp value!("\"" <> rest, value), do: {value, rest}
  defp value!("\\\\" <> rest, value), do: value!(rest, value <> "\\")
  defp value!("\\\"" <> rest, value), do: value!(rest, value <> "\"")
  defp value!("\\n" <> rest, value), do: value!(rest, value <> "\n")
  defp value!("\\" <> _other, _value), do: raise("a backslash that escapes nothing")
  defp value!(<<byte, rest::binary>>, value), do: value!(rest, value <> <<byte>>)
end
