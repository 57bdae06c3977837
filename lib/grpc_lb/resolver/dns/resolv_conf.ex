defmodule GrpcLb.Resolver.DNS.ResolvConf do
  # What /etc/resolv.conf says of the way in which names are looked up (resolv.conf(5)). The VM reads
  # its name servers and its search list, and not its options.
  @moduledoc false

  # As glibc, which has these limits.
  @max_ndots 15
  @max_timeout_s 30
  @max_attempts 5

  @enforce_keys [:search, :ndots, :tld_query?, :types, :query]
  defstruct @enforce_keys

  @typedoc """
  `search` are the domains, `ndots` says from how many dots on a name is tried as it is first,
  `tld_query?` whether one without dots is tried as it is at all, `types` which records are asked for,
  and `query` are options of `:inet_res`.
  """
  @type t :: %__MODULE__{
          search: [String.t()],
          ndots: 0..15,
          tld_query?: boolean(),
          types: [:a | :aaaa],
          query: keyword()
        }

  @doc """
  What it says now. The functions of inet_db are in no manual, but inet and inet_res have called them
  since their first release, and offer what they do only together with a lookup.
  """
  @spec read() :: t()
  def read do
    :inet_db.res_update_conf()
    # Without a search list it is [""].
    search = for domain <- :inet_db.get_searchlist(), domain != ~c"", do: List.to_string(domain)
    # An inetrc can say that there is no such file.
    path = :inet_db.res_option(:resolv_conf)

    case path != [] and File.read(path) do
      {:ok, text} -> parse(text, search)
      _none -> parse("", search)
    end
  end

  @doc """
  Reads the options in its text, beside a given search list. What they say later goes before what they
  have said; those that make no difference here are passed over.

      iex> conf = GrpcLb.Resolver.DNS.ResolvConf.parse("options ndots:5 timeout:1 use-vc edns0", [])
      iex> {conf.ndots, conf.types, conf.query}
      {5, [:a, :aaaa], [usevc: true, timeout: 1_000]}
  """
  @spec parse(String.t(), [String.t()]) :: t()
  def parse(text, search) do
    options =
      for line <- String.split(text, "\n"),
          ["options" | options] <- [String.split(line)],
          option <- options,
          do: option

    conf = %__MODULE__{search: search, ndots: 1, tld_query?: true, types: [:a, :aaaa], query: []}
    Enum.reduce(options, conf, &option/2)
  end

  defp option("ndots:" <> n, conf), do: number(n, 0..@max_ndots, &%{conf | ndots: &1}, conf)

  defp option("timeout:" <> n, conf),
    do: number(n, 1..@max_timeout_s, &query(conf, :timeout, &1 * 1_000), conf)

  defp option("attempts:" <> n, conf),
    do: number(n, 1..@max_attempts, &query(conf, :retry, &1), conf)

  # A query begins with another server each time.
  defp option("rotate", conf),
    do: query(conf, :nameservers, Enum.shuffle(:inet_db.res_option(:nameservers)))

  defp option("use-vc", conf), do: query(conf, :usevc, true)
  defp option("no-aaaa", conf), do: %{conf | types: [:a]}
  defp option("no-tld-query", conf), do: %{conf | tld_query?: false}
  defp option(_other, conf), do: conf

  defp query(conf, option, value), do: %{conf | query: Keyword.put(conf.query, option, value)}

  defp number(text, first..last//_, set, conf) do
    case Integer.parse(text) do
      {number, ""} when number >= first -> set.(min(number, last))
      _malformed -> conf
    end
  end
end
