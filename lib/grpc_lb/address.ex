defmodule GrpcLb.Address do
  @moduledoc """
  Where one backend listens, and its weight.

  ## Fields

    * `:ip` - an IPv4 or IPv6 address as in `t::inet.ip_address/0`, or `{:local, path}` for a Unix
      domain socket
    * `:port` - 1 to 65535; 0 for a Unix domain socket. `:gen_tcp.connect(address.ip,
      address.port, opts)` takes both as they are
    * `:host` - the host name that was resolved to this address, without a dot at its end: what TLS
      has to verify. `nil`, the default, when the address was given as such
    * `:weight` - its share beside the others, 1 to 4294967295, by default 1
  """

  alias GrpcLb.HostPort

  @enforce_keys [:ip, :port]
  defstruct [:ip, :port, :host, weight: 1]

  @type t :: %__MODULE__{
          ip: :inet.ip_address() | {:local, path :: String.t()},
          port: :inet.port_number(),
          host: String.t() | nil,
          weight: pos_integer()
        }

  @typedoc """
  An address in one of the forms in which it can be written:

    * `"10.0.0.1:50051"`, `"[::1]:50051"`, `"unix:/run/app.sock"`
    * `{ip, port}`, where `ip` is a tuple or a string: `{{10, 0, 0, 1}, 50051}`, `{"::1", 50051}`
    * a `%GrpcLb.Address{}`
  """
  @type form :: String.t() | {String.t() | :inet.ip_address(), :inet.port_number()} | t()

  @max_weight 0xFFFFFFFF

  # The kernel's limit, without the NUL at the end. gen_tcp exits beyond it.
  @max_path if match?({:unix, :linux}, :os.type()), do: 107, else: 103

  @doc """
  Makes an address of one of its forms, see `t:form/0`.

  Text without a port gets `default_port`, which is 443 as in gRPC's naming. An IPv6 address that
  has a port must be in brackets. Host names are no addresses: write them as a target of the scheme
  `dns`, see `GrpcLb.Target`.

    * `{:ok, address}`
    * `:error` - the form is malformed

      iex> GrpcLb.Address.new("10.0.0.1:50051")
      {:ok, %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 50051, host: nil, weight: 1}}

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
              "#{inspect(form)} is no address, expected \"1.2.3.4:port\", \"[::1]:port\", " <>
                "\"unix:path\", {ip, port} or a %GrpcLb.Address{}"
    end
  end

  defp read("unix:" <> path, _default_port), do: {:ok, at({:local, path}, 0)}

  defp read(text, default_port) when is_binary(text) do
    with {:ok, {ip, port}} <- HostPort.endpoint(text, default_port), do: {:ok, at(ip, port)}
  end

  defp read({ip, port}, _default_port) when is_binary(ip) do
    with {:ok, ip} <- HostPort.ip(ip), do: {:ok, at(ip, port)}
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
  def valid?(%__MODULE__{ip: ip, port: port, host: host, weight: weight}) do
    endpoint?(ip, port) and (is_nil(host) or is_binary(host)) and
      is_integer(weight) and weight in 1..@max_weight
  end

  def valid?(_other), do: false

  defp endpoint?({:local, path}, 0) do
    is_binary(path) and byte_size(path) in 1..@max_path and not String.contains?(path, <<0>>)
  end

  defp endpoint?(ip, port) do
    :inet.is_ip_address(ip) and is_integer(port) and port in 1..0xFFFF
  end

  @doc """
  The address as text, which is the id of its backend. Host and weight are no part of it.

      iex> GrpcLb.Address.id(GrpcLb.Address.new!("10.0.0.1:50051"))
      "10.0.0.1:50051"

      iex> GrpcLb.Address.id(GrpcLb.Address.new!({"::1", 50051}))
      "[::1]:50051"

      iex> GrpcLb.Address.id(GrpcLb.Address.new!("unix:/run/app.sock"))
      "unix:/run/app.sock"
  """
  @spec id(t()) :: String.t()
  def id(%__MODULE__{ip: {:local, path}}), do: "unix:" <> path

  def id(%__MODULE__{ip: ip, port: port}) when tuple_size(ip) == 4,
    do: "#{:inet.ntoa(ip)}:#{port}"

  def id(%__MODULE__{ip: ip, port: port}), do: "[#{:inet.ntoa(ip)}]:#{port}"
end
