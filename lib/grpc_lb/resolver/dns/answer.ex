defmodule GrpcLb.Resolver.DNS.Answer do
  # The answer to one question, or to several merged.
  @moduledoc false

  @typedoc "`:pending` while there is none."
  @type t(data) :: {:ok, [data], ttl :: non_neg_integer()} | {:error, reason :: term()} | :pending

  @doc "Whether the answer is that there is no such record."
  @spec absent?(t(term())) :: boolean()
  def absent?(answer),
    do: match?({:error, reason} when reason in [:nxdomain, :no_addresses], answer)

  @doc "Whether nothing is known of the records."
  @spec unknown?(t(term())) :: boolean()
  def unknown?({:ok, _data, _ttl}), do: false
  def unknown?(answer), do: not absent?(answer)

  @doc """
  Merges answers into one.

  It has all that was found, with the shortest TTL, or with 0 if there may be more, because a question
  failed or its answer is pending. Where nothing was found, a failure goes before an absence: what is
  not known must not look as if there was nothing.

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, {:ok, [:b], 20}])
      {:ok, [:a, :b], 20}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, {:error, :no_addresses}])
      {:ok, [:a], 30}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, :pending])
      {:ok, [:a], 0}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:error, :no_addresses}, {:error, :timeout}])
      {:error, :timeout}
  """
  @spec merge([t(data), ...]) :: t(data) when data: term()
  def merge(answers) do
    {found, others} = Enum.split_with(answers, &match?({:ok, _data, _ttl}, &1))
    unknown = Enum.find(others, &unknown?/1)

    case found do
      [] ->
        unknown || hd(others)

      found ->
        {:ok, Enum.flat_map(found, &elem(&1, 1)), if(unknown, do: 0, else: shortest(found))}
    end
  end

  defp shortest(found), do: found |> Enum.map(&elem(&1, 2)) |> Enum.min()
end
