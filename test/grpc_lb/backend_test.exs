defmodule GrpcLb.BackendTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Backend

  test "takes every state, and none" do
    for state <- [:ready, :connecting, :transient_failure, :draining, nil] do
      assert [_backend] = GrpcLb.Backend.to_native([{:a, 1, state: state}])

      assert [_backend] =
               GrpcLb.Backend.to_native([%GrpcLb.Backend{id: 1, value: 1, state: state}])
    end
  end

  test "documents every option" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(GrpcLb.Backend)
    for {option, _spec} <- GrpcLb.Backend.options(), do: assert(doc =~ "  * `#{inspect(option)}`")
  end

  test "takes the first of an option that is given twice" do
    assert GrpcLb.Backend.to_native([{:a, 1, weight: 2, owner: self(), weight: 3, owner: nil}]) ==
             [
               {:a, 1,
                %{
                  owner: self(),
                  weight: 2,
                  priority: 0,
                  locality: nil,
                  state: nil,
                  hash_key: nil
                }}
             ]
  end
end
