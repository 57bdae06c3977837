defmodule GrpcLb.Target do
  @moduledoc """
  What a connection connects to, in the [naming syntax of
  gRPC](https://github.com/grpc/grpc/blob/master/doc/naming.md).

  | target | resolved to |
  | --- | --- |
  | `"dns:///example.com:50051"` | what DNS knows, see `GrpcLb.Resolver.DNS` |
  | `"dns:example.com:50051"`, `"example.com:50051"` | the same: `dns` is the default |
  | `"dns://10.0.0.53/example.com:50051"` | what the name server 10.0.0.53 knows; `10.0.0.53:5353` for one on that port |
  | `"dns://example.com:50051"` | the same as `"dns:///example.com:50051"` |
  | `"ipv4:10.0.0.1:50051,10.0.0.2:50051"` | these addresses |
  | `"ipv6:[::1]:50051,[2001:db8::1]:50051"` | these addresses |
  | `"ipv6:[fe80::1%25eth0]:50051"` | this address in the zone (RFC 4007) of the interface eth0 |
  | `"unix:relative/path"`, `"unix:///absolute/path"` | this Unix domain socket |
  | `"unix-abstract:name"` | this socket in Linux's abstract namespace |
  | `"static:10.0.0.1:50051,[::1]:50051,unix:/run/app.sock"` | these addresses, of any kind |
  | `{:static, [address, ...]}` | these addresses, each in a form of `t:GrpcLb.Address.form/0`, so that it can have a weight |

    * A port that is left out is 443, as in gRPC.
    * An IPv6 address that has a port must be in brackets: `2001:db8::1:8080` is one address and no
      port.
    * What follows a scheme is that of a URI: `%5B` stands for `[`, and a `%` is written `%25`. A `%`
      that no two hexadecimal digits follow is taken as it is, as in gRPC, and so is every `%` in a
      target without a scheme: `[fe80::1%eth0]:50051`.
    * In `dns://example.com:50051` gRPC would see a name server and no name. elixir-grpc's
      documentation writes it so, and it has no other meaning: it is taken as the name.
    * Other schemes are refused: gRPC's `xds`, `vsock` and `google-c2p`, and `http` and `https`, which
      are none of its own: they say how to talk, which is the transport's business. A host name and a
      port, such as `http:80`, is no scheme.

  `static` is this library's own. A resolver of your own takes any term, see `GrpcLb.Resolver`.
  """

  alias GrpcLb.{Address, HostPort, Text}

  @enforce_keys [:scheme]
  defstruct [:scheme, :host, :port, :nameserver, addresses: []]

  @typedoc """
  A target, parsed: `:host`, `:port` and `:nameserver` for the scheme `:dns`, `:addresses` for all
  others.
  """
  @type t :: %__MODULE__{
          scheme: :dns | :ipv4 | :ipv6 | :unix | :unix_abstract | :static,
          host: String.t() | nil,
          port: :inet.port_number() | nil,
          nameserver: {:inet.ip_address(), :inet.port_number()} | nil,
          addresses: [Address.t()]
        }

  @typedoc "A target as it is written."
  @type form :: String.t() | {:static, [Address.form(), ...]}

  @default_port 443
  @dns_port 53

  @allowed ~s("dns:///host:port", "dns://nameserver/host:port", "host:port", ) <>
             ~s("ipv4:1.2.3.4:port,...", "ipv6:[::1]:port,...", "unix:path", "unix:///path", ) <>
             ~s("unix-abstract:name", "static:address,...", {:static, addresses})

  @doc """
  Parses a target.

  Raises `ArgumentError` that says what is wrong with it and which forms there are.

      iex> GrpcLb.Target.parse!("dns:///example.com:50051")
      %GrpcLb.Target{scheme: :dns, host: "example.com", port: 50051}

      iex> GrpcLb.Target.parse!("dns://10.0.0.53/example.com").nameserver
      {{10, 0, 0, 53}, 53}

      iex> GrpcLb.Target.parse!("ipv4:10.0.0.1:50051,10.0.0.2").addresses
      [%GrpcLb.Address{ip: {10, 0, 0, 1}, port: 50051}, %GrpcLb.Address{ip: {10, 0, 0, 2}, port: 443}]

      iex> target = GrpcLb.Target.parse!({:static, [{"10.0.0.1", 50051}, "unix:/run/app.sock"]})
      iex> Enum.map(target.addresses, &GrpcLb.Address.id/1)
      ["10.0.0.1:50051", "unix:/run/app.sock"]

      iex> GrpcLb.Target.parse!("ipv4:example.com:50051")
      ** (ArgumentError) target "ipv4:example.com:50051": "example.com:50051" is no IPv4 address, \
  with or without a port, expected one of "dns:///host:port", "dns://nameserver/host:port", "host:port", \
  "ipv4:1.2.3.4:port,...", "ipv6:[::1]:port,...", "unix:path", "unix:///path", \
  "unix-abstract:name", "static:address,...", {:static, addresses}
  """
  @spec parse!(form()) :: t()
  def parse!(form) do
    case parse(form) do
      {:ok, target} ->
        target

      {:error, what} ->
        raise ArgumentError,
              "target #{Text.show(form, 100)}: #{what}, expected one of #{@allowed}"
    end
  end

  defp parse({:static, [_ | _] = forms}) do
    if List.improper?(forms), do: {:error, "an improper list"}, else: addresses(:static, forms)
  end

  defp parse(text) when is_binary(text) do
    case scheme(text) do
      {:none, name} ->
        dns(["", name])

      {:unknown, scheme} ->
        {:error, "the scheme #{Text.show(scheme)} is unknown"}

      {:dns, "//" <> rest} ->
        rest |> String.split("/", parts: 2) |> Enum.map(&unescape/1) |> dns()

      {:dns, rest} ->
        dns(["", unescape(rest)])

      {:unix, "///" <> path} ->
        local(:unix, "unix:/" <> path)

      {:unix, "//" <> _path} ->
        {:error, "after unix:// the path must be absolute"}

      {:unix, path} ->
        local(:unix, "unix:" <> path)

      {:unix_abstract, "//" <> _name} ->
        {:error, "after unix-abstract: there is no //"}

      {:unix_abstract, name} ->
        local(:unix_abstract, "unix-abstract:" <> name)

      {scheme, rest} ->
        addresses(scheme, rest |> String.split(",") |> Enum.map(&unescape/1))
    end
  end

  defp parse(_other), do: {:error, "neither text nor a list of static addresses"}

  @known %{
    "dns" => :dns,
    "ipv4" => :ipv4,
    "ipv6" => :ipv6,
    "unix" => :unix,
    "unix-abstract" => :unix_abstract,
    "static" => :static
  }

  # Those of gRPC's naming document that need no slash.
  @others ["vsock", "google-c2p", "xds"]

  # What precedes the first colon is a scheme if it is known as one, or if a slash says so, and a host
  # otherwise.
  defp scheme(text) do
    with [scheme, rest] <- String.split(text, ":", parts: 2) do
      name = String.downcase(scheme)

      case @known do
        %{^name => scheme} -> {scheme, rest}
        _unknown when name in @others -> {:unknown, scheme}
        _unknown -> if String.starts_with?(rest, "/"), do: {:unknown, scheme}, else: {:none, text}
      end
    else
      [_no_colon] -> {:none, text}
    end
  end

  # As gRPC does it: URI.decode/1 has no mercy with a "%" that escapes nothing.
  defp unescape(text) do
    Regex.replace(~r/%([0-9a-f]{2})/i, text, fn _all, hex -> <<String.to_integer(hex, 16)>> end)
  end

  defp dns([name]), do: dns(["", name])
  defp dns([name, ""]) when name != "", do: dns(["", name])

  defp dns(["", name]) do
    with {:ok, {host, port}} <- HostPort.split(name),
         true <- host?(host) or match?({:ok, _ip}, HostPort.ip(host)) do
      {:ok, %__MODULE__{scheme: :dns, host: host, port: port || @default_port}}
    else
      {:error, {:port, port}} -> {:error, bad_port(port)}
      _malformed -> {:error, "#{Text.show(name)} is no host name, with or without a port"}
    end
  end

  defp dns([authority, name]) do
    with {:ok, target} <- dns(["", name]) do
      case HostPort.endpoint(authority, @dns_port) do
        {:ok, {ip, nil, port}} -> {:ok, %{target | nameserver: {ip, port}}}
        {:ok, _zoned} -> {:error, "the name server #{Text.show(authority)} must have no zone"}
        {:error, {:port, port}} -> {:error, "of the name server " <> bad_port(port)}
        {:error, :host} -> {:error, "the name server #{Text.show(authority)} is no IP address"}
      end
    end
  end

  defp bad_port(port), do: "the port must be a number from 1 to 65535, got #{Text.show(port)}"

  # RFC 1035, and the underscore of SRV names (RFC 2782).
  defp host?(host) do
    name = String.replace_suffix(host, ".", "")
    byte_size(name) <= 253 and name =~ ~r/\A([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\z/i
  end

  defp local(scheme, path), do: addresses(scheme, [unescape(path)])

  defp addresses(scheme, forms) do
    parsed = Enum.map(forms, &{&1, Address.new(&1, @default_port)})

    case Enum.find(parsed, fn {_form, address} -> not of_scheme?(scheme, address) end) do
      nil -> {:ok, %__MODULE__{scheme: scheme, addresses: for({_, {:ok, at}} <- parsed, do: at)}}
      {form, _refused} -> {:error, refusal(scheme, form)}
    end
  end

  defp refusal(scheme, form) do
    with true <- is_binary(form) and not String.starts_with?(form, "unix"),
         {:error, {:port, port}} <- HostPort.split(form) do
      "#{Text.show(form, 100)}: " <> bad_port(port)
    else
      _port_is_not_the_matter -> "#{Text.show(form, 100)} is no #{kind(scheme)}"
    end
  end

  defp of_scheme?(_scheme, :error), do: false
  defp of_scheme?(:static, {:ok, _any}), do: true
  defp of_scheme?(:unix, {:ok, address}), do: match?({:local, _path}, address.ip)
  defp of_scheme?(:unix_abstract, {:ok, address}), do: match?({:local, _path}, address.ip)
  defp of_scheme?(:ipv4, {:ok, address}), do: tuple_size(address.ip) == 4
  defp of_scheme?(:ipv6, {:ok, address}), do: tuple_size(address.ip) == 8

  defp kind(:static), do: "address"
  defp kind(:unix), do: "path of a Unix domain socket"
  defp kind(:unix_abstract), do: "name of a socket in Linux's abstract namespace"
  defp kind(:ipv4), do: "IPv4 address, with or without a port"
  defp kind(:ipv6), do: "IPv6 address, with or without a port"
end
