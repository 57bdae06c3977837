defmodule GrpcLb.Pool.RouteTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Workers, only: [together: 2]

  alias GrpcLb.Pool.Route

  defp route(share, local, remote) do
    {:ok, here} = GrpcLb.new(:round_robin, local)
    {:ok, elsewhere} = GrpcLb.new(:round_robin, remote)
    {here, elsewhere, Route.new(here, elsewhere, share)}
  end

  defp picks(route, n), do: for(_ <- 1..n, {:ok, value} = Route.pick(route), do: value)

  test "without a preference it is the balancer itself" do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a])
    assert Route.new(lb, lb, nil) == lb
    assert Route.pick(lb) == {:ok, :a}
  end

  test "a share of 1 picks local members while there are any" do
    {local, remote, route} = route(1, [:l1, :l2], [:r])
    assert picks(route, 4) == [:l1, :l2, :l1, :l2]
    GrpcLb.remove(local, [:l1, :l2])
    assert picks(route, 2) == [:r, :r]
    GrpcLb.remove(remote, [:r])
    assert Route.pick(route) == {:error, :no_backends}
    GrpcLb.add(local, [:l3])
    assert picks(route, 1) == [:l3]
    assert Route.new(local, remote, 1.0) == Route.new(local, remote, 1)
  end

  test "a share of 0 picks remote members while there are any" do
    {local, remote, route} = route(0, [:l], [:r])
    assert picks(route, 10) == List.duplicate(:r, 10)
    GrpcLb.remove(remote, [:r])
    assert picks(route, 2) == [:l, :l]
    GrpcLb.close(local)
    assert Route.pick(route) == {:error, :closed}
  end

  test "a share is exact over any run of picks, give or take one" do
    for share <- [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.8, 0.99, 1.0] do
      {_local, _remote, route} = route(share, [:l], [:r])
      picks = picks(route, 500)

      for from <- [0, 1, 7, 100], n <- [10, 33, 400] do
        local = picks |> Enum.slice(from, n) |> Enum.count(&(&1 == :l))
        assert_in_delta local, n * share, 1 + 1.0e-6
      end
    end
  end

  test "with one side empty the other gets all" do
    {_local, _remote, route} = route(0.5, [], [:r])
    assert picks(route, 10) == List.duplicate(:r, 10)
    {_local, _remote, route} = route(0.5, [:l], [])
    assert picks(route, 10) == List.duplicate(:l, 10)
  end

  test "a checkout goes where a pick goes" do
    checkouts = fn route, n ->
      for _ <- 1..n do
        {:ok, value, ticket} = Route.checkout(route)
        :ok = GrpcLb.complete(ticket, :ok)
        value
      end
    end

    {:ok, lb} = GrpcLb.new(:round_robin, [:a])
    assert {:ok, :a, _ticket} = Route.checkout(lb)
    {local, remote, route} = route(1, [:l1, :l2], [:r])
    assert checkouts.(route, 4) == [:l1, :l2, :l1, :l2]
    GrpcLb.remove(local, [:l1, :l2])
    assert checkouts.(route, 2) == [:r, :r]
    GrpcLb.remove(remote, [:r])
    assert Route.checkout(route) == {:error, :no_backends}
    GrpcLb.close(remote)
    assert Route.checkout(route) == {:error, :closed}
    {_local, _remote, route} = route(0.75, [:l], [:r])
    assert Enum.frequencies(checkouts.(route, 400)) == %{l: 300, r: 100}
  end

  test "what is full on one side is looked for on the other" do
    {:ok, here} = GrpcLb.new(:round_robin, [:l], max_requests_per_backend: 1)
    {:ok, elsewhere} = GrpcLb.new(:round_robin, [:r], max_requests: 1)
    route = Route.new(here, elsewhere, 1)
    assert {:ok, :l, local} = Route.checkout(route)
    assert {:ok, :r, remote} = Route.checkout(route)
    assert Route.checkout(route) == {:error, :overloaded}
    assert Route.checkout(Route.new(here, elsewhere, 0)) == {:error, :overloaded}
    GrpcLb.complete(local, :ok)
    assert {:ok, :l, _ticket} = Route.checkout(route)
    GrpcLb.complete(remote, :ok)
    # Full on one side, and nobody on the other.
    GrpcLb.remove(elsewhere, [:r])
    assert Route.checkout(route) == {:error, :overloaded}
    assert Route.checkout(Route.new(here, elsewhere, 0)) == {:error, :overloaded}
    assert Route.pick(route) == {:ok, :l}
  end

  @tag :concurrency
  test "a share is exact over all callers together" do
    {_local, _remote, route} = route(0.75, [:l], [:r])
    picks = 8 |> together(fn _ -> picks(route, 1_000) end) |> List.flatten()
    assert_in_delta Enum.count(picks, &(&1 == :l)), 6_000, 1
  end
end
