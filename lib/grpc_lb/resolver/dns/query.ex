defmodule GrpcLb.Resolver.DNS.Query do
  # Asks name servers, with one deadline for all questions.
  @moduledoc false

  alias GrpcLb.Resolver.DNS.Answer

  @enforce_keys [:opts, :deadline]
  defstruct [:opts, :deadline]

  @opaque t :: %__MODULE__{opts: keyword(), deadline: integer()}

  @doc "`timeout` is in milliseconds, and runs from now."
  @spec new(:system | [{:inet.ip_address(), :inet.port_number()}], pos_integer()) :: t()
  def new(servers, timeout) do
    # :inet_res asks a server that says SERVFAIL twice more, after a pause each. With a pause beyond
    # the deadline it returns at once, and leaves it to the connection when to ask again.
    opts = [servfail_retry_timeout: timeout + 1]
    opts = if servers == :system, do: opts, else: [{:nameservers, servers} | opts]
    %__MODULE__{opts: opts, deadline: now() + timeout}
  end

  @doc "Asks for the A and AAAA records of a name at the same time."
  @spec addresses(t(), String.t()) :: Answer.t(:inet.ip_address())
  def addresses(query, name) do
    [:a, :aaaa]
    |> Enum.map(fn type -> Task.async(fn -> records(query, name, type) end) end)
    |> Task.await_many(:infinity)
    |> Answer.merge()
  end

  @doc "Asks for the records of one type and returns their data, as in `t::inet_res.dns_data/0`."
  @spec records(t(), String.t(), :a | :aaaa | :srv) :: Answer.t(term())
  def records(query, name, type) do
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
