defmodule GrpcLb.Text do
  # Terms of somebody else as text, for messages, logs and labels. `inspect` takes as long as a term is
  # large when it is spelled out, which one whose parts are shared is without taking memory, and the digits
  # of a large integer take time by their square, in which a scheduler does nothing else.
  @moduledoc false

  alias GrpcLb.Key

  @bytes 200
  @elements 50

  # 512 bits, as many digits as fit.
  @large Bitwise.bsl(1, 512)

  # A struct whose module shows it is shown by that only if it is small: nobody knows what it looks at.
  @struct 2_000

  @doc """
  A term as `inspect/1` shows it, as far as it takes about so many bytes.

      iex> GrpcLb.Text.show(%{id: {:shard, 7}, zone: "a", range: 1..3})
      ~S(%{id: {:shard, 7}, range: 1..3, zone: "a"})
      iex> GrpcLb.Text.show(Enum.to_list(1..99), 20)
      "[1, 2, 3, 4, 5, ...]"
      iex> GrpcLb.Text.show({:shard, Bitwise.bsl(1, 1_000_000)})
      "{:shard, a large integer}"
      iex> GrpcLb.Text.show(Enum.reduce(1..1_000, [], fn _, all -> {all, all} end), 10)
      "{{..., ...}, ...}"
  """
  @spec show(term(), bytes :: pos_integer()) :: String.t()
  def show(term, bytes \\ @bytes) do
    {text, _left} = draw(term, bytes)
    IO.iodata_to_binary(text)
  end

  # What opens and closes a part that has parts, and the sign that more of them were left out.
  @around 7

  # The text, and how many bytes are left, of which each part takes some.
  defp draw(_term, left) when left <= 0, do: {"...", left}

  defp draw(integer, left) when is_integer(integer) and (integer >= @large or integer <= -@large),
    do: drawn("a large integer", left)

  defp draw([], left), do: drawn("[]", left)

  defp draw(list, left) when is_list(list) do
    # A list of characters, as `inspect` has it.
    if printable?(list, left),
      do: list |> inspect(printable_limit: left) |> drawn(left),
      else: draw_list(list, left)
  end

  defp draw(tuple, left) when is_tuple(tuple) do
    count = min(tuple_size(tuple), @elements + 1)
    elements = for n <- 1..count//1, do: :erlang.element(n, tuple)
    {parts, left} = draw_parts(elements, left - @around, &draw/2)
    {["{", parts, "}"], left}
  end

  defp draw(%module{} = struct, left), do: struct |> draw_struct(module, left) |> drawn(left)

  defp draw(map, left) when is_map(map) do
    pairs = map |> :maps.iterator() |> :maps.next() |> pairs(@elements + 1)
    draw = if Enum.all?(pairs, &key?/1), do: &draw_field/2, else: &draw_pair/2
    {parts, left} = draw_parts(pairs, left - @around, draw)
    {["%{", parts, "}"], left}
  end

  # Bytes that are no text are shown as numbers.
  defp draw(other, left) do
    other
    |> inspect(printable_limit: left, limit: min(@elements, div(left, 5) + 1))
    |> drawn(left)
  end

  # As List.ascii_printable?/2, of improper lists too.
  defp printable?(_rest, 0), do: true
  defp printable?([], _left), do: true

  defp printable?([character | rest], left)
       when character in 32..126 or character in ~c"\a\b\t\n\v\f\r\e",
       do: printable?(rest, left - 1)

  defp printable?(_other, _left), do: false

  defp drawn(text, left), do: {text, left - byte_size(text)}

  defp draw_list(list, left) do
    {elements, tail} = split(list, @elements + 1, [])
    fields? = tail == [] and Enum.all?(elements, &key?/1)
    draw = if fields?, do: &draw_field/2, else: &draw/2
    {parts, left} = draw_parts(elements, left - @around, draw)

    if is_list(tail) do
      {["[", parts, "]"], left}
    else
      {tail, left} = draw(tail, left - 3)
      {["[", parts, " | ", tail, "]"], left}
    end
  end

  # The first elements, and what is behind the last one: what is left out of a longer list is a list.
  defp split([element | rest], n, elements) when n > 0,
    do: split(rest, n - 1, [element | elements])

  defp split(rest, _n, elements), do: {Enum.reverse(elements), rest}

  defp pairs({key, value, rest}, n) when n > 0,
    do: [{key, value} | pairs(:maps.next(rest), n - 1)]

  defp pairs(_none_or_too_many, _n), do: []

  defp key?({key, _value}) when is_atom(key),
    do: not match?("Elixir." <> _module, Atom.to_string(key))

  defp key?(_other), do: false

  # One more than are shown is none of them.
  defp draw_parts(parts, left, draw), do: draw_parts(parts, left, draw, @elements, [])

  defp draw_parts([], left, _draw, _n, drawn), do: {Enum.reverse(drawn), left}

  defp draw_parts(_more, left, draw, n, [_, _ | _] = drawn) when n == 0 or left <= 0,
    do: draw_parts([], left, draw, n, ["..." | drawn])

  defp draw_parts([part | rest], left, draw, n, drawn) do
    {text, left} = draw.(part, left)
    comma = if rest == [], do: [], else: [", "]
    draw_parts(rest, left - 2, draw, n - 1, comma ++ [text | drawn])
  end

  defp draw_field({key, value}, left) do
    key = Macro.inspect_atom(:key, key)
    {value, left} = draw(value, left - byte_size(key) - 1)
    {[key, " ", value], left}
  end

  defp draw_pair({key, value}, left) do
    {key, left} = draw(key, left)
    {value, left} = draw(value, left - 4)
    {[key, " => ", value], left}
  end

  # What a module shows of its structs can be anything, and so can what it does then.
  defp draw_struct(struct, module, left) do
    with true <- Key.fits?(struct, @struct),
         text = inspect(struct, printable_limit: left, safe: false),
         true <- byte_size(text) <= 2 * left and String.valid?(text) do
      text
    else
      _too_large -> "%#{inspect(module)}{...}"
    end
  catch
    _kind, _reason -> "%#{inspect(module)}{...}"
  end
end
