defmodule GrpcLbElixirGrpc.AdapterTest do
  # GrpcLb.ElixirGrpc.Adapter around the real adapters, against servers that are processes of their own.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GRPC.Client.Adapters.{Gun, Mint}
  alias GRPC.Client.Connection
  alias GrpcLb.ElixirGrpc.Adapter
  alias GrpcLbElixirGrpc.{Kill, Load, Restart, ScriptResolver, Servers, Unequal}

  defmodule Handler do
    def init(request, answer), do: answer.(request, nil)
  end

  @moduletag timeout: 300_000

  setup do
    start_supervised!(ScriptResolver)
    :ok
  end

  defp connect(servers, options, opts \\ []) do
    target = ScriptResolver.target(Enum.map(servers, &Servers.address/1))
    opts = [resolver: ScriptResolver, adapter: Adapter, adapter_opts: [grpc_lb: options]] ++ opts
    {:ok, channel} = Connection.connect(target, opts)
    on_exit(fn -> end_connections() end)
    {channel, target}
  end

  # What a test that failed has not disconnected.
  defp end_connections do
    for {_id, pid, _type, _modules} <- DynamicSupervisor.which_children(GRPC.Client.Supervisor),
        do: DynamicSupervisor.terminate_child(GRPC.Client.Supervisor, pid)

    eventually(fn -> DynamicSupervisor.count_children(GrpcLb.ElixirGrpc.Holders).active == 0 end)
  end

  defp one(channel, request \\ [], opts \\ []) do
    with {:ok, reply} <- Work.Stub.one(channel, struct!(Work.Request, request), opts) do
      {:ok, reply.server}
    end
  end

  defp counts(channel) do
    {:ok, balancer} = Adapter.balancer(channel)

    for backend <- GrpcLb.info(balancer).backends, reduce: %{} do
      sums ->
        counts = Map.take(backend, [:successes, :failures, :in_flight])
        Map.merge(sums, counts, fn _key, a, b -> a + b end)
    end
  end

  for adapter <- [Gun, Mint] do
    describe "#{inspect(adapter)}:" do
      @adapter adapter

      test "every kind of call goes to every server in turn, and ends" do
        servers = Servers.start(for number <- 1..3, do: [number: number])
        {channel, _target} = connect(servers, adapter: @adapter)

        assert Enum.frequencies(for _ <- 1..30, do: one(channel)) ==
                 %{{:ok, 1} => 10, {:ok, 2} => 10, {:ok, 3} => 10}

        for _ <- 1..3 do
          {:ok, answers} = Work.Stub.answers(channel, %Work.Request{answers: 3})
          assert counts(channel).in_flight == 1

          assert [{:ok, %{server: server, requests: 1}}, {:ok, %{requests: 2}}, _] =
                   Enum.to_list(answers)

          assert server in 1..3
        end

        for _ <- 1..3 do
          stream = Work.Stub.requests(channel)
          stream = GRPC.Stub.send_request(stream, %Work.Request{})
          stream = GRPC.Stub.send_request(stream, %Work.Request{}, end_stream: true)
          assert {:ok, %{requests: 2}} = GRPC.Stub.recv(stream)

          stream = Work.Stub.both(channel)
          stream = GRPC.Stub.send_request(stream, %Work.Request{})
          {:ok, answers} = GRPC.Stub.recv(stream)
          assert [{:ok, %{requests: 1}}] = Enum.take(answers, 1)
          GRPC.Stub.end_stream(stream)
        end

        assert counts(channel) == %{successes: 39, failures: 0, in_flight: 0}
      end

      test "statuses, deadlines, halted and cancelled streams end as they should" do
        [server] = Servers.start([[number: 1]])
        {channel, _target} = connect([server], adapter: @adapter)

        for status <- [5, 13] do
          assert {:error, %GRPC.RPCError{status: ^status, message: "as asked"}} =
                   one(channel, status: status)
        end

        assert counts(channel) == %{successes: 1, failures: 1, in_flight: 0}
        assert {:error, error} = one(channel, [sleep_ms: 20_000], timeout: 50)
        assert %GRPC.RPCError{status: 4} = error
        assert counts(channel) == %{successes: 1, failures: 2, in_flight: 0}

        {:ok, answers} = Work.Stub.answers(channel, %Work.Request{answers: 3})
        assert [{:ok, %{requests: 1}}] = Enum.take(answers, 1)
        assert counts(channel) == %{successes: 2, failures: 2, in_flight: 0}

        {:ok, answers} = Work.Stub.answers(channel, %Work.Request{answers: 1, status: 13})
        assert [{:ok, _}, {:error, %GRPC.RPCError{status: 13}}] = Enum.to_list(answers)
        assert counts(channel) == %{successes: 2, failures: 3, in_flight: 0}

        stream = Work.Stub.requests(channel)
        assert counts(channel).in_flight == 1
        assert %{canceled: true} = GRPC.Stub.cancel(stream)
        assert counts(channel) == %{successes: 2, failures: 3, in_flight: 0}
      end

      test "headers are there for who asks, and load reports for the policy" do
        servers =
          Servers.start(for {n, used} <- [{1, 0.2}, {2, 0.8}], do: [number: n, utilization: used])

        policy = {:weighted_round_robin, weights: :reported, blackout_period: 0}
        {channel, _target} = connect(servers, adapter: @adapter, policy: policy)

        assert {:ok, %Work.Reply{}} = Work.Stub.one(channel, %Work.Request{})
        {:ok, _reply, meta} = Work.Stub.one(channel, %Work.Request{}, return_headers: true)
        assert is_map(meta.headers) and meta.trailers["grpc-status"] == "0"

        {:ok, answers} = Work.Stub.answers(channel, %Work.Request{answers: 2})
        assert [{:ok, _}, {:ok, _}] = Enum.to_list(answers)

        # 100 calls a second for a utilization of 0.2 and of 0.8: four to one.
        eventually(fn ->
          calls = for _ <- 1..100, do: one(channel)
          Enum.frequencies(calls)[{:ok, 1}] in 75..85
        end)
      end

      test "a killed server costs the calls that it had, and comes back" do
        servers = Servers.start(for number <- 1..3, do: [number: number])
        options = [adapter: @adapter, outlier_detection: [consecutive_failures: 5]]
        {channel, _target} = connect(servers, options)
        {figures, _again} = Kill.run(servers, fn -> one(channel, sleep_ms: 5) end)
        IO.puts("\nkill, #{inspect(@adapter)}: #{inspect(figures)}")
        # One of each caller, and three more.
        assert figures.failed_begun_before + figures.failed_begun_after <= 16 + 3
        assert figures.back_ms != :never
      end

      test "a rolling restart costs no call that a server had not begun" do
        servers = Servers.start(for number <- 1..3, do: [number: number])
        {channel, _target} = connect(servers, adapter: @adapter)
        {figures, _servers} = Restart.run(servers, fn -> one(channel, sleep_ms: 2) end)
        IO.puts("\nrolling restart, #{inspect(@adapter)}: #{inspect(figures)}")
        # Mint's adapter ends what is in flight at the GOAWAY: one call of each caller, each time.
        assert figures.failed <= if(@adapter == Mint, do: 48, else: 16)
        assert figures.back_ms != :never
      end

      test "calls with one key go to one server, and elsewhere while that is gone" do
        servers = Servers.start(for number <- 1..3, do: [number: number])
        options = [adapter: @adapter, policy: :ring_hash, hash_key: {:header, "user-id"}]
        {channel, _target} = connect(servers, options)
        of_user = &one(channel, [], metadata: %{"user-id" => "user #{&1}"})
        there = Map.new(1..50, &{&1, of_user.(&1)})
        for _ <- 1..3, do: assert(Map.new(1..50, &{&1, of_user.(&1)}) == there)
        assert there |> Map.values() |> Enum.uniq() |> Enum.sort() == [ok: 1, ok: 2, ok: 3]

        gone = hd(servers)
        Servers.kill(gone)
        eventually(fn -> Enum.all?(1..50, &(of_user.(&1) not in [{:ok, 1}, {:error, :lost}])) end)

        for {user, server} <- there,
            do: assert(of_user.(user) == server or server == {:ok, 1})

        Servers.start([[port: gone.port, number: 1]])
        eventually(fn -> Map.new(1..50, &{&1, of_user.(&1)}) == there end)
      end

      test "1,000 connections come and go and leave nothing" do
        servers = Servers.start(for number <- 1..2, do: [number: number])

        cycle = fn ->
          {channel, _target} = connect_unsupervised(servers, @adapter)
          {:ok, _server} = one(channel)
          {:ok, _channel} = Connection.disconnect(channel)
        end

        for _ <- 1..20, do: cycle.()
        eventually(fn -> inventory().native == nothing() end, fn -> inspect(inventory()) end)
        before = inventory()
        for _ <- 1..1_000, do: cycle.()

        eventually(fn -> nothing_more?(before) end, fn ->
          "before: #{inspect(before)}, now: #{inspect(inventory())}"
        end)
      end

      test "a connection whose process is killed goes on, and leaves nothing when it ends" do
        servers = Servers.start(for number <- 1..2, do: [number: number])
        {channel, _target} = connect(servers, adapter: @adapter)
        {:ok, _channel} = Connection.disconnect(channel)
        eventually(fn -> inventory().native == nothing() end, fn -> inspect(inventory()) end)
        before = inventory()
        {channel, target} = connect(servers, adapter: @adapter)
        first = ScriptResolver.connection(target)
        Process.exit(first, :kill)
        eventually(fn -> ScriptResolver.connection(target) not in [first, nil] end)
        eventually(fn -> match?({:ok, _}, one(channel)) end)
        {:ok, _channel} = Connection.disconnect(channel)

        eventually(fn -> nothing_more?(before) end, fn ->
          "before: #{inspect(before)}, now: #{inspect(inventory())}"
        end)
      end

      test "resolution changes under load cost no call" do
        servers = Servers.start(for number <- 1..4, do: [number: number])
        {channel, target} = connect(servers, adapter: @adapter)
        callers = Load.start(16, fn -> one(channel, sleep_ms: 1) end)

        for left <- [[1, 2], [2, 3, 4], [1], [1, 2, 3, 4], [3]] do
          left = for server <- servers, server.number in left, do: server
          ScriptResolver.push(target, Enum.map(left, &Servers.address/1))
          Process.sleep(200)
        end

        calls = Load.stop(callers)
        assert length(calls) > 100
        errors = for %{result: {:error, error}} <- calls, do: error
        assert Enum.frequencies(errors) == %{}
        assert Enum.uniq(for _ <- 1..20, do: one(channel)) == [ok: 3]
      end
    end
  end

  test "a server that goes away is connected to before the old connection has ended its calls" do
    [server] = Servers.start([[number: 1]])
    {channel, _target} = connect([server], adapter: Gun)
    # Cowboy closes one that has not begun yet.
    assert one(channel) == {:ok, 1}
    long = Task.async(fn -> one(channel, sleep_ms: 2_500) end)
    eventually(fn -> counts(channel).in_flight == 1 end)
    Servers.go_away(server)
    {:ok, balancer} = Adapter.balancer(channel)
    [%{owner: old}] = GrpcLb.info(balancer).backends

    # None is lost meanwhile, although this is the only server.
    eventually(fn ->
      assert one(channel) == {:ok, 1}
      not match?([%{owner: ^old}], GrpcLb.info(balancer).backends)
    end)

    assert Process.alive?(old)
    assert Task.yield(long, 0) == nil
    assert Task.await(long, 30_000) == {:ok, 1}
    eventually(fn -> not Process.alive?(old) end)
  end

  test "elixir-grpc lets no option of others through" do
    [server] = Servers.start([[number: 1]])
    {channel, _target} = connect([server], adapter: Gun)
    message = "option :hash_key is not supported"
    assert_raise ArgumentError, message, fn -> one(channel, [], hash_key: "7") end
  end

  test "a load report that comes with a failure counts, with Gun" do
    failing = fn request, state ->
      headers = %{
        "content-type" => "application/grpc",
        "grpc-status" => "14",
        # cpu_utilization 0.5, rps_fractional 100
        "endpoint-load-metrics-bin" =>
          Base.encode64(<<0x09, 0.5::float-little, 0x31, 100.0::float-little>>)
      }

      {:ok, :cowboy_req.reply(200, headers, request), state}
    end

    {:ok, _pid} =
      :cowboy.start_clear(__MODULE__, [ip: {127, 0, 0, 1}, port: 0], %{
        env: %{dispatch: :cowboy_router.compile([{:_, [{:_, __MODULE__.Handler, failing}]}])}
      })

    on_exit(fn -> :cowboy.stop_listener(__MODULE__) end)
    policy = {:weighted_round_robin, weights: :reported, blackout_period: 0}
    options = [adapter: Gun, policy: policy]
    {channel, _target} = connect([%{port: :ranch.get_port(__MODULE__)}], options)
    {:ok, balancer} = Adapter.balancer(channel)

    eventually(fn ->
      assert {:error, %GRPC.RPCError{status: 14}} = one(channel)
      # 100 calls a second for a utilization of a half.
      match?([%{current_weight: 200.0}], GrpcLb.info(balancer).backends)
    end)
  end

  test "a connection's process that dies between the pick and the send is no exit" do
    servers = Servers.start(for number <- 1..2, do: [number: number])
    {channel, _target} = connect(servers, adapter: Gun, retry_unsent: 0)
    {:ok, balancer} = Adapter.balancer(channel)
    [%{id: id, value: fields} | _] = GrpcLb.info(balancer).backends
    pid = fields.adapter_payload.conn_pid
    Process.exit(pid, :kill)
    # As if the balancer did not know yet.
    eventually(fn -> not Process.alive?(pid) end)
    {:ok, _changes} = GrpcLb.reconcile(balancer, [{id, fields}])
    answer = one(channel)
    assert match?({:ok, _}, answer) or match?({:error, %GRPC.RPCError{status: 14}}, answer)
    assert counts(channel).in_flight == 0
  end

  for policy <- Unequal.policies() do
    test "a slow and a failing server under #{inspect(policy)}" do
      servers = Unequal.servers()
      {channel, _target} = connect(servers, Unequal.options(unquote(Macro.escape(policy))))
      figures = Unequal.run(fn metadata -> one(channel, [], metadata: metadata) end)

      IO.puts(
        "\nslow and failing, #{inspect(unquote(Macro.escape(policy)))}: #{inspect(figures)}"
      )

      # One call of each caller, each time that it is tried: at first, and a second later.
      assert figures.failed <= 3 * 16
      if Unequal.knows_slow?(unquote(Macro.escape(policy))), do: assert(figures.slow_percent < 50)
    end
  end

  defp connect_unsupervised(servers, adapter) do
    target = ScriptResolver.target(Enum.map(servers, &Servers.address/1))

    {:ok, channel} =
      Connection.connect(target,
        resolver: ScriptResolver,
        adapter: Adapter,
        adapter_opts: [grpc_lb: [adapter: adapter]]
      )

    {channel, target}
  end

  # Less is what earlier tests had left to end by itself.
  defp nothing_more?(before) do
    now = inventory()

    now.native == before.native and
      Enum.all?(Map.delete(now, :native), fn {key, n} -> n <= before[key] end)
  end

  defp nothing, do: %{balancers: 0, snapshots: 0, values: 0, slots: 0, tickets: 0}

  defp inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    # What was interned waits for that up to a minute.
    GrpcLb.Eraser.erase()

    %{
      native: GrpcLb.Native.live_counts(),
      connections: DynamicSupervisor.count_children(GRPC.Client.Supervisor).active,
      holders: DynamicSupervisor.count_children(GrpcLb.ElixirGrpc.Holders).active,
      names: Registry.count(GRPC.Client.Registry) + Registry.count(GrpcLb.Registry),
      processes: length(Process.list()),
      tables: length(:ets.all()),
      # The servers of earlier tests are ports, too, and end when they end.
      sockets: Enum.count(Port.list(), &(Port.info(&1, :name) == {:name, ~c"tcp_inet"})),
      persistent_terms: :persistent_term.info().count
    }
  end
end
