defmodule GrpcLb.ElixirGrpcTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.ElixirGrpc
  alias GrpcLb.ElixirGrpc.{PickFirst, Random, RoundRobin}
  alias GrpcLb.Test.Peer

  doctest ElixirGrpc
  doctest RoundRobin
  doctest PickFirst
  doctest Random

  # A struct of somebody else.
  defmodule Endpoint do
    defstruct [:host, :port]
  end

  defmodule Copying do
    use ElixirGrpc, policy: :round_robin, values: :copied
  end

  @policies [RoundRobin, PickFirst, Random]

  defp channels(addresses) do
    for {host, port} <- addresses do
      %GRPC.Channel{
        host: host,
        port: port,
        ref: {host, port},
        adapter_payload: %{conn_pid: self()}
      }
    end
  end

  # As those of one connection: all the same but for host, port and connection.
  defp channels_of_one_connection(hosts, conn_pids) do
    for {host, conn_pid} <- Enum.zip(hosts, conn_pids) do
      %GRPC.Channel{
        host: host,
        port: 50_051,
        scheme: "https",
        cred: %{ssl: [verify: :verify_peer, cacertfile: "/etc/ssl/ca.pem"]},
        ref: :payments,
        adapter_payload: %{conn_pid: conn_pid},
        headers: [{"x-tries", 1}]
      }
    end
  end

  defp init!(policy, channels) do
    {:ok, state} = policy.init(channels: channels)
    state
  end

  defp picks(policy, state, n) do
    for _ <- 1..n do
      {:ok, channel, ^state} = policy.pick(state)
      channel
    end
  end

  defp ids(state), do: Enum.map(GrpcLb.info(state.balancer).backends, & &1.id)

  test "the policy modules have the behaviour's callbacks" do
    for policy <- @policies,
        {name, arity} <- GRPC.Client.LoadBalancing.behaviour_info(:callbacks) do
      Code.ensure_loaded!(policy)
      assert function_exported?(policy, name, arity)
    end
  end

  describe "every policy" do
    test "has nothing to balance over when there are no channels" do
      for policy <- @policies do
        assert policy.init(channels: []) == {:error, :no_addresses}
        assert policy.init([]) == {:error, :no_addresses}
      end
    end

    test "returns the only channel" do
      [channel] = channels([{"only", 1}])

      for policy <- @policies do
        assert picks(policy, init!(policy, [channel]), 5) == List.duplicate(channel, 5)
      end
    end

    test "accepts an empty update, and channels after it" do
      [first, second] = channels([{"a", 1}, {"b", 2}])

      for policy <- @policies do
        state = init!(policy, [first])
        assert policy.update(state, []) == {:ok, state}
        assert policy.pick(state) == {:error, :no_addresses}
        assert policy.update(state, [second]) == {:ok, state}
        assert policy.pick(state) == {:ok, second, state}
      end
    end

    test "goes on with the state that was published before an update" do
      for policy <- @policies do
        key = {__MODULE__, policy}
        :persistent_term.put(key, init!(policy, channels([{"a", 1}, {"b", 2}])))
        [new] = channels([{"c", 3}])
        {:ok, _state} = policy.update(:persistent_term.get(key), [new])

        pick = fn _ -> policy.pick(:persistent_term.get(key)) end
        state = :persistent_term.get(key)
        assert Enum.uniq(together(4, pick)) == [{:ok, new, state}]
        :persistent_term.erase(key)
      end
    end

    test "refuses what are no options" do
      for policy <- @policies, opts <- [nil, %{}, [1 | 2], [{"channels", []}], :channels] do
        assert_raise ArgumentError, ~r/options must be a keyword list/, fn ->
          policy.init(opts)
        end
      end
    end

    test "refuses what is no list of channels, and changes nothing then" do
      for policy <- @policies do
        [channel] = channels([{"a", 1}])
        state = init!(policy, [channel])

        for wrong <- [nil, :channels, [channel | channel], [channel, "b:2"], %{0 => channel}] do
          message = ~r/channels must be a list of structs, got: /

          assert_raise ArgumentError, message, fn ->
            apply(policy, :init, [[channels: wrong]])
          end

          assert_raise ArgumentError, message, fn -> apply(policy, :update, [state, wrong]) end
        end

        assert policy.pick(state) == {:ok, channel, state}
      end
    end
  end

  describe "round robin" do
    test "rotates in the order of the list, from its first channel" do
      [a, b, c] = channels = channels([{"a", 1}, {"b", 2}, {"c", 3}])
      assert picks(RoundRobin, init!(RoundRobin, channels), 5) == [a, b, c, a, b]
    end

    test "starts again at the first channel after an update" do
      [a, b, c] = channels([{"a", 1}, {"b", 2}, {"c", 3}])

      for updated <- [[a, b, c], [b, c], [c, a, b], [a, b, c]] do
        state = init!(RoundRobin, [a, b, c])
        assert picks(RoundRobin, state, 2) == [a, b]
        {:ok, ^state} = RoundRobin.update(state, updated)
        assert picks(RoundRobin, state, length(updated)) == updated
      end
    end

    test "is one rotation for the callers on all schedulers" do
      count = System.schedulers_online()
      channels = channels(for port <- 1..count, do: {"a", port})
      state = init!(RoundRobin, channels)

      picked =
        for scheduler <- 1..count do
          [[channel]] = together(1, fn _ -> pick_on(scheduler, state) end)
          channel
        end

      assert picked == channels
    end

    defp pick_on(scheduler, state) do
      :erlang.process_flag(:scheduler, scheduler)
      :erlang.yield()
      picks(RoundRobin, state, 1)
    end
  end

  describe "pick first" do
    test "stays with the channel that it has, as long as that is listed" do
      [a, b, c] = channels([{"a", 1}, {"b", 2}, {"c", 3}])
      state = init!(PickFirst, [a, b])
      assert picks(PickFirst, state, 3) == [a, a, a]
      {:ok, ^state} = PickFirst.update(state, [c, a])
      assert picks(PickFirst, state, 3) == [a, a, a]
      {:ok, ^state} = PickFirst.update(state, [c, b])
      assert picks(PickFirst, state, 3) == [c, c, c]
    end

    test "takes the next channel when the first one's connection dies" do
      [one, two] = [idle(), idle()]
      [a, b] = channels_of_one_connection(["a", "b"], [one, two])
      state = init!(PickFirst, [a, b])
      assert PickFirst.pick(state) == {:ok, a, state}
      kill([one])
      eventually(fn -> PickFirst.pick(state) == {:ok, b, state} end)
      kill([two])
      eventually(fn -> PickFirst.pick(state) == {:error, :no_addresses} end)
    end
  end

  test "random picks every channel" do
    channels = channels(for port <- 1..4, do: {"a", port})
    picked = picks(Random, init!(Random, channels), 1_000)
    assert Enum.sort(Enum.uniq(picked)) == Enum.sort(channels)
  end

  test "any other policy is made into a module by use" do
    defmodule PerScheduler do
      use ElixirGrpc, policy: {:round_robin, cursor: :per_scheduler}
    end

    [a, b] = channels = channels([{"a", 1}, {"b", 2}])
    state = init!(PerScheduler, channels)
    assert Enum.sort(Enum.uniq(picks(PerScheduler, state, 100))) == Enum.sort([a, b])
    assert GrpcLb.info(state.balancer).policy == :round_robin

    assert_raise ArgumentError, ~r/unknown policy :fastest/, fn ->
      defmodule Fastest do
        use ElixirGrpc, policy: :fastest
      end
    end
  end

  test "use names the options that it does not take" do
    for {opts, message} <- [
          {[], "option :policy of use GrpcLb.ElixirGrpc is required"},
          {:random, "options of use GrpcLb.ElixirGrpc must be a keyword list, got: :random"},
          {[polcy: :random],
           "unknown option :polcy of use GrpcLb.ElixirGrpc, expected :policy or :values"},
          {[policy: :random, max_requests: 1],
           "option :max_requests of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy module none, please take GrpcLb.ElixirGrpc.Adapter"},
          {[policy: :random, hash_key: {:header, "user-id"}],
           "option :hash_key of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy module none, please take GrpcLb.ElixirGrpc.Adapter"},
          {[policy: {:least_request, choices: 3}],
           "policy {:least_request, [choices: 3]} of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy module none, please take GrpcLb.ElixirGrpc.Adapter"},
          {[policy: {:ring_hash, min_ring_size: 10}],
           "policy {:ring_hash, [min_ring_size: 10]} of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy module none, please take GrpcLb.ElixirGrpc.Adapter"},
          {[policy: {:weighted_round_robin, weights: :reported}],
           "policy {:weighted_round_robin, [weights: :reported]} of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy module none, please take GrpcLb.ElixirGrpc.Adapter"}
        ] do
      error =
        assert_raise ArgumentError, fn ->
          Code.eval_quoted(
            quote do
              defmodule Refused do
                use GrpcLb.ElixirGrpc, unquote(opts)
              end
            end
          )
        end

      assert error.message == message
    end

    defmodule Twice do
      use ElixirGrpc, policy: :random, policy: :round_robin
    end

    assert GrpcLb.info(init!(Twice, channels([{"a", 1}])).balancer).policy == :random
  end

  describe "the backend of a channel" do
    test "has host and port as its id" do
      channels = channels([{"10.0.0.1", 50_051}, {"::1", 50_051}, {{:local, "/run/a.sock"}, 0}])
      state = init!(RoundRobin, channels)
      assert ids(state) == [{"10.0.0.1", 50_051}, {"::1", 50_051}, {{:local, "/run/a.sock"}, 0}]
      {:ok, _state} = RoundRobin.update(state, tl(channels))
      assert ids(state) == [{"::1", 50_051}, {{:local, "/run/a.sock"}, 0}]
      assert picks(RoundRobin, state, 2) == tl(channels)
    end

    test "has its turn for each time that its address is listed" do
      [a, b] = channels([{"a", 1}, {"b", 2}])
      other = %{a | ref: make_ref()}
      state = init!(RoundRobin, [a, b, other, a])
      assert ids(state) == [{"a", 1}, {"b", 2}, {"a", 1, 2}, {"a", 1, 3}]
      assert picks(RoundRobin, state, 5) == [a, b, other, a, a]
      {:ok, _state} = RoundRobin.update(state, [b, b])
      assert picks(RoundRobin, state, 3) == [b, b, b]
    end

    test "is out of the rotation when its connection dies, and back with a new one" do
      pids = [one, two, _three] = [idle(), idle(), idle()]
      [a, b, c] = channels_of_one_connection(["a", "b", "c"], pids)
      state = init!(RoundRobin, [a, b, c])
      assert picks(RoundRobin, state, 3) == [a, b, c]
      kill([two])
      eventually(fn -> b not in picks(RoundRobin, state, 3) end)

      again = %{b | adapter_payload: %{conn_pid: idle()}}
      {:ok, _state} = RoundRobin.update(state, [a, again, c])
      assert picks(RoundRobin, state, 3) == [a, again, c]

      kill([one])
      eventually(fn -> a not in picks(RoundRobin, state, 3) end)
      assert again in picks(RoundRobin, state, 3)
    end

    test "has no owner when its connection is none, or is elsewhere" do
      for payload <- [nil, %{}, %{conn_pid: nil}, %{conn_pid: remote_pid()}, [conn_pid: self()]] do
        channel = %GRPC.Channel{host: "a", port: 1, adapter_payload: payload}
        assert picks(RoundRobin, init!(RoundRobin, [channel]), 2) == [channel, channel]
      end
    end
  end

  describe "the channel that a pick returns" do
    test "is not copied" do
      channels = channels_of_one_connection(["a", "b"], [idle(), idle()])
      state = init!(RoundRobin, channels)
      before = picks(RoundRobin, state, 2)
      {:ok, _state} = RoundRobin.update(state, Enum.reverse(channels))
      again = picks(RoundRobin, state, 2)
      assert again == Enum.reverse(channels)

      for {one, other} <- Enum.zip(before, Enum.reverse(again)),
          do: assert(:erts_debug.same(one, other))
    end

    test "is copied where that is wanted" do
      channels = channels_of_one_connection(["a", "b"], [idle(), idle()])
      state = init!(Copying, channels)
      assert [one, other, again, _] = picks(Copying, state, 4)
      assert [one, other] == channels
      assert again == one and not :erts_debug.same(again, one)
    end

    test "is whole, whatever it is" do
      [a, b] = channels_of_one_connection(["a", "b"], [idle(), idle()])
      state = init!(RoundRobin, [a])

      odd = [
        %{b | headers: []},
        %{b | headers: [{"x-tries", 1.0}]},
        %{b | ref: make_ref()},
        %{b | cred: nil},
        %{b | adapter_payload: nil},
        %{b | adapter_payload: %{conn_pid: self(), stream: 1}},
        Map.put(b, :extra, 1),
        Map.delete(b, :codec),
        Map.from_struct(b),
        %Endpoint{host: "b", port: 1}
      ]

      {:ok, _state} = RoundRobin.update(state, odd)
      assert picks(RoundRobin, state, length(odd)) === odd
    end

    test "is equal to the one that was given, whatever that is" do
      for seed <- 1..300 do
        :rand.seed(:exsss, seed)
        first = odd_channels(Enum.random(1..6))
        state = init!(RoundRobin, first)
        assert picks(RoundRobin, state, length(first)) === first, "seed #{seed}"

        for _ <- 1..3 do
          next = Enum.shuffle(Enum.take_random(first, 3) ++ odd_channels(Enum.random(0..6)))
          {:ok, ^state} = RoundRobin.update(state, next)

          case next do
            [] -> assert RoundRobin.pick(state) == {:error, :no_addresses}
            _ -> assert picks(RoundRobin, state, length(next)) === next, "seed #{seed}"
          end
        end
      end
    end
  end

  # Mostly channels of one connection, with something odd about some of them.
  defp odd_channels(count) do
    for _ <- 1..count//1 do
      [channel] = channels_of_one_connection([odd(:host)], [self()])
      channel = %{channel | port: odd(:port)}

      case :rand.uniform(10) do
        1 -> %{channel | adapter_payload: odd(:payload)}
        2 -> %{channel | cred: odd(:payload), headers: [{"a", odd(:port)}]}
        3 -> Map.delete(channel, Enum.random(Map.keys(channel)))
        4 -> Map.put(channel, odd(:host), odd(:payload))
        5 -> Map.from_struct(channel)
        6 -> %Endpoint{host: odd(:host), port: odd(:port)}
        7 -> %{channel | ref: make_ref()}
        _usual -> channel
      end
    end
  end

  defp odd(:host) do
    Enum.random(["a", "b", "::1", {:local, "/run/a.sock"}, nil, :localhost, {127, 0, 0, 1}])
  end

  defp odd(:port), do: Enum.random([0, 1, 1.0, 50_051, nil, "50051", -1, 1.0e300, 2 ** 70])

  defp odd(:payload) do
    Enum.random([
      nil,
      %{},
      %{conn_pid: nil},
      %{conn_pid: remote_pid()},
      %{conn_pid: self(), conn_ref: make_ref()},
      %Endpoint{host: self()},
      [conn_pid: self()],
      fn -> :ok end
    ])
  end

  # Of a node that this one has never met, in the external term format.
  defp remote_pid do
    :erlang.binary_to_term(<<131, 88, 119, 5, "there", 7::32, 0::32, 1::32>>)
  end

  describe "when the process that called init ends" do
    test "there are no channels, and updates are refused" do
      for policy <- @policies, reason <- [:normal, :shutdown, :kill] do
        test = self()

        connection =
          spawn(fn ->
            send(test, {:state, init!(policy, [%GRPC.Channel{host: "a"}])})

            receive do
              :end -> exit(reason)
            end
          end)

        assert_receive {:state, state}, 10_000
        assert {:ok, %GRPC.Channel{host: "a"}, ^state} = policy.pick(state)
        send(connection, :end)
        eventually(fn -> policy.pick(state) == {:error, :no_addresses} end)
        assert policy.update(state, [%GRPC.Channel{host: "b"}]) == {:error, :closed}
        assert policy.pick(state) == {:error, :no_addresses}
      end
    end

    test "nothing leaks, though channels carry the balancer's reference" do
      peer = Peer.start()
      Peer.run(peer, Peer.Connections, :killed_cycles)

      eventually(fn ->
        Peer.run(peer, Peer.Leaks, :inventory).counts == %{
          balancers: 0,
          snapshots: 0,
          values: 0,
          slots: 0,
          tickets: 0
        }
      end)
    end
  end

  describe "values" do
    test "are what init/1 says, and else what the module says" do
      list = channels([{"a", 1}])
      interned? = fn {:ok, state} -> GrpcLb.Native.summary(state.balancer).interned end

      for policy <- @policies do
        assert interned?.(policy.init(channels: list))
        refute interned?.(policy.init(channels: list, values: :copied))

        assert_raise ArgumentError, ~r/^option :values must be/, fn ->
          policy.init(channels: list, values: :shared)
        end
      end

      refute interned?.(Copying.init(channels: list))
      assert interned?.(Copying.init(channels: list, values: :interned))
    end
  end

  describe "concurrently" do
    @describetag :concurrency

    test "16 processes x 250 picks differ by at most 1" do
      state = init!(RoundRobin, channels(for port <- 1..3, do: {"a", port}))

      counts =
        16
        |> together(fn _ -> picks(RoundRobin, state, 250) end)
        |> List.flatten()
        |> Enum.frequencies()

      assert counts |> Map.values() |> Enum.sort() == [1333, 1333, 1334]
    end

    test "50 pickers x 100 picks while the connection is killed" do
      for _ <- 1..20 do
        test = self()
        [channel] = channels([{"a", 1}])
        connection = spawn(fn -> hold(test, init!(RoundRobin, [channel])) end)
        assert_receive {:state, state}, 10_000

        kill_it = fn ->
          kill([connection])
          eventually(fn -> RoundRobin.pick(state) == {:error, :no_addresses} end)
        end

        for seen <- picking_during(50, fn -> RoundRobin.pick(state) end, kill_it) do
          results = for {_phase, result} <- seen, do: result
          assert Enum.dedup(results) == [{:ok, channel, state}, {:error, :no_addresses}]
          refute {:after, {:ok, channel, state}} in seen
        end
      end
    end

    test "30 pickers x 200 picks while 8 channels shrink to 2" do
      all = channels_of_one_connection(for(i <- 1..8, do: "host#{i}"), List.duplicate(self(), 8))
      # With what init is given below, some are kept in each of the three ways.
      all = List.update_at(all, 0, &%{&1 | headers: []})

      for _ <- 1..20 do
        state = init!(RoundRobin, Enum.drop(all, 2))
        {:ok, _state} = RoundRobin.update(state, all)

        pick = fn ->
          {:ok, channel, ^state} = RoundRobin.pick(state)
          channel
        end

        shrink = fn -> {:ok, ^state} = RoundRobin.update(state, Enum.take(all, 2)) end
        seen = seen_during(30, pick, shrink, 200)

        assert Enum.sort(for {:before, channel} <- seen, do: channel) == Enum.sort(all)
        assert Enum.sort(for {:after, c} <- seen, do: c) == Enum.sort(Enum.take(all, 2))
      end
    end

    defp hold(test, state) do
      send(test, {:state, state})
      Process.sleep(:infinity)
    end
  end
end
