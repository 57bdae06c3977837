defmodule GrpcLb.Resolver.DNS.Answer do
  # The answer to one question, or to several merged.
  @moduledoc false

  @type t(data) :: {:ok, [data], ttl :: non_neg_integer()} | {:error, reason :: atom()}

  @doc "Whether the answer is that there is no such record."
  @spec absent?(t(term())) :: boolean()
  def absent?(answer),
    do: match?({:error, reason} when reason in [:nxdomain, :no_addresses], answer)

  @doc """
  Merges answers into one.

  It has all that was found, with the shortest TTL, or with 0 if a question failed, which may have
  more. Where nothing was found, a failure goes before an absence.

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, {:ok, [:b], 20}])
      {:ok, [:a, :b], 20}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, {:error, :no_addresses}])
      {:ok, [:a], 30}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:ok, [:a], 30}, {:error, :timeout}])
      {:ok, [:a], 0}

      iex> GrpcLb.Resolver.DNS.Answer.merge([{:error, :no_addresses}, {:error, :timeout}])
      {:error, :timeout}
  """
  @spec merge([t(data), ...]) :: t(data) when data: term()
  def merge(answers) do
    {found, errors} = Enum.split_with(answers, &match?({:ok, _data, _ttl}, &1))
    failure = Enum.find(errors, &(not absent?(&1)))

    case found do
      [] ->
        failure || hd(errors)

      found ->
        {:ok, Enum.flat_map(found, &elem(&1, 1)), if(failure, do: 0, else: shortest(found))}
    end
  end

  defp shortest(found), do: found |> Enum.map(&elem(&1, 2)) |> Enum.min()
end
