defmodule GrpcLbElixirGrpc.AdapterTest do
  # GrpcLb.ElixirGrpc.Adapter around the real adapters, against servers that are processes of their own.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GRPC.Client.Adapters.{Gun, Mint}
  alias GRPC.Client.Connection
  alias GrpcLb.ElixirGrpc.Adapter
  alias GrpcLbElixirGrpc.{Kill, Load, ScriptResolver, Servers}

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

  defp shares(calls), do: Enum.frequencies(for %{result: {:ok, server}} <- calls, do: server)

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
        assert {:error, error} = one(channel, [sleep_ms: 500], timeout: 50)
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
        callers = Load.start(16, fn -> one(channel, sleep_ms: 2) end)

        for server <- servers do
          Servers.stop(server)
          [again] = Servers.start([[number: server.number + 10, port: server.port]])
          eventually(fn -> one(channel) == {:ok, again.number} end)
        end

        calls = Load.stop(callers)
        failed = for %{result: {:error, error}} <- calls, do: error

        IO.puts(
          "\nrolling restart, #{inspect(@adapter)}: #{length(failed)} of #{length(calls)} calls failed"
        )

        for error <- failed,
            do: assert(GrpcLb.ElixirGrpc.Outcome.of(error) |> elem(1) |> elem(0) == :transport)

        # A server ends without waiting for what it has begun: 16 calls at most each time.
        assert length(failed) <= 48
        assert Enum.sort(Map.keys(shares(Enum.take(calls, -300)))) == [11, 12, 13]
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

  # The policies without knowledge of load send as much to who is slow or fails.
  for {policy, knows_slow?} <- [
        round_robin: false,
        random: false,
        least_request: true,
        peak_ewma: true
      ] do
    test "a slow and a failing server under #{policy}" do
      servers = Servers.start([[number: 1], [number: 2, sleep_ms: 50], [number: 3, status: 14]])

      options = [
        policy: unquote(policy),
        outlier_detection: [consecutive_failures: 3, max_ejection_percent: 50]
      ]

      {channel, _target} = connect(servers, options)
      calls = Load.for_ms(2_000, 16, fn -> one(channel) end)
      failed = for %{result: {:error, error}} <- calls, do: error
      shares = shares(calls)

      IO.puts(
        "\nslow and failing, #{unquote(policy)}: #{inspect(shares)}, #{length(failed)} failed"
      )

      # The failing one is out after three, but for those that were on their way.
      assert length(failed) <= 3 + 16

      if unquote(knows_slow?) do
        assert shares[1] > 2 * shares[2]
      else
        assert_in_delta shares[1] / shares[2], 1.0, 0.3
      end
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

  defp nothing, do: %{balancers: 0, snapshots: 0, values: 0, tickets: 0}

  defp inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)

    %{
      native: GrpcLb.Native.live_counts(),
      connections: DynamicSupervisor.count_children(GRPC.Client.Supervisor).active,
      holders: DynamicSupervisor.count_children(GrpcLb.ElixirGrpc.Holders).active,
      names: Registry.count(GRPC.Client.Registry) + Registry.count(GrpcLb.Registry),
      tables: length(:ets.all()),
      # The servers of earlier tests are ports, too, and end when they end.
      sockets: Enum.count(Port.list(), &(Port.info(&1, :name) == {:name, ~c"tcp_inet"})),
      persistent_terms: :persistent_term.info().count
    }
  end
end
