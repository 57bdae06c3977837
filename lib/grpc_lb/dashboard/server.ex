defmodule GrpcLb.Dashboard.Server do
  # Has OTP's httpd serve the dashboard, for as long as this process lives.
  @moduledoc false

  use GenServer

  alias GrpcLb.Dashboard.{Handler, Looks}

  # Nobody sends a body, or a long address; as many as some people with some tabs open. Who sends a
  # request byte by byte takes the place of others.
  @limits [
    max_body_size: 1,
    max_header_size: 10_240,
    max_uri_size: 1_024,
    max_clients: 64,
    keep_alive_timeout: 10,
    max_keep_alive_request: 1_000,
    minimum_bytes_per_second: 50
  ]

  @no_inets "GrpcLb.Dashboard is served by OTP's :inets, which is not here: the application needs " <>
              "extra_applications: [:inets] in its mix.exs"

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

  @doc "Reads the names of hosts."
  @spec hosts(term()) :: {:ok, [String.t()]} | :error
  def hosts(hosts) do
    if is_list(hosts) and not List.improper?(hosts) and length(hosts) <= 100 and
         Enum.all?(hosts, &host?/1),
       do: {:ok, Enum.map(hosts, &String.downcase/1)},
       else: :error
  end

  # As the header has it, without a port; an IPv6 address is in brackets.
  defp host?(host) do
    is_binary(host) and byte_size(host) <= 255 and
      Regex.match?(~r/\A([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])\z/, host)
  end

  @impl true
  def init(%{ip: ip, port: port, hosts: hosts}) do
    Process.flag(:trap_exit, true)

    if inets?(),
      do: listen(ip || {127, 0, 0, 1}, port, hosts),
      else: {:stop, {:inets_is_missing, @no_inets}}
  end

  # Mix takes applications off the code path that a project does not name, and puts them back.
  defp inets?,
    do: Code.ensure_loaded?(:inets) or (asked_of_mix?() and Code.ensure_loaded?(:inets))

  defp asked_of_mix? do
    List.keymember?(Application.started_applications(), :mix, 0) and
      Code.ensure_loaded?(Mix) and function_exported?(Mix, :ensure_application!, 1) and
      apply(Mix, :ensure_application!, [:inets]) == :ok
  rescue
    # OTP was installed without.
    Mix.Error -> false
  end

  defp listen(ip, port, hosts) do
    # A folder that is there; none of its files is served.
    folder = :code.root_dir()
    names = ["localhost", "127.0.0.1", "[::1]", name(ip) | hosts]
    {:ok, looks} = Looks.start_link()

    config =
      [
        port: port,
        bind_address: ip,
        ipfamily: if(tuple_size(ip) == 8, do: :inet6, else: :inet),
        server_name: ~c"grpc_lb",
        server_tokens: :none,
        server_root: folder,
        document_root: folder
      ] ++ @limits ++ Handler.config(names, looks)

    with :ok <- free(ip, port),
         {:ok, httpd} <- :inets.start(:httpd, config, :stand_alone) do
      {:ok, %{httpd: httpd, looks: looks, url: "http://#{name(opened(ip))}:#{port(httpd)}/"}}
    else
      {:error, reason} ->
        GenServer.stop(looks)
        {:stop, reason}
    end
  end

  # httpd says why it cannot listen deep inside of what its supervisors say, and they log it.
  defp free(ip, port) do
    with {:ok, socket} <- :gen_tcp.listen(port, ip: ip, reuseaddr: true),
         do: :gen_tcp.close(socket)
  end

  # Every address is none that a browser could go to.
  defp opened({0, 0, 0, 0}), do: {127, 0, 0, 1}
  defp opened({0, 0, 0, 0, 0, 0, 0, 0}), do: {0, 0, 0, 0, 0, 0, 0, 1}
  defp opened(ip), do: ip

  defp name(ip) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]"
  defp name(ip), do: to_string(:inet.ntoa(ip))

  defp port(httpd) do
    [{{_sup, _address, port, _profile}, _pid, _type, _modules}] = Supervisor.which_children(httpd)
    port
  end

  @impl true
  def handle_call(:url, _from, state), do: {:reply, state.url, state}

  @impl true
  def handle_info({:EXIT, pid, reason}, %{httpd: httpd, looks: looks} = state)
      when pid in [httpd, looks],
      do: {:stop, reason, state}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{httpd: httpd, looks: looks}) do
    if Process.alive?(httpd), do: Supervisor.stop(httpd, :shutdown)
    Process.exit(looks, :shutdown)
  end
end
