defmodule GrpcLb.Resolver.DNS.Names do
  # The hosts file, as the VM has read it, and the names to ask for.
  @moduledoc false

  alias GrpcLb.Resolver.DNS.ResolvConf

  @doc "The name without the dot that marks it as absolute."
  @spec relative(String.t()) :: String.t()
  def relative(host), do: String.replace_suffix(host, ".", "")

  @doc """
  The addresses of a host in the hosts file, `[]` if it is not there. As with inet_db, there is no
  other way to them but inside of a lookup.
  """
  @spec hosts_file(String.t()) :: [:inet.ip_address()]
  def hosts_file(host) do
    name = host |> relative() |> String.to_charlist()

    Enum.flat_map([:inet, :inet6], fn family ->
      case :inet_hosts.gethostbyname(name, family) do
        {:ok, {:hostent, _name, _aliases, ^family, _length, ips}} -> ips
        {:error, _unknown} -> []
      end
    end)
  end

  @doc """
  The names to ask for, one after the other, as glibc has them.

      iex> alias GrpcLb.Resolver.DNS.{Names, ResolvConf}
      iex> conf = ResolvConf.parse("", ["a.example", "example"])
      iex> Names.candidates("db", conf)
      ["db.a.example", "db.example", "db"]
      iex> Names.candidates("db.b", conf)
      ["db.b", "db.b.a.example", "db.b.example"]
      iex> Names.candidates("db.", conf)
      ["db"]
      iex> Names.candidates("db.b", ResolvConf.parse("options ndots:2", ["example"]))
      ["db.b.example", "db.b"]
      iex> Names.candidates("db", ResolvConf.parse("", [".", "example"]))
      ["db", "db.example"]
  """
  @spec candidates(String.t(), ResolvConf.t()) :: [String.t()]
  def candidates(host, conf) do
    dots = host |> String.graphemes() |> Enum.count(&(&1 == "."))
    searched = Enum.map(conf.search, &in_domain(host, &1))

    Enum.uniq(
      cond do
        String.ends_with?(host, ".") -> [relative(host)]
        dots >= conf.ndots -> [host | searched]
        dots == 0 and searched != [] and not conf.tld_query? -> searched
        true -> searched ++ [host]
      end
    )
  end

  # "." is the root, and so is "". glibc passes over a dot at the beginning, whatever follows.
  defp in_domain(host, domain) do
    case domain |> String.replace_prefix(".", "") |> relative() do
      "" -> host
      domain -> host <> "." <> domain
    end
  end

  @doc """
  Whether a question can have this name: labels of 1 to 63 bytes, 253 in all (RFC 1035), and no
  characters that mean something to the VM's encoder.

      iex> alias GrpcLb.Resolver.DNS.Names
      iex> {Names.encodable?("_grpc._tcp.example"), Names.encodable?("a..b")}
      {true, false}
  """
  @spec encodable?(String.t()) :: boolean()
  def encodable?(name),
    do: byte_size(name) <= 253 and name =~ ~r/\A([!-\-\/-\[\]-~]{1,63}\.)*[!-\-\/-\[\]-~]{1,63}\z/
end
