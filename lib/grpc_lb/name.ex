defmodule GrpcLb.Name do
  @moduledoc false
  # Names of balancers and connections. People are to read them, so they are short; each event, each list of
  # balancers and each look-up copies, hashes or compares one, and nothing else runs on a scheduler that
  # hashes a term whose parts are shared.

  alias GrpcLb.{Key, Options}

  @bytes 1_024

  @doc "The type of an option that is one."
  @spec type() :: Options.type()
  def type, do: {:reader, "a term that takes #{@bytes} bytes at most", &__MODULE__.read/1}

  @doc "How long a name may be when it is spelled out, see `GrpcLb.Key.fits?/2`."
  @spec bytes() :: pos_integer()
  def bytes, do: @bytes

  @doc false
  @spec read(term()) :: {:ok, term()} | :error
  def read(term), do: if(Key.fits?(term, @bytes), do: {:ok, term}, else: :error)

  @doc """
  Raises `ArgumentError` where a term is no name, before it is looked up.

      iex> GrpcLb.Name.check!({:shard, 7})
      {:shard, 7}
      iex> GrpcLb.Name.check!(String.duplicate("a", 2_000))
      ** (ArgumentError) name must be a term that takes 1024 bytes at most, got: "#{String.duplicate("a", 200)}" <> ...
  """
  @spec check!(term()) :: term()
  def check!(term), do: Options.argument!("name", type(), term)
end
