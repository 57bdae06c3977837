defmodule GrpcLb.Pool.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Pool.Options
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
             worker: nil,
             max_restarts: 3,
             max_seconds: 5,
             scope: :node,
             local_share: nil
           } = Options.validate!(name: MyPool)
  end

  test "what is wrong is named, with what is allowed and what was given" do
    for {opts, message} <- [
          {:opts, ~r/options of a pool must be a keyword list, got: :opts/},
          {[], ~r/option :name of a pool is required/},
          {[size: 1], ~r/option :name of a pool is required/},
          {[name: nil], ~r/:name of a pool must be an atom other than .* got: nil/},
          {[name: :undefined], ~r/:name/},
          {[name: {:via, Registry, 1}], ~r/:name/},
          {[nmae: A, name: A], ~r/unknown option :nmae of a pool, allowed are :name, :policy/},
          {[child_spec: 1, name: A], ~r/unknown option :child_spec/},
          {[name: A, policy: :best], ~r/unknown policy :best/},
          {[name: A, policy: {:random, x: 1}], ~r/unknown option :x of :random/},
          {[name: A, size: -1], ~r/:size of a pool must be a non-negative integer, got: -1/},
          {[name: A, size: 1.0], ~r/:size/},
          {[name: A, size: 1], ~r/:worker of a pool is required with a :size/},
          {[name: A, size: 1, worker: 7], ~r/:worker of a pool must be a child spec.* got: 7/},
          {[name: A, size: 1, name: B], ~r/:name of a pool is given twice/},
          {[name: :"#{String.duplicate("n", 237)}", scope: :cluster],
           ~r/:name of a pool with scope: :cluster must be .* at most 236 characters/},
          {[name: A, worker: Raising], ~r/:worker .*Raising .*no such key/},
          {[name: A, worker: NoSuchModule], ~r/:worker .*NoSuchModule/},
          {[name: A, worker: %{id: 1}], ~r/:worker .*start/},
          {[name: A, max_restarts: -1], ~r/:max_restarts/},
          {[name: A, max_seconds: 0], ~r/:max_seconds/},
          {[name: A, scope: :planet],
           ~r/:scope of a pool must be :node or :cluster, got: :planet/},
          {[name: A, scope: :cluster, prefer: :remote], ~r/:prefer/},
          {[name: A, scope: :cluster, local_share: 1.1],
           ~r/:local_share .* from 0 to 1, got: 1.1/},
          {[name: A, scope: :cluster, local_share: -0.1], ~r/:local_share/},
          {[name: A, prefer: :local], ~r/need scope: :cluster/},
          {[name: A, local_share: 0.5], ~r/need scope: :cluster/}
        ] do
      assert_raise ArgumentError, message, fn -> Options.validate!(opts) end
      assert_raise ArgumentError, message, fn -> apply(GrpcLb.Pool, :start_link, [opts]) end
      assert_raise ArgumentError, message, fn -> apply(GrpcLb.Pool, :child_spec, [opts]) end
    end
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
    spec = fn worker -> Options.validate!(name: A, size: 1, worker: worker).child_spec end
    assert %{id: Agent} = spec.({Agent, fn -> 1 end})
    assert %{id: Task.Supervisor} = spec.(Task.Supervisor)
    assert %{id: 1} = spec.(%{id: 1, start: {Agent, :start_link, [fn -> 1 end]}})
  end

  test "every option is documented" do
    documented = for [_, option] <- Regex.scan(~r/^  \* `:(\w+)`/m, Options.docs()), do: option
    fields = %Options{name: A} |> Map.from_struct() |> Map.delete(:child_spec) |> Map.keys()
    assert Enum.sort(documented) == Enum.sort(Enum.map(fields, &Atom.to_string/1))
  end
end
