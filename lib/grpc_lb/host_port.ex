defmodule GrpcLb.HostPort do
  # Parses "host:port" as gRPC does.
  @moduledoc false

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
      :error
  """
  @spec split(String.t()) :: {:ok, {host :: String.t(), 1..0xFFFF | nil}} | :error
  def split("[" <> rest) do
    with [host, after_host] <- String.split(rest, "]", parts: 2),
         {:ok, ip} when tuple_size(ip) == 8 <- ip(host),
         {:ok, port} <- after_bracket(after_host) do
      {:ok, {host, port}}
    else
      _malformed -> :error
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

      iex> GrpcLb.HostPort.endpoint("[::1]:53", 443)
      {:ok, {{0, 0, 0, 0, 0, 0, 0, 1}, 53}}

      iex> GrpcLb.HostPort.endpoint("example.com:53", 443)
      :error
  """
  @spec endpoint(String.t(), 1..0xFFFF) :: {:ok, {:inet.ip_address(), 1..0xFFFF}} | :error
  def endpoint(text, default_port) do
    with {:ok, {host, port}} <- split(text), {:ok, ip} <- ip(host) do
      {:ok, {ip, port || default_port}}
    end
  end

  @doc """
  Reads an IP address. IPv4 needs all its four numbers.

      iex> GrpcLb.HostPort.ip("10.0.0.1")
      {:ok, {10, 0, 0, 1}}

      iex> GrpcLb.HostPort.ip("127.1")
      :error
  """
  @spec ip(String.t()) :: {:ok, :inet.ip_address()} | :error
  def ip(text) do
    # inet would drop the zone of "fe80::1%eth0", without which the address leads nowhere.
    with false <- String.contains?(text, "%"),
         {:ok, ip} <- :inet.parse_strict_address(:binary.bin_to_list(text)) do
      {:ok, ip}
    else
      _malformed -> :error
    end
  end

  defp after_bracket(""), do: {:ok, nil}
  defp after_bracket(":" <> port), do: port(port)
  defp after_bracket(_other), do: :error

  # Integer.parse/1 would take a sign.
  defp port(<<digit, _rest::binary>> = text) when digit in ?0..?9 do
    case Integer.parse(text) do
      {port, ""} when port in 1..0xFFFF -> {:ok, port}
      _other -> :error
    end
  end

  defp port(_other), do: :error
end
