defmodule GrpcLb.ResolverTest do
  use ExUnit.Case, async: true

  alias GrpcLb.{Address, Resolver}
  alias GrpcLb.Resolver.{DNS, Static}
  alias GrpcLb.Test.Peer

  doctest Resolver

  defmodule Shards do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(target, opts), do: {:error, {:called_with, target, opts}}
  end

  defmodule Strict do
    @behaviour GrpcLb.Resolver

    @impl true
    def validate!({:shard, _n}, _opts), do: :ok
    def validate!(target, _opts), do: raise(ArgumentError, "no shard: #{inspect(target)}")

    @impl true
    def resolve(_target, _opts), do: {:error, :empty}
  end

  describe "for_target" do
    test "finds the resolver of the target's scheme" do
      for {target, module} <- [
            {"a.example:1", DNS},
            {"dns:///a.example", DNS},
            {"ipv4:10.0.0.1:1", Static},
            {"ipv6:[::1]:1", Static},
            {"unix:/a", Static},
            {"static:10.0.0.1:1", Static},
            {{:static, ["10.0.0.1:1"]}, Static}
          ] do
        assert Resolver.for_target(target) == {module, []}
        assert Resolver.for_target(target, nil) == {module, []}
      end
    end

    test "refuses a target of no scheme that it knows" do
      for target <- ["xds:///a", {:shard, 3}, nil] do
        assert_raise ArgumentError, ~r/expected one of "dns:/, fn ->
          Resolver.for_target(target)
        end
      end
    end

    test "leaves the target of a resolver that is named to that resolver, whatever it is" do
      for target <- [{:shard, 3}, "xds:///a", "dns:///a.example", "%%%", nil, make_ref()] do
        {module, opts} = Resolver.for_target(target, {Shards, region: :eu})
        assert module.resolve(target, opts) == {:error, {:called_with, target, [region: :eu]}}

        assert Resolver.for_target(target, Shards) == {Shards, []}
      end
    end

    test "has a resolver with validate! check target and options" do
      assert Resolver.for_target({:shard, 3}, Strict) == {Strict, []}

      assert_raise ArgumentError, "no shard: 3", fn -> Resolver.for_target(3, Strict) end

      assert_raise ArgumentError, ~r/option :srv .* must be false or true, got: 1/, fn ->
        Resolver.for_target("a.example", {DNS, srv: 1})
      end

      assert_raise ArgumentError, ~r/targets of the scheme dns/, fn ->
        Resolver.for_target("unix:/a", DNS)
      end
    end

    test "loads the resolver" do
      assert Peer.run(Peer.start(), Resolver, :for_target, ["ipv4:10.0.0.1", Static]) ==
               {Static, []}
    end

    test "refuses what is no resolver" do
      for resolver <- [
            NoSuchModule,
            String,
            "Shards",
            {String, []},
            {Shards, [], []},
            1,
            [Shards]
          ] do
        assert_raise ArgumentError, ~r/option :resolver must be a module/, fn ->
          Resolver.for_target("a.example", resolver)
        end
      end

      for opts <- [:a, [:a], %{a: 1}, nil] do
        assert_raise ArgumentError, ~r/options of .*Shards must be a keyword list/, fn ->
          Resolver.for_target("a.example", {Shards, opts})
        end
      end
    end
  end

  describe "check" do
    test "returns results as they are" do
      address = Address.new!("10.0.0.1:1")

      for result <- [
            {:ok, %{addresses: [], ttl: nil}},
            {:ok, %{addresses: [address], ttl: 0}},
            {:ok, %{addresses: [address], ttl: :infinity}},
            {:ok, %{addresses: [address, address], ttl: 30}},
            {:error, :nxdomain},
            {:error, {:any, "thing"}}
          ] do
        assert Resolver.check(result) == result
      end
    end

    test "makes an error of everything else" do
      address = Address.new!("10.0.0.1:1")

      for term <- [
            nil,
            :ok,
            {:ok, [address]},
            {:ok, %{addresses: [address]}},
            {:ok, %{addresses: address, ttl: nil}},
            {:ok, %{addresses: [address | :more], ttl: nil}},
            {:ok, %{addresses: [%{address | weight: 0}], ttl: nil}},
            {:ok, %{addresses: [%{address: "10.0.0.1", port: 1}], ttl: nil}},
            {:ok, %{addresses: [address], ttl: -1}},
            {:ok, %{addresses: [address], ttl: :never}},
            {:ok, %{addresses: [address], ttl: 1.5}},
            {:error, :a, :b}
          ] do
        assert Resolver.check(term) == {:error, {:bad_resolution, term}}
      end
    end
  end
end
