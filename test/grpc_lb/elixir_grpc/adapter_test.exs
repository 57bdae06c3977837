defmodule GrpcLb.ElixirGrpc.AdapterTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.ElixirGrpc.{Adapter, Outcome}
  alias GrpcLb.Test.ScriptedAdapter

  @unsent %GRPC.RPCError{
    status: 13,
    message: ":stream_error: {:stream_error, :refused_stream, :'Stream reset by server.'}"
  }
  @going_away %GRPC.RPCError{status: 13, message: ":stream_error: :closing"}

  setup do
    %{name: make_ref(), refused: :ets.new(:refused, [:public])}
  end

  # As GRPC.Client.Connection connects.
  defp connect(context, ports, options \\ [], opts \\ []) do
    for port <- ports do
      {:ok, channel} = connect_one(context, port, options, opts)
      channel
    end
  end

  defp connect_one(context, port, options \\ [], opts \\ []) do
    channel = %GRPC.Channel{host: "10.0.0.1", port: port, ref: context.name, adapter: Adapter}
    options = Keyword.merge([adapter: ScriptedAdapter, backoff: [initial: 1, max: 1]], options)
    Adapter.connect(channel, [grpc_lb: options, test: self(), refused: context.refused] ++ opts)
  end

  defp info(channel) do
    {:ok, balancer} = Adapter.balancer(channel)
    GrpcLb.info(balancer)
  end

  defp counts(channel) do
    for backend <- info(channel).backends, into: %{} do
      {elem(backend.id, 1), {backend.successes, backend.failures, backend.in_flight}}
    end
  end

  defp states(channel), do: Map.new(info(channel).backends, &{elem(&1.id, 1), &1.state})

  # As GRPC.Stub calls: `answer` is what the inner adapter's receive_data/2 returns.
  defp call(channel, answer, opts \\ [], stream \\ %{}) do
    channel |> request(answer, opts, stream) |> Adapter.receive_data(opts)
  end

  defp request(channel, answer, opts \\ [], stream \\ %{}) do
    answer = if is_function(answer), do: answer, else: fn _channel, _opts -> answer end
    Adapter.send_request(struct!(%GRPC.Client.Stream{channel: channel}, stream), answer, opts)
  end

  defp port_of(channel, _opts), do: {:ok, channel.port}

  describe "a connection" do
    test "has a backend for every address that was connected to", context do
      [first, second] = connect(context, [1, 2])
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      assert first.ref == context.name and is_pid(first.adapter_payload.conn_pid)
      assert %{policy: :round_robin, backends: backends} = info(first)
      assert [%{id: {"10.0.0.1", 1}, owner: ^pid}, %{id: {"10.0.0.1", 2}}] = backends

      assert {:ok, %{adapter_payload: %{conn_pid: nil}} = gone} = Adapter.disconnect(first)
      assert [%{id: {"10.0.0.1", 2}}] = info(second).backends
      assert Adapter.disconnect(gone) == {:ok, gone}

      {:ok, balancer} = Adapter.balancer(second)
      {:ok, _} = Adapter.disconnect(second)
      assert GrpcLb.pick(balancer) == {:error, :closed}
      assert Adapter.balancer(second) == {:error, :closed}
      assert_received {:disconnected, {"10.0.0.1", 1}}
      assert_received {:disconnected, {"10.0.0.1", 2}}
      assert {:error, %GRPC.RPCError{status: 14}} = call(second, {:ok, 1})
    end

    test "that cannot be made has no backend", context do
      :ets.insert(context.refused, {2})
      assert connect_one(context, 2) == {:error, :econnrefused}
      assert Adapter.balancer(%{ref: context.name}) == {:error, :closed}

      assert_raise ArgumentError, ~r/^channel must be a GRPC.Channel/, fn ->
        Adapter.balancer(:a)
      end

      [first] = connect(context, [1])
      assert connect_one(context, 2) == {:error, :econnrefused}
      assert [%{id: {"10.0.0.1", 1}}] = info(first).backends
    end

    test "to one address is made once, by many at the same time", context do
      channels = together(8, fn _ -> connect(context, [1]) end)
      assert [[%{adapter_payload: %{conn_pid: _}} = channel]] = Enum.uniq(channels)
      assert [_one] = info(channel).backends
    end

    test "sees wrong options where it is made", context do
      for {options, message} <- [
            {[polcy: :random], ~r/unknown option :polcy of :grpc_lb/},
            {[policy: :unheard], ~r/unknown policy :unheard/},
            {[adapter: Enum], ~r/option :adapter of :grpc_lb must be an adapter/},
            {[retry_unsent: -1], ~r/option :retry_unsent of :grpc_lb must be/},
            {[hash_key: :user], ~r/option :hash_key of :grpc_lb must be {:header, name}/},
            {[outlier_detection: [interval: 0]],
             ~r/option :interval of :outlier_detection must be/}
          ] do
        assert_raise ArgumentError, message, fn -> connect_one(context, 1, options) end
      end

      assert Adapter.balancer(%{ref: context.name}) == {:error, :closed}
    end

    test "gives its own options to the inner adapter, and the channel without a name", context do
      connect(context, [1], [], process?: false)
      assert_received {:connected, {"10.0.0.1", 1}, _pid}
    end
  end

  describe "a connection that is lost" do
    test "leaves the rotation, and is made again", context do
      [first, _second] = connect(context, [1, 2], outlier_detection: [consecutive_failures: 1])
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      failing = fn channel, _opts -> if channel.port == 1, do: {:error, :lost}, else: {:ok, 2} end
      for _ <- 1..2, do: call(first, failing)
      eventually(fn -> Enum.any?(info(first).backends, & &1.ejected_until) end)
      :ets.insert(context.refused, {1})
      kill([pid])
      eventually(fn -> states(first)[1] in [:down, :transient_failure] end)
      for _ <- 1..4, do: assert(call(first, &port_of/2) == {:ok, 2})

      # elixir-grpc takes the channel for connected all the time.
      assert Process.alive?(first.adapter_payload.conn_pid)

      :ets.delete(context.refused, 1)
      assert_receive {:connected, {"10.0.0.1", 1}, pid}, 10_000
      eventually(fn -> states(first) == %{1 => :ready, 2 => :ready} end)
      answers = for _ <- 1..4, do: call(first, &port_of/2)
      assert Enum.frequencies(answers) == %{{:ok, 1} => 2, {:ok, 2} => 2}
      assert Enum.find(info(first).backends, &(&1.id == {"10.0.0.1", 1})).owner == pid
    end

    test "is one that Mint says is lost", context do
      [channel] = connect(context, [1])
      assert_received {:connected, _address, pid}
      subchannel = channel.adapter_payload.conn_pid
      # Of another, of an earlier one.
      send(subchannel, {:elixir_grpc, :connection_down, self()})
      :sys.get_state(subchannel)
      assert Process.alive?(pid)
      monitor = Process.monitor(pid)
      lost_at = System.monotonic_time(:millisecond)
      send(subchannel, {:elixir_grpc, :connection_down, pid})
      assert_receive {:connected, _address, new}, 10_000
      assert new != pid
      # What was answered can be read for a second, and whoever waits in vain is told by its end.
      assert_receive {:DOWN, ^monitor, _, _, {:shutdown, :gone}}, 10_000
      assert System.monotonic_time(:millisecond) - lost_at >= 1_000
    end

    test "does not come back once its address is gone", context do
      [first, second] = connect(context, [1, 2], drain_timeout: 60_000)
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      {:ok, _} = Adapter.disconnect(first)
      assert Process.alive?(pid)
      subchannel = Process.monitor(first.adapter_payload.conn_pid)
      kill([pid])
      assert_receive {:DOWN, ^subchannel, _, _, :normal}
      assert [%{id: {"10.0.0.1", 2}}] = info(second).backends
    end
  end

  describe "what is left" do
    test "of an address that is gone: its connection, until the calls had their time", context do
      [first, _second] = connect(context, [1, 2], drain_timeout: 1)
      {:ok, _} = Adapter.disconnect(first)
      assert_receive {:disconnected, {"10.0.0.1", 1}}, 10_000
      eventually(fn -> not Process.alive?(first.adapter_payload.conn_pid) end)
    end

    test "of a connection whose process is killed: nothing", context do
      test = self()

      user =
        spawn(fn ->
          channels = connect(Map.put(context, :test, test), [1, 2], [], test: test)
          send(test, {:channels, channels})
          Process.sleep(:infinity)
        end)

      assert_receive {:channels, [channel | _]}
      {:ok, balancer} = Adapter.balancer(channel)
      kill([user])
      eventually(fn -> GrpcLb.pick(balancer) == {:error, :closed} end)
      eventually(fn -> Adapter.balancer(channel) == {:error, :closed} end)
      eventually(fn -> not Process.alive?(channel.adapter_payload.conn_pid) end)
    end

    test "of a subchannel that is killed: nothing", context do
      [first, second] = connect(context, [1, 2], drain_timeout: 1)
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      kill([first.adapter_payload.conn_pid])
      eventually(fn -> not Process.alive?(pid) end)
      assert_receive {:connected, {"10.0.0.1", 1}, again}, 10_000
      eventually(fn -> states(second) == %{1 => :ready, 2 => :ready} end)

      # elixir-grpc finds its channel dead, and connects again.
      {:ok, _} = Adapter.disconnect(first)
      eventually(fn -> not Process.alive?(again) end)
      [_again] = connect(context, [1])
      assert states(second) == %{1 => :ready, 2 => :ready}
    end

    test "of the only subchannel when it is killed: the address, which is connected to",
         context do
      [channel] = connect(context, [1])
      kill([channel.adapter_payload.conn_pid])
      eventually(fn -> call(channel, {:ok, 1}) == {:ok, 1} end)

      # Also with the channel that elixir-grpc still has.
      {:ok, _} = Adapter.disconnect(channel)
      assert Adapter.balancer(channel) == {:error, :closed}
    end

    test "of a subchannel that is killed before it has connected: nothing", context do
      slow = self()
      connecting = Task.async(fn -> connect_one(context, 1, [], hold: slow) end)
      assert_receive {:held, subchannel}
      kill([subchannel])
      assert Task.await(connecting) == {:error, :killed}
      assert Adapter.balancer(%{ref: context.name}) == {:error, :closed}
    end

    test "of a process of elixir-grpc that is killed: what the next one knows", context do
      start_supervised!({Registry, keys: :unique, name: GRPC.Client.Registry})
      first = connection_of_elixir_grpc(context, [1, 2, 3])
      channel = %{ref: context.name}
      assert Map.keys(states(channel)) == [1, 2, 3]
      holder = holder(context)
      # It gives the next one a second. That comes meanwhile, however long it takes.
      :sys.suspend(holder)
      kill([first])
      second = connection_of_elixir_grpc(context, [])
      :sys.resume(holder)
      send(holder, :look_for_owner)

      # As long as that knows none, nothing is forgotten.
      send(holder, :forget)
      assert Map.keys(states(channel)) == [1, 2, 3]

      send(second, {:connect, [2, 4]})
      assert_receive {:connected_as_asked, ^second}
      assert Map.keys(states(channel)) == [1, 2, 3, 4]
      send(holder, :forget)
      :sys.get_state(holder)
      assert Map.keys(states(channel)) == [2, 4]
    end

    test "of addresses from before there was a process of elixir-grpc: all", context do
      start_supervised!({Registry, keys: :unique, name: GRPC.Client.Registry})
      [channel] = connect(context, [1])
      first = connection_of_elixir_grpc(context, [2])
      holder = holder(context)
      :sys.suspend(holder)
      kill([first])
      connection_of_elixir_grpc(context, [])
      :sys.resume(holder)
      for message <- [:look_for_owner, :forget], do: send(holder, message)
      :sys.get_state(holder)
      assert Map.keys(states(channel)) == [1]
    end

    @tag :capture_log
    test "of a holder that is killed: nothing, and it can be connected to again", context do
      [first, second] = connect(context, [1, 2])
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      kill([holder(context)])
      eventually(fn -> not Process.alive?(pid) end)
      for channel <- [first, second], do: eventually(fn -> not alive?(channel) end)
      assert {:error, %GRPC.RPCError{status: 14}} = call(first, {:ok, 1})
      [again] = connect(context, [1])
      assert call(again, {:ok, 1}) == {:ok, 1}
    end
  end

  describe "a call" do
    test "goes where the balancer says, whatever channel was picked", context do
      [first | _] = connect(context, 1..3)
      answers = for _ <- 1..9, do: call(first, &port_of/2)
      assert Enum.frequencies(answers) == %{{:ok, 1} => 3, {:ok, 2} => 3, {:ok, 3} => 3}

      # The one without a connection, that GRPC.Client.Connection hands out before it has connected.
      virtual = %{first | host: nil, port: nil, adapter_payload: nil}
      assert {:ok, _port} = call(virtual, &port_of/2)
    end

    test "is given what the inner adapter connected, and what the channel has besides", context do
      [channel] = connect(context, [1])
      headers = [{"authorization", "secret"}]
      test = self()

      answer = fn channel, opts ->
        send(test, {:answering, channel, opts})
        {:ok, 1}
      end

      call(%{channel | headers: headers}, answer, timeout: 5)
      assert_received {:answering, %{adapter: ScriptedAdapter} = inner, timeout: 5}

      assert %{host: "10.0.0.1", port: 1, headers: ^headers, adapter_payload: %{process: _}} =
               inner
    end

    test "is in flight until its answer is here", context do
      [channel] = connect(context, [1])
      stream = request(channel, {:ok, :done})
      assert counts(channel) == %{1 => {0, 0, 1}}
      assert Adapter.receive_data(stream, []) == {:ok, :done}
      assert counts(channel) == %{1 => {1, 0, 0}}
    end

    test "ends as its status says, or as the user says", context do
      [channel] = connect(context, [1])

      for status <- 1..16, error = %GRPC.RPCError{status: status, message: "no"} do
        assert call(channel, {:error, error}) == {:error, error}
      end

      # NOT_FOUND and the like, and without CANCELLED.
      assert counts(channel) == %{1 => {9, 6, 0}}
      {:ok, _} = Adapter.disconnect(channel)

      classify = fn
        %{status: 5} -> {:error, :should_be_there}
        error -> Outcome.of(error)
      end

      [channel] = connect(context, [1], classify: classify)
      for status <- [5, 6], do: call(channel, {:error, %GRPC.RPCError{status: status}})
      assert counts(channel) == %{1 => {1, 1, 0}}
    end

    test "that raises has failed, and raises", context do
      [channel] = connect(context, [1])
      raising = fn _channel, _opts -> raise "not decoded" end
      assert_raise RuntimeError, "not decoded", fn -> call(channel, raising) end
      assert counts(channel) == %{1 => {0, 1, 0}}
    end

    test "whose classify raises has ended, and raises", context do
      [channel] = connect(context, [1], classify: fn _error -> raise "confused" end)
      assert_raise RuntimeError, "confused", fn -> call(channel, {:error, :lost}) end
      assert counts(channel) == %{1 => {0, 0, 0}}
    end

    test "that exits has lost its connection, and does not exit", context do
      [channel] = connect(context, [1])
      exiting = fn _channel, _opts -> exit({:shutdown, {GenServer, :call, [self(), :get, 5]}}) end
      assert {:error, %GRPC.RPCError{status: 14, message: message}} = call(channel, exiting)
      assert message =~ "the connection was lost"
      assert counts(channel) == %{1 => {0, 1, 0}}
    end

    test "that nobody can serve is UNAVAILABLE, one too many RESOURCE_EXHAUSTED", context do
      [channel] = connect(context, [1], max_requests: 1)
      stream = request(channel, {:ok, 1})
      assert {:error, %GRPC.RPCError{status: 8}} = call(channel, {:ok, 1})
      assert Adapter.receive_data(stream, []) == {:ok, 1}

      {:ok, balancer} = Adapter.balancer(channel)
      GrpcLb.set_state(balancer, {"10.0.0.1", 1}, :transient_failure)
      assert {:error, %GRPC.RPCError{status: 14}} = call(channel, {:ok, 1})

      # It takes all steps of a call.
      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, [])
      stream = stream |> Adapter.send_data("", []) |> Adapter.end_stream()
      assert {:error, %GRPC.RPCError{status: 14}} = Adapter.receive_data(stream, [])
      assert Adapter.cancel(stream) == :ok
    end

    test "whose process dies is in flight no longer", context do
      [channel] = connect(context, [1])
      {:ok, pid} = Task.start(fn -> Process.sleep(hold(request(channel, {:ok, 1}))) end)
      eventually(fn -> counts(channel) == %{1 => {0, 0, 1}} end)
      kill([pid])
      eventually(fn -> counts(channel) == %{1 => {0, 0, 0}} end)
    end

    test "makes no ticket where it has one request and one answer", context do
      [channel] = connect(context, [1])

      for {stream, slot?} <- [{%{server_stream: false}, true}, {%{server_stream: true}, false}] do
        sent = request(channel, {:ok, 1}, [], stream)
        assert is_integer(sent.channel.adapter_payload.counted) == slot?
        assert {:ok, _answer} = Adapter.receive_data(sent, [])
      end

      sent = Adapter.send_headers(%GRPC.Client.Stream{channel: channel, server_stream: false}, [])
      assert is_reference(sent.channel.adapter_payload.counted)
    end

    test "has the key that its headers have" do
      for {headers, metadata, stream, key} <- [
            {[], %{}, %{}, nil},
            {[], %{"User-Id" => 7}, %{}, "7"},
            {[], nil, %{"user-id" => "8"}, "8"},
            {[{"user-id", "9"}], [user_id: 1, "user-id": 10], %{}, "9,10"}
          ] do
        assert Adapter.key(
                 {:header, "user-id"},
                 %GRPC.Client.Stream{channel: %GRPC.Channel{headers: headers}, headers: stream},
                 metadata: metadata
               ) == key
      end
    end

    for policy <- [:ring_hash, :maglev] do
      test "goes where its key leads, with #{policy}, as long as that can be reached", context do
        policy = unquote(policy)

        channels =
          for node <- 1..2, ports = Enum.shuffle(1..4) do
            options = [policy: policy, hash_key: {:header, "User-ID"}]
            [channel | _] = connect(%{context | name: {context.name, node}}, ports, options)
            channel
          end

        users = Enum.map(1..50, &"user #{&1}")

        of_user =
          &call(&1, fn channel, _opts -> {:ok, channel.port} end, metadata: %{"user-id" => &2})

        [there | others] =
          for channel <- channels, _ <- 1..2, do: Enum.map(users, &of_user.(channel, &1))

        assert Enum.all?(others, &(&1 == there))
        assert there |> Enum.uniq() |> Enum.sort() == [ok: 1, ok: 2, ok: 3, ok: 4]

        channel = hd(channels)
        {:ok, balancer} = Adapter.balancer(channel)
        GrpcLb.set_state(balancer, {"10.0.0.1", 1}, :transient_failure)
        moved = Enum.map(users, &of_user.(channel, &1))

        assert Enum.all?(Enum.zip(there, moved), fn {was, is} ->
                 is != {:ok, 1} and (was == {:ok, 1} or is == was)
               end)

        GrpcLb.set_state(balancer, {"10.0.0.1", 1}, :ready)
        assert Enum.map(users, &of_user.(channel, &1)) == there

        # As gRPC's other clients, which hash the texts of addresses.
        {:ok, same} = GrpcLb.new(policy, for(port <- 1..4, do: "10.0.0.1:#{port}"))
        picked = for user <- users, do: GrpcLb.pick(same, user)
        assert picked == for({:ok, port} <- there, do: {:ok, "10.0.0.1:#{port}"})
      end
    end

    test "goes to any server without a key", context do
      [channel | _] = connect(context, [1, 2], policy: :ring_hash, hash_key: {:header, "user-id"})
      answers = for _ <- 1..100, do: call(channel, &port_of/2)
      assert answers |> Enum.uniq() |> Enum.sort() == [ok: 1, ok: 2]
    end
  end

  describe "a call that was not sent" do
    test "as its connection's process ended before it is made on another", context do
      [channel, _] = connect(context, [1, 2])
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      :ets.insert(context.refused, {1})
      :erlang.suspend_process(pid)
      send(pid, {:system, {self(), make_ref()}, {:terminate, {:shutdown, :gone}}})
      callers = for _ <- 1..2, do: Task.async(fn -> call(channel, &port_of/2) end)
      # One of the calls is behind the order to end.
      eventually(fn -> Process.info(pid, :message_queue_len) == {:message_queue_len, 2} end)
      :erlang.resume_process(pid)
      assert Enum.map(callers, &Task.await/1) == [ok: 2, ok: 2]
    end

    test "as its connection's process is gone is made on another", context do
      [channel, _] = connect(context, [1, 2])
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      dead_behind_the_balancer(channel, pid)
      for _ <- 1..4, do: assert(call(channel, &port_of/2) == {:ok, 2})
      assert %{1 => {0, failures, 0}, 2 => {4, 0, 0}} = counts(channel)
      assert failures > 0
    end

    test "is an error when it may not be made again", context do
      [channel, _] = connect(context, [1, 2], retry_unsent: 0)
      assert_received {:connected, {"10.0.0.1", 1}, pid}
      dead_behind_the_balancer(channel, pid)
      answers = for _ <- 1..4, do: call(channel, &port_of/2)
      assert {:ok, 2} in answers
      assert Enum.any?(answers, &match?({:error, %GRPC.RPCError{status: 14}}, &1))
      assert Enum.any?(for _ <- 1..2, do: call(channel, {:error, @unsent}) == {:error, @unsent})
    end

    test "is made once more when that turns out later", context do
      [channel, _] = connect(context, [1, 2], retry_unsent: 2)

      answer = fn
        %{port: 1}, _opts -> {:error, @unsent}
        channel, opts -> {:ok, channel.port, opts}
      end

      answers = for _ <- 1..4, do: call(channel, answer, [])
      assert Enum.uniq(answers) == [ok: 2]

      # And no more than that.
      assert call(channel, {:error, @unsent}) == {:error, @unsent}
      assert %{1 => {0, failed, 0}, 2 => {4, failed_too, 0}} = counts(channel)
      assert failed + failed_too >= 3
    end

    test "is not made again when its request is a stream", context do
      [channel] = connect(context, [1])
      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, [])
      stream = Adapter.send_data(stream, fn _channel, _opts -> {:error, @unsent} end, [])
      assert Adapter.receive_data(stream, []) == {:error, @unsent}
      assert counts(channel) == %{1 => {0, 1, 0}}
    end
  end

  describe "a connection that goes away" do
    test "gets no more calls, and ends those that it has, beside its successor", context do
      [channel, _] = connect(context, [1, 2], drain_timeout: 1)
      assert_received {:connected, {"10.0.0.1", 1}, old}
      in_flight = request(channel, {:ok, :old})
      {:ok, answers} = call(channel, {:ok, 2})
      assert answers == 2

      # Held, so that the next calls meet no successor yet.
      :sys.suspend(channel.adapter_payload.conn_pid)
      answer = refusing(1)
      assert for(_ <- 1..6, do: call(channel, answer)) == for(_ <- 1..6, do: {:ok, 2})
      assert states(channel) == %{1 => :connecting, 2 => :ready}
      assert_received {:refused, 1}
      refute_received {:refused, 1}

      :sys.resume(channel.adapter_payload.conn_pid)
      assert_receive {:connected, {"10.0.0.1", 1}, new}, 10_000
      eventually(fn -> states(channel) == %{1 => :ready, 2 => :ready} end)
      assert Process.alive?(old)
      assert Adapter.receive_data(in_flight, []) == {:ok, :old}

      assert Enum.sort(for _ <- 1..4, do: call(channel, &port_of/2)) == [
               ok: 1,
               ok: 1,
               ok: 2,
               ok: 2
             ]

      # The end of the old one is none of the new one.
      kill([old])
      :sys.get_state(channel.adapter_payload.conn_pid)
      assert states(channel) == %{1 => :ready, 2 => :ready}
      {:ok, _} = Adapter.disconnect(channel)
      eventually(fn -> not Process.alive?(new) end)
    end

    test "has calls wait for its successor when it was the only one", context do
      [channel] = connect(context, [1])
      subchannel = channel.adapter_payload.conn_pid
      :sys.suspend(subchannel)

      assert {:error, %GRPC.RPCError{status: 14}} =
               call(channel, {:error, @going_away}, timeout: 1)

      callers =
        for _ <- 1..3, do: Task.async(fn -> call(channel, &port_of/2, timeout: 60_000) end)

      eventually(fn -> length(:sys.get_state(holder(context)).awaiting) >= 3 end)
      :sys.resume(subchannel)
      assert Enum.map(callers, &Task.await/1) == [ok: 1, ok: 1, ok: 1]
    end

    test "has nobody wait for one that is not there", context do
      [channel] = connect(context, [1])
      subchannel = channel.adapter_payload.conn_pid
      :sys.suspend(subchannel)
      :ets.insert(context.refused, {1})
      caller = Task.async(fn -> call(channel, {:error, @going_away}) end)
      eventually(fn -> length(:sys.get_state(holder(context)).awaiting) == 1 end)
      :sys.resume(subchannel)
      assert {:error, %GRPC.RPCError{status: 14}} = Task.await(caller)
      assert {:error, %GRPC.RPCError{status: 14}} = call(channel, {:ok, 1})
    end

    test "is connected to again after a wait when nobody is there yet", context do
      [channel] = connect(context, [1])
      assert_received {:connected, {"10.0.0.1", 1}, _old}
      :ets.insert(context.refused, {1})
      assert {:error, %GRPC.RPCError{status: 14}} = call(channel, {:error, @going_away})
      for _ <- 1..2, do: assert_receive({:connecting, {"10.0.0.1", 1}}, 10_000)
      :ets.delete(context.refused, 1)
      eventually(fn -> call(channel, {:ok, 1}) == {:ok, 1} end)
    end

    test "is closed with its successor, however often it went", context do
      [channel] = connect(context, [1])

      pids =
        for _ <- 1..3 do
          assert_receive {:connected, {"10.0.0.1", 1}, pid}, 10_000
          eventually(fn -> states(channel) == %{1 => :ready} end)
          call(channel, {:error, @going_away})
          pid
        end

      assert Enum.all?(pids, &Process.alive?/1)
      eventually(fn -> states(channel) == %{1 => :ready} end)
      {:ok, _} = Adapter.disconnect(channel)
      for pid <- pids, do: eventually(fn -> not Process.alive?(pid) end)
    end

    test "and whose address is gone has its time for the calls that it has", context do
      [channel, _] = connect(context, [1, 2], drain_timeout: 60_000)
      assert_received {:connected, {"10.0.0.1", 1}, old}
      subchannel = channel.adapter_payload.conn_pid
      :ets.insert(context.refused, {1})
      for _ <- 1..2, do: call(channel, refusing(1))
      eventually(fn -> states(channel)[1] == :transient_failure end)
      {:ok, _} = Adapter.disconnect(channel)
      :sys.get_state(subchannel)
      assert Process.alive?(old)
      monitor = Process.monitor(subchannel)
      kill([old])
      assert_receive {:DOWN, ^monitor, _, _, :normal}
    end

    # What Gun says when it has no stream left, long before its process at the adapter ends.
    test "has gone when Gun says so", context do
      [channel] = connect(context, [1])
      assert_received {:connected, {"10.0.0.1", 1}, old}
      subchannel = channel.adapter_payload.conn_pid
      mark = :sys.get_state(subchannel).connection.mark
      call(channel, {:error, @going_away})
      eventually(fn -> states(channel) == %{1 => :ready} end)
      send(subchannel, {:gun_disconnected, mark})
      eventually(fn -> not Process.alive?(old) end)
      assert states(channel) == %{1 => :ready}
    end

    defp refusing(port) do
      test = self()

      fn
        %{port: ^port}, _opts ->
          send(test, {:refused, port})
          {:error, @going_away}

        channel, _opts ->
          {:ok, channel.port}
      end
    end
  end

  describe "a request that is a stream" do
    test "is one call", context do
      [channel | _] = connect(context, [1, 2])
      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, timeout: 7)
      stream = Adapter.send_data(stream, fn _channel, _opts -> {:ok, :first} end, [])
      assert counts(channel) == %{1 => {0, 0, 1}, 2 => {0, 0, 0}}
      stream = stream |> Adapter.send_data(&port_of/2, []) |> Adapter.end_stream()
      assert Adapter.receive_data(stream, []) == {:ok, 1}
      assert counts(channel) == %{1 => {1, 0, 0}, 2 => {0, 0, 0}}

      for what <- [{:headers, [timeout: 7]}, {:data, []}, {:data, []}, :end_stream] do
        assert_received {:sent, ^what, {"10.0.0.1", 1}}
      end
    end

    test "fails when its connection's process dies, and does not exit", context do
      [channel] = connect(context, [1])
      assert_received {:connected, _address, pid}
      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, [])
      :ets.insert(context.refused, {1})
      kill([pid])
      stream = stream |> Adapter.send_data(&port_of/2, []) |> Adapter.end_stream()
      assert {:error, %GRPC.RPCError{status: 14}} = Adapter.receive_data(stream, [])
      assert counts(channel) == %{1 => {0, 1, 0}}
    end

    test "ends when it is cancelled, also without its connection", context do
      [channel] = connect(context, [1])
      assert_received {:connected, _address, pid}
      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, [])
      assert Adapter.cancel(stream) == :ok
      assert_received {:sent, :cancel, _address}
      assert counts(channel) == %{1 => {0, 0, 0}}

      stream = Adapter.send_headers(%GRPC.Client.Stream{channel: channel}, [])
      :ets.insert(context.refused, {1})
      kill([pid])
      assert Adapter.cancel(stream) == :ok
      assert counts(channel) == %{1 => {0, 0, 0}}
    end
  end

  describe "answers that are a stream" do
    setup context do
      [channel] = connect(context, [1])
      %{channel: channel}
    end

    defp answers(channel, answers, opts \\ []) do
      {:ok, answers} = call(channel, {:ok, answers}, opts, %{server_stream: true})
      answers
    end

    @error {:error, %GRPC.RPCError{status: 13, message: "broken"}}

    test "are in flight until they were read", %{channel: channel} do
      answers = answers(channel, Stream.map(1..3, &{:ok, &1}))
      assert counts(channel) == %{1 => {0, 0, 1}}
      assert Enum.to_list(answers) == [ok: 1, ok: 2, ok: 3]
      assert counts(channel) == %{1 => {1, 0, 0}}
      assert channel |> answers(Stream.map([], & &1)) |> Enum.to_list() == []
      assert counts(channel) == %{1 => {2, 0, 0}}
    end

    test "take as long as the first of them", %{channel: channel} do
      answers = Stream.map([1], fn n -> Process.sleep(500) && {:ok, n} end)
      {us, answers} = :timer.tc(fn -> answers(channel, answers) end)
      assert Enum.to_list(answers) == [ok: 1]
      assert [%{latency_ns: ns, successes: 1}] = info(channel).backends
      # Without the half second, and with what a coarse clock adds.
      assert ns < us * 1_000 + 250_000_000
    end

    test "are in flight until nobody reads on", %{channel: channel} do
      test = self()

      inner =
        Stream.resource(fn -> 1 end, &{[{:ok, &1}], &1 + 1}, fn at -> send(test, {:at, at}) end)

      assert channel |> answers(inner) |> Enum.take(2) == [ok: 1, ok: 2]
      assert counts(channel) == %{1 => {1, 0, 0}}
      # The adapter's stream is told, and not asked for more than was read.
      assert_received {:at, 3}

      assert_raise RuntimeError, fn ->
        channel |> answers(inner) |> Enum.each(fn _ -> raise "no" end)
      end

      assert counts(channel) == %{1 => {2, 0, 0}}
    end

    test "fail with an error among them", %{channel: channel} do
      assert channel |> answers(Stream.map([{:ok, 1}, @error], & &1)) |> Enum.to_list() ==
               [{:ok, 1}, @error]

      assert counts(channel) == %{1 => {0, 1, 0}}
    end

    test "fail when the adapter's stream exits or raises", %{channel: channel} do
      exiting = Stream.map([1], fn _ -> exit(:shutdown) end)

      assert [{:error, %GRPC.RPCError{status: 14}}] =
               channel |> answers(exiting) |> Enum.to_list()

      assert counts(channel) == %{1 => {0, 1, 0}}

      raising = Stream.map([1], fn _ -> raise "not decoded" end)
      assert_raise RuntimeError, fn -> channel |> answers(raising) |> Enum.to_list() end
      assert counts(channel) == %{1 => {0, 2, 0}}
    end

    test "are cleaned up once when the adapter's stream raises", %{channel: channel} do
      test = self()

      raising =
        Stream.resource(
          fn -> 1 end,
          fn
            1 -> {[{:ok, 1}], 2}
            2 -> raise "not decoded"
          end,
          &send(test, {:cleaned_up, &1})
        )

      assert_raise RuntimeError, "not decoded", fn ->
        channel |> answers(raising) |> Enum.each(&send(test, &1))
      end

      assert_received {:ok, 1}
      assert_received {:cleaned_up, 2}
      refute_received {:cleaned_up, _at}
      assert counts(channel) == %{1 => {0, 1, 0}}
    end

    test "can be none at all, without a stream", %{channel: channel} do
      assert answers(channel, []) == []
      assert counts(channel) == %{1 => {1, 0, 0}}
    end

    test "are cancelled when the process that reads dies", %{channel: channel} do
      answers = Stream.map(1..3, &{:ok, &1})
      {:ok, pid} = Task.start(fn -> channel |> answers(answers) |> hold() |> Process.sleep() end)
      eventually(fn -> counts(channel) == %{1 => {0, 0, 1}} end)
      kill([pid])
      eventually(fn -> counts(channel) == %{1 => {0, 0, 0}} end)
    end
  end

  describe "load reports" do
    @policy {:weighted_round_robin,
             weights: :reported, blackout_period: 0, weight_update_period: 100}
    # cpu_utilization (field 1) and rps_fractional (field 6), as servers encode them.
    @report <<0x09, 0.5::float-little, 0x31, 100.0::float-little>>
    @trailers %{"grpc-status" => "0", "endpoint-load-metrics-bin" => @report}

    defp reported(context, report) do
      [channel] = connect(context, [1], policy: @policy)
      # What cannot be read is counted: that it was is seen without waiting for weights.
      {channel, %{@trailers | "endpoint-load-metrics-bin" => report}}
    end

    test "reach the policy, and the caller sees what it asked for", context do
      [channel, _] = connect(context, [1, 2], policy: @policy)
      test = self()

      answer = fn channel, opts ->
        send(test, {:asked, opts})
        utilization = if channel.port == 1, do: 0.1, else: 0.9
        report = <<0x09, utilization::float-little, 0x31, 100.0::float-little>>
        {:ok, channel.port, %{headers: %{}, trailers: %{"endpoint-load-metrics-bin" => report}}}
      end

      # It needs both, and then a while.
      eventually(fn ->
        {:ok, _port} = call(channel, answer)
        weights = for backend <- info(channel).backends, do: backend.current_weight
        match?([large, small] when large > small, weights)
      end)

      assert_received {:asked, return_headers: true}
      assert_received {:sent, {:request, [return_headers: true]}, _address}
      assert {:ok, _, %{trailers: _}} = call(channel, answer, return_headers: true)
    end

    test "of streams come last", context do
      {channel, trailers} = reported(context, "nothing that can be decoded")
      answers = [{:ok, 1}, {:trailers, trailers}]
      answer = {:ok, Stream.map(answers, & &1), %{headers: %{}}}
      stream = %{server_stream: true}

      {:ok, read} = call(channel, answer, [], stream)
      assert Enum.to_list(read) == [ok: 1]
      assert info(channel).malformed_reports == 1

      {:ok, read, %{headers: %{}}} = call(channel, answer, [return_headers: true], stream)
      assert Enum.to_list(read) == answers
      assert info(channel).malformed_reports == 2
    end

    test "that Gun has seen of calls that failed are those of the backend", context do
      {channel, _trailers} = reported(context, @report)
      subchannel = channel.adapter_payload.conn_pid
      mark = :sys.get_state(subchannel).connection.mark
      send(subchannel, {:gun_report, make_ref(), "of another connection"})
      send(subchannel, {:gun_report, mark, "nothing that can be decoded"})
      eventually(fn -> info(channel).malformed_reports == 1 end)
    end

    test "are not asked for when nobody looks at them", context do
      [channel] = connect(context, [1])
      test = self()

      call(channel, fn _channel, opts ->
        send(test, {:asked, opts})
        {:ok, 1}
      end)

      assert_received {:asked, []}
    end
  end

  # The balancer has not heard of the death yet.
  defp dead_behind_the_balancer(channel, pid) do
    {:ok, balancer} = Adapter.balancer(channel)
    :sys.suspend(channel.adapter_payload.conn_pid)
    kill([pid])
    [%{value: fields} | _] = info(channel).backends
    {:ok, _} = GrpcLb.add(balancer, [{{"10.0.0.1", 1}, fields}])
  end

  defp holder(context) do
    [{holder, _connection}] = Registry.lookup(GrpcLb.Registry, {Adapter, context.name})
    holder
  end

  # The process of a connection of elixir-grpc, which connects when it begins and when it is told to.
  defp connection_of_elixir_grpc(context, ports) do
    test = self()

    pid =
      spawn(fn ->
        # One that was killed is in the registry for a moment.
        eventually(fn ->
          match?({:ok, _}, Registry.register(GRPC.Client.Registry, key(context), nil))
        end)

        connect_as_told(context, test, ports)
      end)

    assert_receive {:connected_as_asked, ^pid}
    pid
  end

  defp key(context), do: {GRPC.Client.Connection, context.name}

  defp connect_as_told(context, test, ports) do
    connect(context, ports, [], test: test)
    send(test, {:connected_as_asked, self()})

    receive do
      {:connect, ports} -> connect_as_told(context, test, ports)
    end
  end

  defp alive?(channel), do: Process.alive?(channel.adapter_payload.conn_pid)

  # Keeps a term alive, without a process that could be told to let go of it.
  defp hold(term) do
    Process.put(:held, term)
    :infinity
  end
end
