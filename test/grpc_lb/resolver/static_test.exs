defmodule GrpcLb.Resolver.StaticTest do
  use ExUnit.Case, async: true

  alias GrpcLb.{Address, Resolver, Target}
  alias GrpcLb.Resolver.Static

  doctest Static

  test "returns the addresses of the target, in its order and for good" do
    for target <- [
          "ipv4:10.0.0.2:1,10.0.0.1:1",
          "ipv6:[::1]:1",
          "unix:///run/app.sock",
          "static:10.0.0.1:1,unix:/run/app.sock",
          {:static, [%Address{ip: {10, 0, 0, 1}, port: 1, weight: 3}, "10.0.0.1:1"]}
        ] do
      {Static, opts} = Resolver.for_target(target)
      result = {:ok, %{addresses: Target.parse!(target).addresses, ttl: :infinity}}

      assert Static.resolve(target, opts) == result
      assert Resolver.check(result) == result
    end
  end

  test "takes no names and no options" do
    assert_raise ArgumentError, ~r/resolves no names/, fn ->
      Resolver.for_target("dns:///a.example", Static)
    end

    assert_raise ArgumentError, ~r/unknown option :ttl/, fn ->
      Resolver.for_target("ipv4:10.0.0.1", {Static, ttl: 5})
    end
  end
end
