defmodule GrpcLb.HostPort do
  # Parses "host:port" as gRPC does.
  @moduledoc false

  @typedoc "What is wrong: the port, or what is before it."
  @type error :: {:error, {:port, text :: String.t()} | :host}

  @doc """
  Takes `"host:port"` apart. The port is `nil` where there is none, and the brackets around an IPv6
  address are taken off. Text with two colons or more and no brackets is an IPv6 address without a
  port.

      iex> GrpcLb.HostPort.split("example.com:50051")
      {:ok, {"example.com", 50051}}

      iex> GrpcLb.HostPort.split("[::1]:50051")
      {:ok, {"::1", 50051}}

      iex> GrpcLb.HostPort.split("::1")
      {:ok, {"::1", nil}}

      iex> GrpcLb.HostPort.split("example.com:http")
      {:error, {:port, "http"}}

      iex> GrpcLb.HostPort.split("[example.com]:80")
      {:error, :host}
  """
  @spec split(String.t()) :: {:ok, {host :: String.t(), 1..0xFFFF | nil}} | error()
  def split("[" <> rest) do
    with [host, after_host] <- String.split(rest, "]", parts: 2),
         {:ok, {ip, _zone}} when tuple_size(ip) == 8 <- ip(host) do
      case after_host do
        "" -> {:ok, {host, nil}}
        ":" <> port -> with {:ok, port} <- port(port), do: {:ok, {host, port}}
        _other -> {:error, :host}
      end
    else
      _malformed -> {:error, :host}
    end
  end

  def split(text) do
    case String.split(text, ":") do
      [host, port] -> with {:ok, port} <- port(port), do: {:ok, {host, port}}
      _no_port -> {:ok, {text, nil}}
    end
  end

  @doc """
  Reads `"ip:port"`; without a port it is `default_port`.

      iex> GrpcLb.HostPort.endpoint("[fe80::1%eth0]:53", 443)
      {:ok, {{0xFE80, 0, 0, 0, 0, 0, 0, 1}, "eth0", 53}}

      iex> GrpcLb.HostPort.endpoint("example.com:53", 443)
      {:error, :host}
  """
  @spec endpoint(String.t(), 1..0xFFFF) ::
          {:ok, {:inet.ip_address(), zone :: String.t() | nil, 1..0xFFFF}} | error()
  def endpoint(text, default_port) do
    with {:ok, {host, port}} <- split(text) do
      case ip(host) do
        {:ok, {ip, zone}} -> {:ok, {ip, zone, port || default_port}}
        :error -> {:error, :host}
      end
    end
  end

  @doc """
  Reads an IP address and its zone (RFC 4007), which only IPv6 has. IPv4 needs all its four numbers.

      iex> GrpcLb.HostPort.ip("10.0.0.1")
      {:ok, {{10, 0, 0, 1}, nil}}

      iex> GrpcLb.HostPort.ip("fe80::1%eth0")
      {:ok, {{0xFE80, 0, 0, 0, 0, 0, 0, 1}, "eth0"}}

      iex> GrpcLb.HostPort.ip("127.1")
      :error
  """
  @spec ip(String.t()) :: {:ok, {:inet.ip_address(), zone :: String.t() | nil}} | :error
  def ip(text) do
    {ip, zone} =
      case String.split(text, "%", parts: 2) do
        [ip, zone] -> {ip, zone}
        [ip] -> {ip, nil}
      end

    with {:ok, ip} <- :inet.parse_strict_address(:binary.bin_to_list(ip)),
         true <- zone == nil or (tuple_size(ip) == 8 and zone?(zone)) do
      {:ok, {ip, zone}}
    else
      _malformed -> :error
    end
  end

  @doc """
  Whether text can be a zone: the name of an interface, or its number.

      iex> GrpcLb.HostPort.zone?("eth0")
      true

      iex> GrpcLb.HostPort.zone?("")
      false
  """
  @spec zone?(String.t()) :: boolean()
  def zone?(text), do: text =~ ~r/\A[a-z0-9_.~-]+\z/i

  # Integer.parse/1 would take a sign.
  defp port(<<digit, _rest::binary>> = text) when digit in ?0..?9 do
    case Integer.parse(text) do
      {port, ""} when port in 1..0xFFFF -> {:ok, port}
      _other -> {:error, {:port, text}}
    end
  end

  defp port(text), do: {:error, {:port, text}}
end
