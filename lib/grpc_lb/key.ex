defmodule GrpcLb.Key do
  @moduledoc false
  # The key of a call, as the NIFs take it: bytes to be hashed, or the hash itself.

  # Bytes are hashed on a normal scheduler: these take less than a tenth of a millisecond.
  @max_bytes 0x100000

  @hashes -0x8000000000000000..0xFFFFFFFFFFFFFFFF

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

  def to_native(bytes) when is_binary(bytes) do
    raise ArgumentError,
          "a key must have #{@max_bytes} bytes at most, got one of #{byte_size(bytes)}"
  end

  def to_native(term), do: term |> external() |> to_native()

  @doc """
  The external form of a term, the same on every node.
  """
  @spec external(term()) :: binary()
  def external(term), do: :erlang.term_to_binary(term, [:deterministic, minor_version: 2])
end
