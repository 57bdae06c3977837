defmodule GrpcLb.Dashboard.Server do
  # Has OTP's httpd serve the dashboard, for as long as this process lives.
  @moduledoc false

  use GenServer

  alias GrpcLb.Dashboard.Handler

  # Nobody sends a body; as many as some people with some tabs open.
  @limits [max_body_size: 1, max_header_size: 10_240, max_clients: 64, keep_alive_timeout: 30]

  @spec url(GenServer.server()) :: String.t()
  def url(server), do: GenServer.call(server, :url)

  @doc "Reads an address."
  @spec ip(term()) :: {:ok, :inet.ip_address()} | :error
  def ip(text) when is_binary(text) do
    case :inet.parse_strict_address(String.to_charlist(text)) do
      {:ok, ip} -> {:ok, ip}
      {:error, :einval} -> :error
    end
  end

  def ip(ip) do
    case :inet.ntoa(ip) do
      {:error, :einval} -> :error
      _text -> {:ok, ip}
    end
  end

  @impl true
  def init(%{ip: ip, port: port, hosts: hosts}) do
    Process.flag(:trap_exit, true)

    if Code.ensure_loaded?(:inets),
      do: listen(ip || {127, 0, 0, 1}, port, hosts),
      else: {:stop, :inets_is_missing}
  end

  defp listen(ip, port, hosts) do
    # A folder that is there; none of its files is served.
    folder = :code.root_dir()
    names = ["localhost", "127.0.0.1", "[::1]", name(ip) | Enum.map(hosts, &String.downcase/1)]

    config =
      [
        port: port,
        bind_address: ip,
        ipfamily: if(tuple_size(ip) == 8, do: :inet6, else: :inet),
        server_name: ~c"grpc_lb",
        server_tokens: :none,
        server_root: folder,
        document_root: folder
      ] ++ @limits ++ Handler.config(names)

    with :ok <- free(ip, port),
         {:ok, httpd} <- :inets.start(:httpd, config, :stand_alone) do
      {:ok, %{httpd: httpd, url: "http://#{name(ip)}:#{port(httpd)}/"}}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  # httpd says why it cannot listen deep inside of what its supervisors say, and they log it.
  defp free(ip, port) do
    with {:ok, socket} <- :gen_tcp.listen(port, ip: ip, reuseaddr: true),
         do: :gen_tcp.close(socket)
  end

  defp name(ip) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]"
  defp name(ip), do: to_string(:inet.ntoa(ip))

  defp port(httpd) do
    [{{_sup, _address, port, _profile}, _pid, _type, _modules}] = Supervisor.which_children(httpd)
    port
  end

  @impl true
  def handle_call(:url, _from, state), do: {:reply, state.url, state}

  @impl true
  def handle_info({:EXIT, httpd, reason}, %{httpd: httpd} = state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{httpd: httpd}) do
    if Process.alive?(httpd), do: Supervisor.stop(httpd, :shutdown)
  end
end
