defmodule GrpcLb.Resolver.DNS.Query do
  # Asks name servers, with one deadline for all questions.
  @moduledoc false

  alias GrpcLb.Resolver.DNS.{Answer, Names}

  @enforce_keys [:opts, :deadline]
  defstruct [:opts, :deadline]

  @opaque t :: %__MODULE__{opts: keyword(), deadline: integer()}

  @doc "`opts` are those of `:inet_res`. `timeout` is in milliseconds, and runs from now."
  @spec new(keyword(), pos_integer()) :: t()
  def new(opts, timeout) do
    # :inet_res asks a server that says SERVFAIL twice more, after a pause each. With a pause beyond
    # the deadline it returns at once, and leaves it to the connection when to ask again.
    opts = [{:servfail_retry_timeout, timeout + 1} | opts]
    %__MODULE__{opts: opts, deadline: now() + timeout}
  end

  @doc """
  Asks for the records of one type and returns their data, as in `t::inet_res.dns_data/0`. A name that
  no message can hold does not exist. Whatever `:inet_res` does is an answer.
  """
  @spec records(t(), String.t(), :a | :aaaa | :srv) :: Answer.t(term())
  def records(query, name, type) do
    if Names.encodable?(name), do: ask(query, name, type), else: {:error, :nxdomain}
  catch
    kind, reason -> {:error, {kind, reason}}
  end

  defp ask(query, name, type) do
    # In OTP 27 a truncated answer is malformed unless its header counts more records than there
    # are, and not every server counts so. Over TCP nothing is truncated.
    with {:error, :formerr} <- ask(query, name, type, query.opts),
         do: ask(query, name, type, [{:usevc, true} | query.opts])
  end

  defp ask(query, name, type, opts) do
    left = max(query.deadline - now(), 0)

    case :inet_res.resolve(String.to_charlist(name), :in, type, opts, left) do
      {:ok, message} -> message |> :inet_dns.msg(:anlist) |> answer(type)
      {:error, {reason, _message}} -> {:error, reason}
      {:error, reason} -> {:error, reason}
    end
  end

  # An alias may change sooner than what it leads to.
  defp answer(records, type) do
    case for record <- records,
             :inet_dns.rr(record, :type) == type,
             do: :inet_dns.rr(record, :data) do
      [] -> {:error, :no_addresses}
      data -> {:ok, data, records |> Enum.map(&:inet_dns.rr(&1, :ttl)) |> Enum.min()}
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
