defmodule GrpcLb.Key do
  @moduledoc false
  # The key of a call, as the NIFs take it: bytes to be hashed, or the hash itself.

  # Bytes are hashed on a normal scheduler: these take less than a tenth of a millisecond.
  @max_bytes 0x100000

  @hashes -0x8000000000000000..0xFFFFFFFFFFFFFFFF

  @doc "How many bytes are hashed at most."
  @spec max_bytes() :: pos_integer()
  def max_bytes, do: @max_bytes

  @doc "Reads a text that is hashed as it is."
  @spec text(term()) :: {:ok, binary()} | :error
  def text(text) when is_binary(text) and byte_size(text) <= @max_bytes, do: {:ok, text}
  def text(_other), do: :error

  @doc """
  What is hashed of a key. Terms that are neither binaries nor integers become their external form, which
  is the same on every node and in every release of OTP: atoms in UTF-8, maps with their keys in order.

      iex> GrpcLb.Key.to_native("user 7")
      "user 7"
      iex> GrpcLb.Key.to_native(7)
      7
      iex> GrpcLb.Key.to_native(nil)
      nil
      iex> GrpcLb.Key.to_native({:user, 7})
      <<131, 104, 2, 119, 4, 117, 115, 101, 114, 97, 7>>
      iex> GrpcLb.Key.to_native(String.duplicate("a", 2_000_000))
      ** (ArgumentError) a key must have 1048576 bytes at most, got one of 2000000
  """
  @spec to_native(key :: term()) :: binary() | integer() | nil
  def to_native(nil), do: nil
  def to_native(hash) when is_integer(hash) and hash in @hashes, do: hash
  def to_native(large) when is_integer(large), do: Bitwise.band(large, 0xFFFFFFFFFFFFFFFF)
  def to_native(bytes) when is_binary(bytes) and byte_size(bytes) <= @max_bytes, do: bytes

  def to_native(bytes) when is_binary(bytes), do: too_long!("one of #{byte_size(bytes)}")

  def to_native(term), do: term |> external() |> to_native()

  @spec too_long!(String.t()) :: no_return()
  defp too_long!(what),
    do: raise(ArgumentError, "a key must have #{@max_bytes} bytes at most, got #{what}")

  @doc """
  The external form of a term, the same on every node. Raises `ArgumentError` for one that is longer than a key
  may be.
  """
  @spec external(term()) :: binary()
  def external(term) do
    with :error <- spell_out(term), do: too_long!("one that is longer when it is spelled out")
  end

  @doc "As `external/1`, or `:error`."
  @spec spell_out(term()) :: binary() | :error
  def spell_out(term) do
    if fits?(term, @max_bytes),
      do: :erlang.term_to_binary(term, [:deterministic, minor_version: 2]),
      else: :error
  end

  @doc """
  Whether a term takes so many bytes at most when it is spelled out: then to hash it, to compare it and to copy
  it take as long as that.

      iex> GrpcLb.Key.fits?({:user, 7}, 10)
      true
      iex> GrpcLb.Key.fits?(Enum.reduce(1..1_000, [], fn _, all -> {all, all} end), 1_000)
      false
  """
  @spec fits?(term(), bytes :: pos_integer()) :: boolean()
  def fits?(term, bytes) do
    left = spell(term, bytes)
    left != nil and left >= 0
  end

  # How many of so many bytes are left when a term is spelled out, or nil when they are not enough: each of
  # its parts takes one at least, as often as it occurs. A term is small in memory as long as its parts are
  # shared, and spelling one out that is not small takes as long as it is large.
  defp spell(_term, left) when left == nil or left <= 0, do: nil
  defp spell([head | tail], left), do: spell(tail, spell(head, left - 1))
  defp spell(bits, left) when is_bitstring(bits), do: left - byte_size(bits) - 1

  defp spell(tuple, left) when is_tuple(tuple), do: spell_elements(tuple, 1, left - 1)

  defp spell(map, left) when is_map(map),
    do: spell_pairs(:maps.next(:maps.iterator(map)), left - 1)

  # What a function has closed over is a part of it.
  defp spell(fun, left) when is_function(fun) do
    {:env, env} = :erlang.fun_info(fun, :env)
    spell(env, left - 1)
  end

  defp spell(integer, left) when is_integer(integer) and integer not in @hashes,
    do: left - :erlang.external_size(integer)

  defp spell(_word, left), do: left - 1

  defp spell_elements(_tuple, _n, nil), do: nil

  defp spell_elements(tuple, n, left) when n <= tuple_size(tuple),
    do: spell_elements(tuple, n + 1, spell(:erlang.element(n, tuple), left))

  defp spell_elements(_tuple, _n, left), do: left

  defp spell_pairs(_pairs, nil), do: nil
  defp spell_pairs(:none, left), do: left

  defp spell_pairs({key, value, rest}, left),
    do: spell_pairs(:maps.next(rest), spell(value, spell(key, left)))
end
