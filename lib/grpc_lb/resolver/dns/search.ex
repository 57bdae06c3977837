defmodule GrpcLb.Resolver.DNS.Search do
  # The search for the first of several names that is known, with glibc's rules (its res_search).
  @moduledoc false

  alias GrpcLb.Resolver.DNS.Answer

  @doc """
  Asks for one name after the other until one brings something, and returns what `ask` did then.

  The search goes on after a name that is not there, and after SERVFAIL, which may be this name's
  alone; after any failure of the name as it is, where that comes first; and ends with the other
  failures, for which the name as it is is tried still.

  When none is known, a failure goes before an absence, other than with glibc: what could not be found
  out must not look as if there was nothing. Otherwise the name as it is says it, if it came first, or a
  name that is there without such records.

      iex> answers = %{"db.a" => {:error, :servfail}, "db.b" => {:ok, 7}}
      iex> GrpcLb.Resolver.DNS.Search.first(["db.a", "db.b", "db"], "db", &{answers[&1], nil})
      {{:ok, 7}, nil}
  """
  @spec first([String.t()], String.t(), (String.t() -> {answer, more})) ::
          {answer | {:error, :nxdomain}, more | nil}
        when answer: {:ok, term()} | {:error, term()}, more: term()
  def first(names, as_is, ask), do: first(names, as_is, ask, [])

  defp first([], _as_is, _ask, []), do: {{:error, :nxdomain}, nil}
  defp first([], as_is, _ask, before), do: {before |> Enum.reverse() |> summary(as_is), nil}

  defp first([name | names], as_is, ask, before) do
    case ask.(name) do
      {{:ok, _found}, _more} = found ->
        found

      {{:error, reason} = error, _more} ->
        goes_on? = Answer.absent?(error) or reason == :servfail or name == as_is
        names = if goes_on?, do: names, else: Enum.filter(names, &(&1 == as_is))
        first(names, as_is, ask, [{name, error} | before])
    end
  end

  defp summary([{first, answer} | _others] = tried, as_is) do
    errors = Enum.map(tried, &elem(&1, 1))

    cond do
      failure = Enum.find(errors, &Answer.unknown?/1) -> failure
      first == as_is -> answer
      {:error, :no_addresses} in errors -> {:error, :no_addresses}
      true -> {:error, :nxdomain}
    end
  end
end
