defmodule GrpcLb.Resolver.DNS do
  alias GrpcLb.{Address, HostPort, Target}
  alias GrpcLb.Resolver.DNS.{Answer, Names, Options, Query, SRV}

  @moduledoc """
  Resolves `dns` targets, see `GrpcLb.Target`, to the addresses in A and AAAA records.

  Asks for both at the same time, and fails only if neither brings an address. When one of them fails,
  and not for want of a record, `:ttl` is `:min_ttl`, so that it is soon asked again.

  Addresses come sorted, IPv4 before IPv6. Servers vary the order of their answers; sorted, the same
  addresses are the same list. `:ttl` is the shortest of the answers', between `:min_ttl` and
  `:max_ttl`.

  ## Names

    * An IP address is taken as it is, with no question asked.
    * With `nameservers: :system`, a name in the hosts file, such as `localhost`, has the addresses
      that the file says, and DNS is not asked. Other names are tried with the search list of
      `/etc/resolv.conf`: a name with a dot as it is first, a name without one last. A name with a
      dot at its end is tried as it is only. These are the files that the VM's own `:inet_res` reads,
      or what an [inetrc](https://www.erlang.org/doc/apps/erts/inet_cfg.html) says in their place.
    * Where the option or the target names servers, these are asked for the name as it is.

  ## Options

  #{Options.docs()}

  ## SRV

  With `srv: true` the name is that of an SRV record (RFC 2782), such as
  `dns:///_grpc._tcp.example.com`. It brings hosts with ports and weights; the port of the target is
  not used. Each address of a host gets its port and weight.

    * Only the hosts of the lowest priority number are taken. Those of the next are taken when no
      name among them can be resolved.
    * Weights of SRV start at 0, those of backends at 1. If all are 0 all become 1. If some are, the
      others are multiplied by 100, so that the weight 1 is the small share which the RFC asks for.

  ## Errors

    * `:nxdomain` - there is no such name
    * `:no_addresses` - the name has no such records, or its SRV record says that there is no service
    * `:timeout` - no server answered in time
    * `:servfail`, `:refused`, `:notimp`, `:formerr` or another of `t::inet_res.res_error/0` - what the
      server answered
    * a `t::inet.posix/0`, such as `:econnrefused` - the server cannot be reached
  """

  @behaviour GrpcLb.Resolver

  @srv_hosts_at_once 16

  @impl true
  def validate!(target, opts) do
    _target = target!(target)
    _options = Options.validate!(opts)
    :ok
  end

  @doc """
  Asks DNS once, in the calling process and tasks that are linked to it.

  Raises `ArgumentError` when the target is malformed or of another scheme, or an option is wrong.

      iex> GrpcLb.Resolver.DNS.resolve("dns:///127.0.0.1:50051", [])
      {:ok, %{addresses: [%GrpcLb.Address{ip: {127, 0, 0, 1}, port: 50051}], ttl: :infinity}}

      iex> GrpcLb.Resolver.DNS.resolve("ipv4:127.0.0.1:50051", [])
      ** (ArgumentError) GrpcLb.Resolver.DNS resolves targets of the scheme dns, got: "ipv4:127.0.0.1:50051"
  """
  @impl true
  def resolve(target, opts) do
    target = target!(target)
    options = opts |> Options.validate!() |> ask_nameserver_of(target)

    case HostPort.ip(target.host) do
      {:ok, {ip, zone}} ->
        address = %Address{ip: ip, port: target.port, zone: zone}
        {:ok, %{addresses: [address], ttl: :infinity}}

      :error ->
        target |> ask(options) |> result(options)
    end
  end

  defp ask_nameserver_of(options, %Target{nameserver: nil}), do: options
  defp ask_nameserver_of(options, target), do: %{options | nameservers: [target.nameserver]}

  defp ask(target, %{srv: true} = options), do: first_known(target.host, options, &srv/2)

  defp ask(target, options) do
    answer =
      case hosts_file(target.host, options.nameservers) do
        [] -> first_known(target.host, options, &Query.addresses/2)
        ips -> {:ok, ips, nil}
      end

    with {:ok, ips, ttl} <- answer, do: {:ok, at(ips, target.host, target.port), ttl}
  end

  defp hosts_file(host, :system), do: Names.hosts_file(host)
  defp hosts_file(_host, _servers), do: []

  defp first_known(host, options, ask) do
    query = Query.new(options.nameservers, options.timeout)

    Enum.reduce_while(names(host, options.nameservers), nil, fn name, _unknown ->
      answer = ask.(query, name)
      if Answer.absent?(answer), do: {:cont, answer}, else: {:halt, answer}
    end)
  end

  defp names(host, :system), do: Names.search(host)
  defp names(host, _servers), do: [Names.relative(host)]

  defp srv(query, name) do
    with {:ok, records, ttl} <- Query.records(query, name, :srv),
         {:ok, addresses, addresses_ttl} <- reachable(query, SRV.groups(records)) do
      {:ok, addresses, min(ttl, addresses_ttl)}
    end
  end

  defp reachable(query, groups) do
    Enum.reduce_while(groups, {:error, :no_addresses}, fn group, before ->
      case Answer.merge([before, addresses(query, group)]) do
        {:ok, _addresses, _ttl} = found -> {:halt, found}
        {:error, _reason} = failed -> {:cont, failed}
      end
    end)
  end

  defp addresses(query, group) do
    group
    |> Task.async_stream(
      fn {host, port, weight} ->
        with {:ok, ips, ttl} <- Query.addresses(query, host) do
          {:ok, at(ips, host, port, weight), ttl}
        end
      end,
      max_concurrency: @srv_hosts_at_once,
      timeout: :infinity
    )
    |> Enum.map(fn {:ok, answer} -> answer end)
    |> Answer.merge()
  end

  defp at(ips, host, port, weight \\ 1) do
    host = Names.relative(host)
    for ip <- ips, do: %Address{ip: ip, port: port, host: host, weight: weight}
  end

  defp result({:ok, addresses, ttl}, options) do
    addresses = addresses |> Enum.uniq() |> Enum.sort_by(&{&1.ip, &1.port, &1.host})
    {:ok, %{addresses: addresses, ttl: ttl && clamp(ttl, options)}}
  end

  defp result({:error, _reason} = error, _options), do: error

  defp clamp(ttl, options), do: ttl |> max(options.min_ttl) |> min(options.max_ttl)

  defp target!(target) do
    case Target.parse!(target) do
      %Target{scheme: :dns} = parsed ->
        parsed

      %Target{} ->
        raise ArgumentError,
              "#{inspect(__MODULE__)} resolves targets of the scheme dns, got: #{inspect(target)}"
    end
  end
end
