defmodule GrpcLb.Resolver.DNS.Names do
  # The hosts file and the search list, as the VM has read them. The functions of inet_hosts and
  # inet_db are in no manual, but inet and inet_res have called them since their first release, and
  # offer what they do only together with a lookup.
  @moduledoc false

  @doc "The name without the dot that marks it as absolute."
  @spec relative(String.t()) :: String.t()
  def relative(host), do: String.replace_suffix(host, ".", "")

  @doc "The addresses of a host in the hosts file, `[]` if it is not there."
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

  @doc "The names to ask for, one after the other, with the search list in `/etc/resolv.conf`."
  @spec search(String.t()) :: [String.t(), ...]
  def search(host) do
    :inet_db.res_update_conf()
    # Without a search list it is [""].
    domains = for domain <- :inet_db.get_searchlist(), domain != ~c"", do: List.to_string(domain)
    search(host, domains)
  end

  @doc """
  The same with a given search list.

      iex> GrpcLb.Resolver.DNS.Names.search("db", ["a.example", "example"])
      ["db.a.example", "db.example", "db"]

      iex> GrpcLb.Resolver.DNS.Names.search("db.b", ["example"])
      ["db.b", "db.b.example"]

      iex> GrpcLb.Resolver.DNS.Names.search("db.", ["example"])
      ["db"]
  """
  @spec search(String.t(), [String.t()]) :: [String.t(), ...]
  def search(host, domains) do
    found = for domain <- domains, do: host <> "." <> domain

    cond do
      String.ends_with?(host, ".") -> [relative(host)]
      String.contains?(host, ".") -> [host | found]
      true -> found ++ [host]
    end
  end
end
