defmodule GrpcLb.Resolver.DNS.AnswerTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.Answer

  doctest Answer

  test "a failure anywhere says more than an absence, and the first failure says it" do
    absent = [{:error, :nxdomain}, {:error, :no_addresses}]
    failed = [{:error, :servfail}, {:error, :timeout}]

    assert Answer.merge(absent) == {:error, :nxdomain}
    assert Answer.merge(absent ++ failed) == {:error, :servfail}
    assert Answer.merge(failed ++ absent) == {:error, :servfail}
    assert Answer.merge(failed ++ [{:ok, [:a], 9}]) == {:ok, [:a], 0}
    assert Answer.merge(absent ++ [{:ok, [:a], 9}]) == {:ok, [:a], 9}
  end
end
