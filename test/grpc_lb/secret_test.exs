defmodule GrpcLb.SecretTest do
  use ExUnit.Case, async: false

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Connection, Pool}
  alias GrpcLb.ElixirGrpc.Adapter
  alias GrpcLb.Test.{Logs, Loopback, PoolWorker, ScriptedAdapter}

  doctest GrpcLb.Secret
  doctest GrpcLb.Redacted

  @moduletag :capture_log

  @secret "hunter2"

  defmodule Transport do
    @behaviour GrpcLb.Transport

    @impl true
    def open(address, token: token) do
      with {:ok, socket} <- :gen_tcp.connect(address.ip, address.port, [:binary]),
           do: {:ok, %{socket: socket, token: token}}
    end

    @impl true
    def close(%{socket: socket}), do: :gen_tcp.close(socket)
  end

  defmodule Resolver do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(target, _opts) do
      if Process.put(:resolved, true), do: exit(:no_more)
      {:ok, %{addresses: target, ttl: nil}}
    end
  end

  setup do
    # Progress reports are at this level: they have child specifications.
    %{level: level, filters: filters} = :logger.get_primary_config()
    :logger.set_primary_config(:level, :all)

    # From 1.15 on Elixir translates reports in one, before any handler, and stops those of supervisors.
    :logger.set_primary_config(:filters, [])
    handler = Logs.attach()

    on_exit(fn ->
      Logs.detach(handler)
      :logger.set_primary_config(:level, level)
      :logger.set_primary_config(:filters, filters)
    end)
  end

  # The reports of those that ended just now are logged by the time that their supervisors answer.
  defp reported do
    events = Logs.flush()

    for event <- events, text <- Logs.texts(event) do
      refute text =~ @secret, "shown in #{text}"
      # A charlist and a binary are shown in numbers, too, where they cannot be printed.
      refute text =~ "104,117,110,116,101,114"
    end

    events
  end

  defp reports(label, events) do
    for %{msg: {:report, %{label: ^label}}} = event <- events, do: event
  end

  defp crash(server) do
    monitor = Process.monitor(server)
    catch_exit(GenServer.call(server, :no_such_call))
    assert_receive {:DOWN, ^monitor, :process, ^server, _reason}, 10_000
  end

  defp connection(server) do
    supervised!(
      target: [Loopback.address(server)],
      transport: {Transport, token: @secret},
      resolver: {Resolver, token: @secret}
    )
  end

  for {what, find} <- [
        supervisor: quote(do: fn handle -> supervisor_of(handle) end),
        holder: quote(do: fn handle -> holder(handle) end),
        server: quote(do: fn handle -> server(handle) end),
        "subchannels' supervisor":
          quote(do: fn handle -> Connection.Subchannel.whereis_supervisor(handle.balancer) end),
        subchannel:
          quote(
            do: fn handle ->
              [{pid, _key, _address, _state}] = Connection.Subchannel.all(handle.balancer)
              pid
            end
          )
      ] do
    test "the reports of a connection whose #{what} is killed have no options of modules in them" do
      {handle, _pid} = connection(Loopback.start())
      :ok = Connection.await_ready(handle)
      assert {:ok, %{token: @secret}} = Connection.pick(handle)
      kill([unquote(find).(handle)])

      eventually(fn -> Connection.await_ready(handle.name) == :ok end)

      assert reported() != []
    end
  end

  test "nor those of a server that crashes over a message, with its state" do
    {handle, _pid} = connection(Loopback.start())
    :ok = Connection.await_ready(handle)
    before = server(handle)
    crash(before)
    restarted(handle, before)
    assert [_ | _] = reports({:gen_server, :terminate}, reported())
  end

  test "nor those of a resolver's worker that ends" do
    {handle, _pid} = connection(Loopback.start())
    :ok = Connection.await_ready(handle)
    Connection.resolve_now(handle)
    eventually(fn -> match?(%{resolution: {:error, _}}, Connection.info(handle)) end)
    reported()
  end

  test "nor those of the supervisor of connect/2" do
    opts = opts(transport: {Transport, token: @secret})
    {:ok, handle} = Connection.connect(static([Loopback.start()]), opts)
    kill([supervisor_of(handle)])
    eventually(fn -> Connection.handle(handle.name) == {:error, :not_found} end)
    # It has reported by the time that it answers.
    DynamicSupervisor.count_children(GrpcLb.Connections)
    assert [_ | _] = reports({:supervisor, :child_terminated}, reported())
  end

  test "nor the state of what cleans up after processes that were killed" do
    {handle, _pid} = connection(Loopback.start())
    :ok = Connection.await_ready(handle)

    {:status, _pid, _module, items} = :sys.get_status(GrpcLb.Janitor)
    refute inspect(items, limit: :infinity, printable_limit: :infinity) =~ @secret
    refute "~p" |> :io_lib.format([:sys.get_state(GrpcLb.Janitor)]) |> to_string() =~ @secret
  end

  test "nor those of elixir-grpc's connections, with their channels and options" do
    name = make_ref()
    headers = [{"authorization", @secret}]

    channel = %GRPC.Channel{
      host: "10.0.0.1",
      port: 1,
      ref: name,
      adapter: Adapter,
      headers: headers
    }

    opts = [grpc_lb: [adapter: ScriptedAdapter], test: self(), token: @secret]
    {:ok, _channel} = Adapter.connect(channel, opts)
    [{holder, _connection}] = Registry.lookup(GrpcLb.Registry, {Adapter, name})
    [subchannel] = Enum.to_list(:sys.get_state(holder).subchannels)

    for pid <- [holder, subchannel] do
      refute inspect(:sys.get_status(pid), limit: :infinity, printable_limit: :infinity) =~
               @secret
    end

    kill([holder])
    eventually(fn -> not Process.alive?(subchannel) end)
    # It has reported by the time that it answers.
    DynamicSupervisor.count_children(GrpcLb.ElixirGrpc.Holders)
    assert [_ | _] = reports({:supervisor, :child_terminated}, reported())
  end

  for {what, find} <- [
        worker: quote(do: fn pool -> hd(elem(Pool.members(pool), 1)).pid end),
        holder: quote(do: fn pool -> elem(GrpcLb.Holder.lookup({Pool.Handle, pool}), 0) end),
        supervisor: quote(do: fn pool -> Process.whereis(pool) end),
        feed: quote(do: fn pool -> Process.whereis(:"grpc_lb_pool_feed:#{pool}") end)
      ] do
    test "the reports of a pool whose #{what} is killed have no arguments of workers in them" do
      pool = :"#{unquote(what)}_secrets"

      start_supervised!(
        {Pool,
         name: pool,
         scope: :cluster,
         size: 1,
         worker: {PoolWorker, {pool, [value: %{token: @secret}]}}}
      )

      :ok = Pool.await_members(pool, 1)
      before = unquote(find).(pool)
      kill([before])

      eventually(fn -> Pool.await_members(pool, 1) == :ok and unquote(find).(pool) != before end)
      assert reported() != []
    end
  end
end
