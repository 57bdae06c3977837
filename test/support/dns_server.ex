defmodule GrpcLb.Test.DnsServer do
  @moduledoc """
  A name server on 127.0.0.1, over UDP and TCP, that answers from a zone.

  A zone is a map from `{name, type}`, such as `{"a.example", :a}`, to one of

    * `{ttl, [data]}` - records, with data as in `:inet_res`
    * a response code: `:servfail`, `:refused`, `:nxdomain`, `:notimp`
    * `{:garbage, bytes}` - these take the place of a message
    * `:silence` - the question gets no answer
    * `{:late, answer}` - the question gets this answer when `release/1` is called, over UDP

  A `:cname` is followed. Names that occur with another type have no records of this one, all others
  do not exist. As the standard says, an answer of more than 512 bytes is truncated over UDP, and the
  client asks again over TCP; `{:tcp, answer}` takes the place of an answer there.
  """

  use GenServer

  @codes %{ok: 0, servfail: 2, nxdomain: 3, notimp: 4, refused: 5}
  @udp_limit 512

  # The VM's default, 16 KiB, holds some twenty questions, and the kernel drops the others.
  @receive_buffer 1_000_000

  @doc "Starts a server; it ends with the calling test if started with `start_supervised!/1`."
  def start_link(zone), do: GenServer.start_link(__MODULE__, zone)

  @doc "Where it listens: `{ip, port}`."
  def address(server), do: GenServer.call(server, :address)

  @doc "Replaces the zone."
  def put(server, zone), do: GenServer.call(server, {:put, zone})

  @doc "Answers what was asked for and is late."
  def release(server), do: GenServer.call(server, :release)

  @doc "What was asked since it was last looked at: `{transport, name, type}`, in order."
  def questions(server), do: GenServer.call(server, :questions)

  @impl true
  def init(zone) do
    {udp, tcp, port} = listen()
    server = self()
    spawn_link(fn -> accept(tcp, server) end)
    {:ok, %{udp: udp, tcp: tcp, port: port, zone: zone, questions: [], late: []}}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, {{127, 0, 0, 1}, state.port}, state}
  def handle_call({:put, zone}, _from, state), do: {:reply, :ok, %{state | zone: zone}}

  def handle_call(:questions, _from, state) do
    {:reply, Enum.reverse(state.questions), %{state | questions: []}}
  end

  def handle_call(:release, _from, state) do
    for {ip, port, reply} <- state.late, do: :gen_udp.send(state.udp, ip, port, reply)
    {:reply, :ok, %{state | late: []}}
  end

  def handle_call({:tcp, packet}, _from, state) do
    {reply, state} = reply(packet, :tcp, state)
    {:reply, reply, state}
  end

  @impl true
  def handle_info({:udp, udp, ip, port, packet}, state) do
    case reply(packet, :udp, state) do
      {{:late, reply}, state} ->
        {:noreply, %{state | late: [{ip, port, reply} | state.late]}}

      {reply, state} ->
        if reply, do: :gen_udp.send(udp, ip, port, reply)
        {:noreply, state}
    end
  end

  # Both sockets have to get the same port, and another program may have one of them.
  defp listen do
    {:ok, tcp} = :gen_tcp.listen(0, [:binary, packet: 2, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(tcp)

    options = [:binary, active: true, ip: {127, 0, 0, 1}, recbuf: @receive_buffer]

    case :gen_udp.open(port, options) do
      {:ok, udp} ->
        {udp, tcp, port}

      {:error, :eaddrinuse} ->
        :gen_tcp.close(tcp)
        listen()
    end
  end

  defp accept(tcp, server) do
    with {:ok, socket} <- :gen_tcp.accept(tcp) do
      with {:ok, packet} <- :gen_tcp.recv(socket, 0) do
        case GenServer.call(server, {:tcp, packet}) do
          nil -> :gen_tcp.recv(socket, 0)
          reply -> :gen_tcp.send(socket, reply)
        end
      end

      :gen_tcp.close(socket)
      accept(tcp, server)
    end
  end

  defp reply(packet, transport, state) do
    {:ok, message} = :inet_dns.decode(packet)
    [question] = :inet_dns.msg(message, :qdlist)
    name = question |> :inet_dns.dns_query(:domain) |> List.to_string()
    type = :inet_dns.dns_query(question, :type)

    state = update_in(state.questions, &[{transport, name, type} | &1])
    {answer(name, type, transport, state.zone) |> encode(message, transport), state}
  end

  defp answer(name, type, transport, zone) do
    case zone do
      %{{^name, :cname} => {ttl, [target]}} ->
        {code, records} = answer(List.to_string(target), type, transport, zone)
        {code, [record(name, :cname, ttl, target) | records]}

      %{{^name, ^type} => {:tcp, answer}} when transport == :tcp ->
        answer(name, type, transport, %{{name, type} => answer})

      %{{^name, ^type} => {:tcp, _answer}} ->
        :truncated

      %{{^name, ^type} => {:late, answer}} ->
        {:late, answer(name, type, transport, %{{name, type} => answer})}

      %{{^name, ^type} => {:garbage, bytes}} ->
        {:garbage, bytes}

      %{{^name, ^type} => {ttl, all}} ->
        {:ok, for(data <- all, do: record(name, type, ttl, data))}

      %{{^name, ^type} => :silence} ->
        :silence

      %{{^name, ^type} => code} ->
        {code, []}

      %{} ->
        if Enum.any?(zone, &match?({{^name, _type}, _answer}, &1)),
          do: {:ok, []},
          else: {:nxdomain, []}
    end
  end

  defp record(name, type, ttl, data) do
    :inet_dns.make_rr(
      domain: String.to_charlist(name),
      type: type,
      class: :in,
      ttl: ttl,
      data: data
    )
  end

  defp encode(:silence, _message, _transport), do: nil
  defp encode({:garbage, bytes}, _message, _transport), do: bytes
  defp encode({:late, answer}, message, :udp), do: {:late, encode(answer, message, :udp)}
  defp encode(:truncated, message, _transport), do: encode(:ok, [], true, message)

  defp encode({code, records}, message, transport) do
    reply = encode(code, records, false, message)

    if transport == :udp and byte_size(reply) > @udp_limit,
      do: encode(:ok, [], true, message),
      else: reply
  end

  defp encode(code, records, truncated?, message) do
    question = :inet_dns.msg(message, :header)

    header =
      :inet_dns.make_header(
        id: :inet_dns.header(question, :id),
        qr: true,
        opcode: :query,
        aa: true,
        tc: truncated?,
        rd: true,
        ra: true,
        rcode: @codes[code]
      )

    :inet_dns.encode(
      :inet_dns.make_msg(
        header: header,
        qdlist: :inet_dns.msg(message, :qdlist),
        anlist: records
      )
    )
  end
end
