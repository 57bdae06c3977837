defmodule GrpcLb.Address do
  @moduledoc """
  Where one backend listens, and which part of the calls is for it.

  ## Fields

    * `:ip` - an IPv4 or IPv6 address as in `t::inet.ip_address/0`, or `{:local, path}` for a Unix
      domain socket. A path that begins with a zero byte is a name in Linux's abstract namespace
    * `:port` - 1 to 65535; 0 for a Unix domain socket. `:gen_tcp.connect(address.ip,
      address.port, opts)` takes both as they are, but for an address with a zone
    * `:zone` - the zone of an IPv6 address (RFC 4007), which link-local ones need: the name of an
      interface, such as `"eth0"`, or its number. `nil`, the default, for all others.
      `:gen_tcp.connect/3` has no place for it in its address; see `sockaddr/1`
    * `:host` - the host name that was resolved to this address, without a dot at its end: what TLS
      has to verify. `nil`, the default, when the address was given as such. It is part of what an
      endpoint is: the same `:ip` and `:port` under another name is another endpoint
    * `:weight` - its share beside the others, 1 to 4294967295, by default 1
    * `:priority` - 0 to 4294967295, by default 0: the first to be called the lowest, as `:priority` of
      `GrpcLb.Backend`. A connection connects to the next priority when it needs it, see
      `:failover_timeout` of `GrpcLb.Connection`
    * `:locality` - a zone for example, as `:locality` of `GrpcLb.Backend`; by default `nil`
    * `:alternatives` - where the same backend listens besides, each `{ip, port}`, as a server with an
      address of either family; by default none. A connection reaches it at one of them, and an
      endpoint of gRPC's naming has several addresses in the same way (gRFC A61)
  """

  alias GrpcLb.{Backend, HostPort, Text}

  @enforce_keys [:ip, :port]
  defstruct [:ip, :port, :zone, :host, weight: 1, priority: 0, locality: nil, alternatives: []]

  @type t :: %__MODULE__{
          ip: ip(),
          port: :inet.port_number(),
          zone: String.t() | nil,
          host: String.t() | nil,
          weight: pos_integer(),
          priority: priority(),
          locality: String.t() | nil,
          alternatives: [{ip(), :inet.port_number()}]
        }

  @type priority :: 0..0xFFFFFFFF

  @type ip :: :inet.ip_address() | {:local, path :: binary()}

  @typedoc """
  An address in one of the forms in which it can be written:

    * `"10.0.0.1:50051"`, `"[::1]:50051"`, `"[fe80::1%eth0]:50051"`, `"unix:/run/app.sock"`,
      `"unix-abstract:name"`
    * `{ip, port}`, where `ip` is a tuple or a string: `{{10, 0, 0, 1}, 50051}`, `{"::1", 50051}`
    * a `%GrpcLb.Address{}`
  """
  @type form :: String.t() | {String.t() | :inet.ip_address(), :inet.port_number()} | t()

  @max_weight 0xFFFFFFFF

  # The kernel's limit, without the NUL at the end. gen_tcp exits beyond it.
  @linux? match?({:unix, :linux}, :os.type())
  @max_path if @linux?, do: 107, else: 103
  # An abstract name has the NUL before it.
  @max_abstract if @linux?, do: 107, else: 0

  @doc """
  Makes an address of one of its forms, see `t:form/0`.

  Text without a port gets `default_port`, which is 443 as in gRPC's naming. An IPv6 address that
  has a port must be in brackets. Host names are no addresses: write them as a target of the scheme
  `dns`, see `GrpcLb.Target`.

    * `{:ok, address}`
    * `:error` - the form is malformed

      iex> GrpcLb.Address.new("10.0.0.1:50051")
      {:ok, %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 50051, zone: nil, host: nil, weight: 1}}

      iex> GrpcLb.Address.new("::1", 50051)
      {:ok, %GrpcLb.Address{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: 50051}}

      iex> GrpcLb.Address.new({"10.0.0.1", 50051})
      {:ok, %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 50051}}

      iex> GrpcLb.Address.new("localhost:50051")
      :error
  """
  @spec new(form(), default_port :: :inet.port_number()) :: {:ok, t()} | :error
  def new(form, default_port \\ 443) do
    with {:ok, address} <- read(form, default_port) do
      if valid?(address), do: {:ok, address}, else: :error
    end
  end

  @doc """
  Makes an address like `new/2`, or raises `ArgumentError`.

      iex> GrpcLb.Address.new!("unix:/run/app.sock")
      %GrpcLb.Address{ip: {:local, "/run/app.sock"}, port: 0}

      iex> GrpcLb.Address.new!("localhost:50051")
      ** (ArgumentError) "localhost:50051" is no address, expected "1.2.3.4:port", "[::1]:port", "unix:path", {ip, port} or a %GrpcLb.Address{}
  """
  @spec new!(form(), default_port :: :inet.port_number()) :: t()
  def new!(form, default_port \\ 443) do
    case new(form, default_port) do
      {:ok, address} ->
        address

      :error ->
        raise ArgumentError,
              "#{Text.show(form)} is no address, expected \"1.2.3.4:port\", \"[::1]:port\", " <>
                "\"unix:path\", {ip, port} or a %GrpcLb.Address{}"
    end
  end

  defp read("unix:" <> path, _default_port) do
    # A path that begins with a zero byte has a scheme of its own.
    if String.starts_with?(path, <<0>>), do: :error, else: {:ok, at({:local, path}, 0)}
  end

  defp read("unix-abstract:" <> name, _default_port), do: {:ok, at({:local, <<0>> <> name}, 0)}

  defp read(text, default_port) when is_binary(text) do
    case HostPort.endpoint(text, default_port) do
      {:ok, {ip, zone, port}} -> {:ok, %{at(ip, port) | zone: zone}}
      {:error, _malformed} -> :error
    end
  end

  defp read({ip, port}, _default_port) when is_binary(ip) do
    with {:ok, {ip, zone}} <- HostPort.ip(ip), do: {:ok, %{at(ip, port) | zone: zone}}
  end

  defp read({ip, port}, _default_port), do: {:ok, at(ip, port)}
  defp read(%__MODULE__{} = address, _default_port), do: {:ok, address}
  defp read(_other, _default_port), do: :error

  defp at(ip, port), do: %__MODULE__{ip: ip, port: port}

  @doc """
  Whether a term is an address with valid fields.

      iex> GrpcLb.Address.valid?(%GrpcLb.Address{ip: {10, 0, 0, 1}, port: 50051})
      true

      iex> GrpcLb.Address.valid?(%GrpcLb.Address{ip: "10.0.0.1", port: 50051})
      false
  """
  @spec valid?(term()) :: boolean()
  def valid?(%__MODULE__{ip: ip, port: port, zone: zone, host: host, weight: weight} = address) do
    endpoint?(ip, port) and zone?(zone, ip) and (is_nil(host) or is_binary(host)) and
      is_integer(weight) and weight in 1..@max_weight and layer?(address) and
      endpoints?(address.alternatives)
  end

  def valid?(_other), do: false

  defp layer?(%{priority: priority, locality: locality}) do
    is_integer(priority) and priority in 0..0xFFFFFFFF and
      (locality == nil or Backend.locality(locality) != :error)
  end

  defp zone?(nil, _ip), do: true
  defp zone?(zone, ip), do: is_binary(zone) and tuple_size(ip) == 8 and HostPort.zone?(zone)

  defp endpoints?([{ip, port} | rest]), do: endpoint?(ip, port) and endpoints?(rest)
  defp endpoints?(rest), do: rest == []

  defp endpoint?({:local, <<0, name::binary>>}, 0), do: byte_size(name) in 1..@max_abstract//1

  defp endpoint?({:local, path}, 0) do
    is_binary(path) and byte_size(path) in 1..@max_path and not String.contains?(path, <<0>>)
  end

  defp endpoint?(ip, port) do
    :inet.is_ip_address(ip) and is_integer(port) and port in 1..0xFFFF
  end

  @doc """
  The address as text: the id of its backend. Host, weight and alternatives are no part of it.

  Where a connection knows one address under two host names, these are two endpoints. The id of the
  first is this text, that of others has the host name behind it: `"10.0.0.1:50051/b.example"`. An
  endpoint keeps its id for as long as the connection knows it.

  Raises `ArgumentError` when its fields are none of an address.

      iex> GrpcLb.Address.id(GrpcLb.Address.new!("10.0.0.1:50051"))
      "10.0.0.1:50051"

      iex> GrpcLb.Address.id(GrpcLb.Address.new!({"fe80::1%eth0", 50051}))
      "[fe80::1%eth0]:50051"

      iex> GrpcLb.Address.id(GrpcLb.Address.new!("unix:/run/app.sock"))
      "unix:/run/app.sock"
  """
  @spec id(t()) :: String.t()
  def id(address), do: address |> located!() |> text()

  defp text(%{ip: {:local, <<0, name::binary>>}}), do: "unix-abstract:" <> name
  defp text(%{ip: {:local, path}}), do: "unix:" <> path
  defp text(%{ip: ip, port: port}) when tuple_size(ip) == 4, do: "#{:inet.ntoa(ip)}:#{port}"
  defp text(%{ip: ip, port: port, zone: nil}), do: "[#{ipv6(ip)}]:#{port}"
  defp text(%{ip: ip, port: port, zone: zone}), do: "[#{ipv6(ip)}%#{zone}]:#{port}"

  # In a link-local address Erlang shows the second word as a zone, which would be read as another address.
  defp ipv6(ip) do
    text = to_string(:inet.ntoa(ip))
    if text =~ "%", do: Enum.map_join(Tuple.to_list(ip), ":", &hex/1), else: text
  end

  defp hex(word), do: word |> Integer.to_string(16) |> String.downcase()

  # Anybody can write a struct.
  defp located!(%__MODULE__{ip: ip, port: port, zone: zone} = address) do
    unless endpoint?(ip, port) and zone?(zone, ip) do
      raise ArgumentError, "the address has no valid ip, port and zone: #{Text.show(address)}"
    end

    address
  end

  defp located!(other) do
    raise ArgumentError, "address must be a %GrpcLb.Address{}, got: #{Text.show(other)}"
  end

  @doc """
  The address as `:gen_tcp.connect/2` takes it, with its zone; that of a Unix domain socket is for
  `:socket.connect/2` only.

      with {:ok, sockaddr} <- GrpcLb.Address.sockaddr(address),
           do: :gen_tcp.connect(sockaddr, [:binary, active: false])

    * `{:ok, sockaddr}`
    * `{:error, posix}` - this machine has no interface of the zone's name

  Raises `ArgumentError` when its fields are none of an address.

      iex> GrpcLb.Address.sockaddr(GrpcLb.Address.new!("[fe80::1%7]:50051"))
      {:ok,
       %{
         family: :inet6,
         addr: {0xFE80, 0, 0, 0, 0, 0, 0, 1},
         port: 50051,
         flowinfo: 0,
         scope_id: 7
       }}

      iex> GrpcLb.Address.sockaddr(GrpcLb.Address.new!("10.0.0.1:50051"))
      {:ok, %{family: :inet, addr: {10, 0, 0, 1}, port: 50051}}
  """
  @spec sockaddr(t()) :: {:ok, :socket.sockaddr()} | {:error, :inet.posix()}
  def sockaddr(address) do
    case located!(address) do
      %{ip: {:local, path}} ->
        {:ok, %{family: :local, path: path}}

      %{ip: ip, port: port} when tuple_size(ip) == 4 ->
        {:ok, %{family: :inet, addr: ip, port: port}}

      %{ip: ip, port: port, zone: zone} ->
        with {:ok, scope_id} <- scope_id(zone),
             do: {:ok, %{family: :inet6, addr: ip, port: port, flowinfo: 0, scope_id: scope_id}}
    end
  end

  defp scope_id(nil), do: {:ok, 0}

  defp scope_id(zone) do
    case Integer.parse(zone) do
      {number, ""} -> {:ok, number}
      _name -> :net.if_name2index(String.to_charlist(zone))
    end
  end
end
