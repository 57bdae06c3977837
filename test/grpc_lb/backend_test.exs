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

  describe "what looks like a backend and is no form of one" do
    for form <- [
          quote(do: %{id: :a, value: 1}),
          quote(do: %{id: :a}),
          quote(do: %{"id" => "a", "value" => 1}),
          quote(do: [id: :a, value: 1]),
          quote(do: [weight: 2, id: :a]),
          quote(do: {"a", 1, 2, 3}),
          quote(do: {:a, 1, [weight: 2], :more, :still})
        ] do
      test "is refused: #{Macro.to_string(form)}" do
        {:ok, lb} = GrpcLb.new(:round_robin, [:a])

        message =
          ~r/^backend 1 must be .* got: .*, which looks like a backend and is none of these/

        for change <- [&GrpcLb.new(:random, &1), &GrpcLb.reconcile(lb, &1), &GrpcLb.add(lb, &1)] do
          assert_raise ArgumentError, message, fn -> change.([:b, unquote(form)]) end
        end

        assert GrpcLb.pick(lb) == {:ok, :a}
        assert GrpcLb.size(lb) == 1

        form = unquote(form)
        bare = %GrpcLb.Backend{id: form, value: form}
        assert {:ok, _changes} = GrpcLb.reconcile(lb, [bare])
        assert GrpcLb.pick(lb) == {:ok, form}
      end
    end

    test "is none of these: other maps and lists, structs, short tuples, numbers" do
      for value <- [%{host: "a"}, [host: "a"], [], {}, {:a}, ~D[2024-01-01], 1, 1..2, "id", :id] do
        assert GrpcLb.Backend.to_native([value]) == [{value, value}]
      end
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
