defmodule GrpcLb.Resolver.DNS.SearchTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.Search

  doctest Search

  @absent {:error, :nxdomain}
  @empty {:error, :no_addresses}
  @servfail {:error, :servfail}
  @refused {:error, :refused}
  @timeout {:error, :timeout}

  # What is asked for, and what comes of it, by the answers in order. "d" is the name as it is.
  @table [
    # As it is last.
    {~w(a b d), [@absent, {:ok, 1}], ~w(a b), {:ok, 1}},
    {~w(a b d), [@servfail, {:ok, 1}], ~w(a b), {:ok, 1}},
    {~w(a b d), [@servfail, @absent, {:ok, 1}], ~w(a b d), {:ok, 1}},
    {~w(a b d), [@refused, {:ok, 1}], ~w(a d), {:ok, 1}},
    {~w(a b d), [@timeout, @absent], ~w(a d), @timeout},
    {~w(a b d), [@absent, @absent, @absent], ~w(a b d), @absent},
    {~w(a b d), [@absent, @empty, @absent], ~w(a b d), @empty},
    {~w(a b d), [@absent, @servfail, @empty], ~w(a b d), @servfail},
    {~w(a b d), [@absent, @servfail, @refused], ~w(a b d), @servfail},
    # As it is first.
    {~w(d a b), [@absent, @absent, {:ok, 1}], ~w(d a b), {:ok, 1}},
    {~w(d a b), [@refused, @absent, {:ok, 1}], ~w(d a b), {:ok, 1}},
    {~w(d a b), [@absent, @refused], ~w(d a), @refused},
    {~w(d a b), [@absent, @empty, @absent], ~w(d a b), @absent},
    {~w(d a b), [@empty, @absent, @absent], ~w(d a b), @empty},
    {~w(d a b), [@absent, @absent, @servfail], ~w(d a b), @servfail},
    # Nothing that could be asked for.
    {[], [], [], @absent},
    {~w(a), [@servfail], ~w(a), @servfail}
  ]

  test "goes on and ends, and says what glibc says, but that failures go before absences" do
    for {names, answers, asked, result} <- @table do
      test = self()
      {:ok, script} = Agent.start_link(fn -> answers end)

      ask = fn name ->
        send(test, {:asked, name})
        {Agent.get_and_update(script, fn [answer | answers] -> {answer, answers} end), name}
      end

      more = if match?({:ok, _}, result), do: List.last(asked)
      assert {names, answers, Search.first(names, "d", ask)} == {names, answers, {result, more}}
      assert {names, answers, received()} == {names, answers, asked}
    end
  end

  defp received do
    receive do
      {:asked, name} -> [name | received()]
    after
      0 -> []
    end
  end
end
