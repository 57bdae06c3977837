defmodule GrpcLb.Pool.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Pool.Options
  alias GrpcLb.Settings
  alias GrpcLb.Test.Peer
  alias GrpcLb.Test.Peer.PoolNode

  defmodule Raising do
    def child_spec(_arg), do: raise(KeyError, message: "no such key")
  end

  test "defaults" do
    assert %Options{
             name: MyPool,
             policy: :round_robin,
             size: 0,
             workers: [],
             max_restarts: 3,
             max_seconds: 5,
             scope: :node,
             local_share: nil,
             settings: [remember: 60_000]
           } = Options.validate!(name: MyPool)
  end

  test "in a cluster, where many have one list, a rotation begins anywhere" do
    for {given, policy} <- [
          {:round_robin, {:round_robin, start: :random}},
          {{:round_robin, cursor: :per_scheduler},
           {:round_robin, start: :random, cursor: :per_scheduler}},
          {{:round_robin, start: :first}, {:round_robin, start: :first}},
          {:random, :random}
        ] do
      assert Options.validate!(name: A, scope: :cluster, policy: given).policy == policy
      assert Options.validate!(name: A, policy: given).policy == given
    end
  end

  test "what is wrong is named, with what is allowed and what was given" do
    for {opts, message} <- [
          {:opts, ~r/options of a pool must be a keyword list, got: :opts/},
          {[], ~r/option :name of a pool is required/},
          {[size: 1], ~r/option :name of a pool is required/},
          {[name: nil], ~r/:name of a pool must be an atom other than .* got: nil/},
          {[name: :undefined], ~r/:name/},
          {[name: {:via, Registry, 1}], ~r/:name/},
          {[nmae: A, name: A], ~r/unknown option :nmae of a pool, expected :name or :policy/},
          {[child_spec: 1, name: A], ~r/unknown option :child_spec/},
          {[name: A, policy: :best], ~r/unknown policy :best/},
          {[name: A, policy: {:random, x: 1}], ~r/unknown option :x of :random/},
          {[name: A, policy: {:least_request, choices: 1}],
           ~r/option :choices of :least_request/},
          {[name: A, max_requests: -1],
           ~r/option :max_requests must be an integer from 0 to .*, or nil, got: -1/},
          {[name: A, policy: {:weighted_round_robin, weights: :reported, reports: :out_of_band}],
           ~r/option :reports of :weighted_round_robin must be :per_call in a pool/},
          {[name: A, panic_threshold: 101], ~r/option :panic_threshold must be .* got: 101/},
          {[name: A, slow_start: [window: 1]],
           ~r/:slow_start goes with .* got it with :round_robin/},
          {[name: A, outlier_detection: [consecutive_transport_failures: nil]],
           ~r/:outlier_detection must have :success_rate/},
          {[name: A, owner: self()], ~r/unknown option :owner of a pool, expected .*:slow_start/},
          {[name: A, on_owner_death: :keep], ~r/unknown option :on_owner_death of a pool/},
          {[name: A, settings: []], ~r/unknown option :settings of a pool/},
          {[name: A, size: -1], ~r/:size of a pool must be an integer from 0, or nil, got: -1/},
          {[name: A, size: 1.0], ~r/:size/},
          {[name: A, size: 1], ~r/:worker of a pool is required with a :size/},
          {[name: A, size: 1, worker: 7], ~r/:worker of a pool must be a child spec.* got: 7/},
          {[name: :"#{String.duplicate("n", 237)}", scope: :cluster],
           ~r/:name of a pool with scope: :cluster must be .* at most 236 characters/},
          {[name: A, worker: Agent], ~r/option :size of a pool is required with a :worker/},
          {[name: A, workers: Agent], ~r/:workers of a pool must be a list of child specs/},
          {[name: A, workers: [Agent | Agent]], ~r/:workers/},
          {[name: A, workers: [Agent, 7]], ~r/:workers .*worker 2 is no child spec/},
          {[name: A, workers: [Raising]], ~r/:workers .*worker 1: no such key/},
          {[name: A, workers: [], size: 1], ~r/:workers .* takes the place .* with :size/},
          {[name: A, workers: [], size: 1, worker: Agent], ~r/:workers .* with :worker/},
          {[name: A, worker: Raising], ~r/:worker .*Raising .*no such key/},
          {[name: A, worker: NoSuchModule], ~r/:worker .*NoSuchModule/},
          {[name: A, worker: %{id: 1}], ~r/:worker .*start/},
          {[name: A, max_restarts: -1], ~r/:max_restarts/},
          {[name: A, max_seconds: 0], ~r/:max_seconds/},
          {[name: A, scope: :planet],
           ~r/:scope of a pool must be :node or :cluster, got: :planet/},
          {[name: A, scope: :cluster, prefer: :remote], ~r/:prefer/},
          {[name: A, scope: :cluster, local_share: 1.1],
           ~r/:local_share .* from 0 to 1, or nil, got: 1.1/},
          {[name: A, scope: :cluster, local_share: -0.1], ~r/:local_share/},
          {[name: A, prefer: :local],
           ~r/:prefer of a pool is for scope: :cluster only, got it with scope: :node/},
          {[name: A, local_share: 0.5], ~r/:local_share of a pool is for scope: :cluster only/}
        ] do
      assert_raise ArgumentError, message, fn -> Options.validate!(opts) end
      assert_raise ArgumentError, message, fn -> apply(GrpcLb.Pool, :start_link, [opts]) end
      assert_raise ArgumentError, message, fn -> apply(GrpcLb.Pool, :child_spec, [opts]) end
    end
  end

  test "a worker's argument is not shown" do
    for worker <- [
          {Raising, token: "secret"},
          {"no module", "secret"},
          %{id: 1, start: {Agent, "secret"}},
          "secret"
        ] do
      opts = [name: A, size: 1, worker: worker]
      error = assert_raise ArgumentError, fn -> Options.validate!(opts) end
      assert error.message =~ "option :worker of a pool must be a child spec"
      refute error.message =~ "secret"
    end

    opts = [
      name: A,
      workers: [{Agent, fn -> 1 end}, {Raising, token: "secret"}, {"no", "secret"}]
    ]

    error = assert_raise ArgumentError, fn -> Options.validate!(opts) end
    refute error.message =~ "secret"

    # Out of a binary, so that the compiler does not see what is wrong.
    no_list = :erlang.binary_to_term(:erlang.term_to_binary(%{worker: "secret"}))
    error = assert_raise ArgumentError, fn -> Options.validate!(no_list) end
    assert error.message =~ "options of a pool must be a keyword list"
    refute error.message =~ "secret"
  end

  test "a member has a value and a weight" do
    assert Options.member!(self(), []) == {self(), self(), 1}
    assert Options.member!(self(), value: nil, weight: 2) == {self(), nil, 2}
    assert Options.member!(self(), value: 1, value: 2) == {self(), 1, 1}

    for {opts, message} <- [
          {:none, "options of a member must be a keyword list, got: :none"},
          {[wieght: 1], "unknown option :wieght of a member, expected :value or :weight"},
          {[weight: -1],
           "option :weight of a member must be an integer from 0 to 4294967295, got: -1"}
        ] do
      error = assert_raise ArgumentError, fn -> Options.member!(self(), opts) end
      assert error.message == message
    end
  end

  test "takes the first of an option that is given twice" do
    opts = [name: A, max_requests: 1, max_restarts: 2, name: B, max_requests: 5, max_restarts: 6]
    options = Options.validate!(opts)
    assert {options.name, options.max_restarts} == {A, 2}
    assert options.settings[:max_requests] == 1
  end

  test "reports come with calls" do
    policy = {:weighted_round_robin, weights: :reported}
    assert Options.validate!(name: A, policy: policy).policy == policy
  end

  test "the longest name of a pool in a cluster" do
    name = :"#{String.duplicate("n", 236)}"
    start_supervised!({GrpcLb.Pool, name: name, scope: :cluster})
    assert GrpcLb.Pool.join(name) == :ok
  end

  test "a cluster needs a :pg that can be monitored" do
    # In a VM of its own: one whose :pg is that of OTP 24.
    peer = Peer.start()
    assert Peer.run(peer, PoolNode, :raised_with_old_pg, []) =~ ~r/:scope .* before OTP 25.1/
  end

  test "a preference is a share of the picks" do
    share = fn opts -> Options.validate!([name: A, scope: :cluster] ++ opts).local_share end
    assert share.([]) == nil
    assert share.(prefer: :local) == 1
    assert share.(local_share: 0) == 0
    assert share.(local_share: 0.5) == 0.5
    assert share.(prefer: :local, local_share: 0.5) == 0.5
  end

  test "a worker is any child spec" do
    agent = {Agent, fn -> 1 end}
    map = %{id: 1, start: {Agent, :start_link, [fn -> 1 end]}}

    for {worker, id} <- [{agent, Agent}, {Task.Supervisor, Task.Supervisor}, {map, 1}] do
      options = Options.validate!(name: A, size: 2, worker: worker)
      assert [%{id: {^id, 1}}, %{id: {^id, 2}}] = options.workers
      assert options.size == 2
    end

    options = Options.validate!(name: A, workers: [agent, map, agent])
    assert [%{id: {Agent, 1}}, %{id: {1, 2}}, %{id: {Agent, 3}}] = options.workers
    assert options.size == 3
    assert Options.validate!(name: A, size: 0, worker: agent).workers == []
  end

  test "every option is documented" do
    documented = for [_, option] <- Regex.scan(~r/^  \* `:(\w+)`/m, Options.docs()), do: option
    fields = Map.keys(Map.from_struct(%Options{name: A})) -- [:settings]
    expected = [:worker, :prefer] ++ fields ++ Keyword.keys(Settings.balancer_options())
    assert Enum.sort(documented) == expected |> Enum.map(&Atom.to_string/1) |> Enum.sort()
  end
end
