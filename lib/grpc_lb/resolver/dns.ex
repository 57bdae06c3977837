defmodule GrpcLb.Resolver.DNS do
  alias GrpcLb.{Address, HostPort, Target, Text}

  alias GrpcLb.Resolver.DNS.{
    Answer,
    Found,
    Lookup,
    Names,
    Options,
    Query,
    ResolvConf,
    Search,
    SRV
  }

  @moduledoc """
  Resolves `dns` targets, see `GrpcLb.Target`, to the addresses in A and AAAA records.

  Asks for both at the same time, and fails only if neither brings an address. Neither waits for the
  other for long, nor for those of the other hosts of a service: when there are addresses and no further
  answer has come for 50 milliseconds (RFC 8305, section 3, which waits so for AAAA only), they are used,
  and what comes later is added when it comes. A part of which nothing is known yet, or that has failed,
  and not for want of a record, is in the resolution's `:unknown`, so that a connection keeps what it
  knew of it; `:ttl` is `:min_ttl` then, and it is soon asked again.

  Addresses come in the order in which a server lists them, IPv4 before IPv6. `:ttl` is the shortest of
  the answers', between `:min_ttl` and `:max_ttl`.

  ## Names

    * An IP address is taken as it is, with no question asked.
    * With `nameservers: :system`, a name in the hosts file, such as `localhost`, has the addresses
      that the file says, and DNS is not asked. Other names are tried with the search list and the
      options of `/etc/resolv.conf`. These are the files that the VM's own `:inet_res` reads,
      or what an [inetrc](https://www.erlang.org/doc/apps/erts/inet_cfg.html) says in their place.
    * Where the option or the target names servers, these are asked for the name as it is.

  The search is glibc's: a name with `ndots` dots or more, by default one, is tried as it is first,
  others last; one with a dot at its end is tried as it is only. It goes on after a name that does not
  exist or has no such records, and after SERVFAIL. A domain `.` is the root. Names that no question can
  have, such as `db.a..b`, are passed over. When nothing is found, a failure is said before an absence:
  glibc may say that there is no such name where one of the names could not be asked for.

  Of the options, `ndots`, `timeout`, `attempts`, `rotate`, `use-vc`, `no-aaaa` and `no-tld-query` are
  respected; the others make no difference here.

  ## Options

  #{Options.docs()}

  ## SRV

  With `srv: true` the name is that of an SRV record (RFC 2782), such as
  `dns:///_grpc._tcp.example.com`. It brings hosts with ports and weights; the port of the target is
  not used. Each address of a host gets its port, and the addresses of a host share its weight.

    * The addresses of the hosts with the lowest priority number have the `:priority` 0 of
      `GrpcLb.Address`, those of the next number 1, and so on: a connection has calls go to the first
      that is reached, and connects to the others when it needs them. Hosts of all priorities are asked
      for. Those of a later one do not take the place of the first as long as it is not known that there
      is nobody in that: a name that could not be asked for is no reason to turn to the spare. The
      resolution fails then, and a connection keeps what it knows.
    * Weights of SRV start at 0, those of backends at 1. If all are 0 all become 1. If some are, the
      others are multiplied by 100, so that the weight 1 is the small share which the RFC asks for.
      Where a weight cannot be shared without a remainder, all are multiplied.

  ## Errors

    * `:nxdomain` - there is no such name
    * `:no_addresses` - the name has no such records, or its SRV record says that there is no service
    * `:timeout` - no server answered in time
    * `:servfail`, `:refused`, `:notimp`, `:formerr` or another of `t::inet_res.res_error/0` - what the
      server answered
    * a `t::inet.posix/0`, such as `:econnrefused` - the server cannot be reached
  """

  @behaviour GrpcLb.Resolver

  @impl true
  def validate!(target, opts) do
    _target = target!(target)
    _options = Options.validate!(opts)
    :ok
  end

  @doc """
  Asks DNS once, in processes that are linked to the calling one.

  Raises `ArgumentError` when the target is malformed or of another scheme, or an option is wrong.

      iex> GrpcLb.Resolver.DNS.resolve("dns:///127.0.0.1:50051", [])
      {:ok, %{addresses: [%GrpcLb.Address{ip: {127, 0, 0, 1}, port: 50051}], ttl: :infinity}}

      iex> GrpcLb.Resolver.DNS.resolve("ipv4:127.0.0.1:50051", [])
      ** (ArgumentError) GrpcLb.Resolver.DNS resolves targets of the scheme dns, got: "ipv4:127.0.0.1:50051"
  """
  @impl true
  def resolve(target, opts) do
    {result, asking} = ask(target, opts, fn _late -> :ok end)
    Process.unlink(asking)
    Process.exit(asking, :kill)
    result
  end

  @doc """
  Asks DNS once, as `resolve/2` does, and calls `push` when an answer has come late that has made the
  result a fuller one.
  """
  @impl true
  def resolve(target, opts, push) do
    {result, _asking} = ask(target, opts, push)
    result
  end

  # Another process waits for what comes late.
  defp ask(target, opts, push) do
    target = target!(target)
    options = opts |> Options.validate!() |> ask_nameserver_of(target)
    caller = self()
    reply = make_ref()

    asking =
      spawn_link(fn ->
        {answer, more} = known_or_asked(target, options)
        first = result(answer, options)
        send(caller, {reply, first})
        late = if more, do: result(more.(), options), else: first
        if late != first, do: push.(late)
      end)

    receive do
      {^reply, result} -> {result, asking}
    end
  end

  defp ask_nameserver_of(options, %Target{nameserver: nil}), do: options
  defp ask_nameserver_of(options, target), do: %{options | nameservers: [target.nameserver]}

  defp known_or_asked(%{host: host, port: port} = target, options) do
    case HostPort.ip(host) do
      {:ok, {ip, zone}} ->
        {{:ok, %{addresses: [%Address{ip: ip, port: port, zone: zone}], ttl: :infinity}}, nil}

      :error ->
        in_hosts_file_or_asked(target, hosts_file(host, options), options)
    end
  end

  defp in_hosts_file_or_asked(target, [], options), do: asked(target, options)

  defp in_hosts_file_or_asked(%{host: host, port: port}, ips, _options) do
    host = Names.relative(host)
    addresses = for ip <- Enum.uniq(ips), do: %Address{ip: ip, port: port, host: host}
    {{:ok, %{addresses: addresses, ttl: nil}}, nil}
  end

  # The name of a service is in no hosts file.
  defp hosts_file(host, %{nameservers: :system, srv: false}), do: Names.hosts_file(host)
  defp hosts_file(_host, _options), do: []

  # An answer, and a function that waits for a fuller one, if one may come.
  defp asked(target, options) do
    {names, types, query} = how(target.host, options.nameservers)
    query = Query.new(query, options.timeout)

    Search.first(names, target.host, fn name ->
      if options.srv,
        do: service(query, types, name),
        else: hosts(query, types, [{name, service_of(target)}])
    end)
  end

  # A name that is none of a service: its addresses weigh 1 each.
  defp service_of(target),
    do: %{host: Names.relative(target.host), port: target.port, weight: nil}

  defp how(host, :system) do
    conf = ResolvConf.read()
    {Names.candidates(host, conf), conf.types, conf.query}
  end

  defp how(host, servers), do: {[Names.relative(host)], [:a, :aaaa], [nameservers: servers]}

  defp service(query, types, name) do
    case Query.records(query, name, :srv) do
      {:ok, records, ttl} -> offered(query, types, SRV.groups(records), ttl)
      {:error, _reason} = error -> {error, nil}
    end
  end

  defp offered(_query, _types, [], _ttl), do: {{:error, :no_addresses}, nil}

  defp offered(query, types, groups, ttl) do
    services =
      for {group, priority} <- Enum.with_index(groups), service <- group do
        {service.host, Map.put(service, :priority, priority)}
      end

    case hosts(query, types, services) do
      {{:ok, found}, more} ->
        {within(found, ttl), more && fn -> more.() |> elem(1) |> within(ttl) end}

      {error, _more} ->
        # The service is there, and nobody offers it.
        {if(Answer.absent?(error), do: {:error, :no_addresses}, else: error), nil}
    end
  end

  defp within(found, ttl), do: {:ok, %{found | ttl: min(found.ttl, ttl)}}

  # Services, each with the name to ask for.
  defp hosts(query, types, services) do
    answer = fn lookup ->
      Found.merge(for {name, service} <- services, do: {service, Lookup.answers(lookup, name)})
    end

    names = Enum.map(services, &elem(&1, 0))
    lookup = Lookup.first(query, types, names, &match?({:ok, _found}, answer.(&1)))
    more = fn -> lookup |> Lookup.rest() |> answer.() end
    {answer.(lookup), if(Lookup.pending?(lookup), do: more)}
  end

  defp result({:ok, %{ttl: ttl} = found}, options) when is_integer(ttl),
    do: {:ok, %{found | ttl: ttl |> max(options.min_ttl) |> min(options.max_ttl)}}

  defp result(known_or_failed, _options), do: known_or_failed

  defp target!(target) do
    case Target.parse!(target) do
      %Target{scheme: :dns} = parsed ->
        parsed

      %Target{} ->
        raise ArgumentError,
              "#{inspect(__MODULE__)} resolves targets of the scheme dns, got: #{Text.show(target)}"
    end
  end
end
