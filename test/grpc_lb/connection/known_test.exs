defmodule GrpcLb.Connection.KnownTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address
  alias GrpcLb.Connection.{Known, Plan}

  doctest Known

  @now 1_000

  # "a1" is the first address of the host a, "a6" its one of IPv6.
  defp address(<<host, n>>) do
    ip = if n == ?6, do: {0, 0, 0, 0, 0, 0, host, 6}, else: {10, 0, host, n - ?0}
    %Address{ip: ip, port: 1, host: <<host>>}
  end

  defp addresses(text), do: for(name <- String.split(text), do: address(name))
  defp name(%{ip: ip, host: host}), do: "#{host}#{elem(ip, tuple_size(ip) - 1)}"
  defp names(known), do: Enum.map_join(known.addresses, " ", &name/1)
  defp endpoints(text), do: text |> addresses() |> MapSet.new(&Plan.endpoint/1)

  defp held(known),
    do:
      known.addresses
      |> Enum.filter(&is_map_key(known.held, Plan.endpoint(&1)))
      |> Enum.map_join(" ", &name/1)

  # What is known, what the answer has, what it does not know, what is healthy; what is known then.
  @partial [
    {"", "a1 b1", [], "", "a1 b1"},
    {"a1 b1", "b1 a1", [], "a1 b1", "b1 a1"},
    # Everything is known: what is not there is gone.
    {"a1 b1", "a1", [], "a1 b1", "a1"},
    {"a1 b1", "c1", [], "a1 b1", "c1"},
    # One host.
    {"a1 b1", "a1", [%{host: "b"}], "a1 b1", "a1 b1"},
    {"b1 a1 c1", "a1", [%{host: "b"}], "a1 b1", "a1 b1"},
    {"a1 b1", "a1", [%{host: "B"}], "a1 b1", "a1 b1"},
    {"a1 b1", "a1", [%{host: "b", port: 1}], "", "a1 b1"},
    {"a1 b1", "a1", [%{host: "b", port: 2}], "a1 b1", "a1"},
    # It had nothing that could be kept.
    {"a1", "a1", [%{host: "b"}], "a1", "a1"},
    # One family, and one of a host.
    {"a1 a6", "a1", [%{family: :inet6}], "a1", "a1 a6"},
    {"a1 a6", "a6", [%{family: :inet}], "a1", "a6 a1"},
    {"a1 a6 b6", "a2", [%{host: "a", family: :inet6}], "", "a2 a6"},
    # All.
    {"a1 b1", "", [%{}], "", "a1 b1"},
    {"a1 b1", "c1", [%{}], "", "c1 a1 b1"},
    # Several.
    {"a1 b1 c1 d1", "a1", [%{host: "b"}, %{host: "d"}], "c1", "a1 b1 d1"},
    {"a1 b1", "", [], "a1 b1", ""}
  ]

  test "what is not known stays as it was, and what is known to be gone is gone" do
    for {before, answer, unknown, healthy, expected} = row <- @partial do
      known = %Known{addresses: addresses(before)}
      answer = %{addresses: addresses(answer), ttl: 5, unknown: unknown}
      known = Known.merge(known, answer, nil, endpoints(healthy))
      assert {row, names(known)} == {row, expected}
      assert known.held == %{}
      # The same once more changes nothing.
      assert Known.merge(known, answer, nil, endpoints(healthy)) == known
    end
  end

  # What is known, the result, the option; what that did, and what is known then.
  @results [
    {"", {:ok, "a1", []}, :keep, :ok, "a1"},
    {"a1", {:ok, "b1", []}, :drop, :ok, "b1"},
    {"a1", {:ok, "", []}, :keep, {:kept, :no_addresses}, "a1"},
    {"a1", {:ok, "", []}, :drop, {:dropped, :no_addresses}, ""},
    {"", {:ok, "", []}, :drop, {:failed, :no_addresses}, ""},
    {"", {:ok, "", []}, :keep, {:failed, :no_addresses}, ""},
    {"a1", {:ok, "", [%{}]}, :drop, :ok, "a1"},
    {"a1 b1", {:ok, "", [%{host: "a"}]}, :drop, :ok, "a1"},
    {"", {:ok, "", [%{}]}, :keep, {:failed, :no_addresses}, ""},
    {"a1", {:error, :nxdomain}, :keep, {:kept, :nxdomain}, "a1"},
    {"a1", {:error, :nxdomain}, :drop, {:dropped, :nxdomain}, ""},
    {"a1", {:error, :no_addresses}, :drop, {:dropped, :no_addresses}, ""},
    {"", {:error, :nxdomain}, :drop, {:failed, :nxdomain}, ""},
    {"a1", {:error, :servfail}, :drop, {:kept, :servfail}, "a1"},
    {"a1", {:error, :timeout}, :keep, {:kept, :timeout}, "a1"},
    {"", {:error, :timeout}, :keep, {:failed, :timeout}, ""}
  ]

  test "a failure changes nothing, and an empty answer what the option says" do
    for {before, result, on_empty, did, expected} = row <- @results do
      result =
        with {:ok, text, unknown} <- result,
             do: {:ok, %{addresses: addresses(text), ttl: 5, unknown: unknown}}

      known = %Known{addresses: addresses(before)}
      # What an empty answer drops is not held.
      {told, known} = Known.update(known, result, nil, endpoints(before), on_empty)
      assert {row, told, names(known)} == {row, did, expected}

      if match?({:dropped, _}, did) do
        known = %Known{addresses: addresses(before)}

        assert {^did, %Known{addresses: []}} =
                 Known.update(known, result, @now, endpoints(before), on_empty)
      end
    end
  end

  @hold [
    # Healthy ones are held, others are not.
    {"a1 b1 c1", "a1", [], "a1 b1", "a1 b1", "b1"},
    {"a1 b1", "a1 b1", [], "a1 b1", "a1 b1", ""},
    {"a1 b1", "c1", [], "a1 b1", "c1 a1 b1", "a1 b1"},
    # What is kept is not held: it may stay for longer.
    {"a1 b1", "a1", [%{host: "b"}], "a1 b1", "a1 b1", ""}
  ]

  test "what has vanished is held while it is healthy" do
    for {before, answer, unknown, healthy, expected, held} = row <- @hold do
      known = %Known{addresses: addresses(before)}
      answer = %{addresses: addresses(answer), ttl: 5, unknown: unknown}
      known = Known.merge(known, answer, @now + 10, endpoints(healthy))
      assert {row, names(known), held(known)} == {row, expected, held}
    end
  end

  test "it is held from when it has vanished, and anew when it was there in between" do
    all = endpoints("a1 b1")
    answer = &%{addresses: addresses(&1), ttl: 5}
    known = %Known{} |> Known.merge(answer.("a1 b1"), 5, all)
    assert Known.due(known) == nil
    known = Known.merge(known, answer.("a1"), 10, all)
    assert Known.due(known) == 10
    known = Known.merge(known, answer.("a1"), 20, all)
    assert Known.due(known) == 10
    known = Known.merge(known, answer.("b1"), 30, all)
    assert {names(known), Known.due(known)} == {"b1 a1", 30}
    # An answer for which nothing is held leaves what is.
    known = Known.merge(known, answer.("b1"), nil, all)
    assert {names(known), Known.due(known)} == {"b1 a1", 30}
  end

  test "what an answer holds that is completed is held as by the fuller one" do
    all = endpoints("a1 b1 c1 a6")
    known = Known.merge(%Known{}, %{addresses: addresses("a1 b1 c1"), ttl: 5}, nil, all)
    known = Known.merge(known, %{addresses: addresses("a1 b1"), ttl: 5}, 100, all)
    partial = {:ok, %{addresses: addresses("a1"), ttl: 5, unknown: [%{family: :inet6}]}}
    {:ok, partly} = Known.update(known, partial, 50, all, :keep)
    [b, c] = Enum.map(addresses("b1 c1"), &Plan.endpoint/1)
    assert partly.held == %{b => 50, c => 100}

    full = &{:ok, %{addresses: addresses(&1), ttl: 60}}
    {:ok, known} = Known.complete(partly, full.("a1 a6"), 170, all, :keep)
    # That was left out before.
    assert {names(known), known.held} == {"a1 a6 b1 c1", %{b => 170, c => 100}}
    # And again, with another part.
    {:ok, known} = Known.complete(known, full.("a1 a6"), 180, all, :keep)
    assert known.held == %{b => 180, c => 100}

    # One that holds nothing lets go of it, and one that fails of nothing.
    {:ok, known} = Known.complete(partly, full.("a1"), nil, all, :keep)
    assert {names(known), known.held} == {"a1 c1", %{c => 100}}
    assert Known.complete(partly, {:error, :no}, 170, all, :keep) == {{:kept, :no}, partly}
  end

  test "an answer that knows nothing of what is held does not put off its end" do
    all = endpoints("a1 a6")
    known = Known.merge(%Known{}, %{addresses: addresses("a1 a6"), ttl: 5}, nil, all)
    known = Known.merge(known, %{addresses: addresses("a1"), ttl: 5}, 10, all)
    partial = %{addresses: addresses("a1"), ttl: 5, unknown: [%{family: :inet6}]}
    known = Known.merge(known, partial, 20, all)
    assert {names(known), Known.due(known)} == {"a1 a6", 10}
    known = Known.merge(known, %{addresses: addresses("a1"), ttl: 5}, 30, all)
    assert {names(known), Known.due(known)} == {"a1 a6", 10}
    # As long as it is healthy, or else it is what nothing is known of.
    known = Known.merge(known, partial, 40, endpoints("a1"))
    assert {names(known), Known.due(known)} == {"a1 a6", nil}
  end

  test "what is completed after a failure does not hold longer what was held before" do
    all = endpoints("a1 b1")
    known = Known.merge(%Known{}, %{addresses: addresses("a1 b1"), ttl: 5}, nil, all)
    known = Known.merge(known, %{addresses: addresses("a1"), ttl: 5}, 10, all)
    {{:kept, :no}, known} = Known.update(known, {:error, :no}, nil, all, :keep)
    full = {:ok, %{addresses: addresses("a1"), ttl: 5}}
    {:ok, known} = Known.complete(known, full, 20, all, :keep)
    assert Known.due(known) == 10
  end

  test "it is let go of when its time is over or its transport is not open" do
    known =
      %Known{} |> Known.merge(%{addresses: addresses("a1 b1 c1"), ttl: 5}, nil, MapSet.new())

    known = Known.merge(known, %{addresses: addresses("a1"), ttl: 5}, 10, endpoints("b1 c1"))
    assert Known.release(known, 9, endpoints("b1 c1")) == known
    assert names(Known.release(known, 9, endpoints("c1"))) == "a1 c1"
    assert names(Known.release(known, 10, endpoints("b1 c1"))) == "a1"
    # What the answer has is no concern of this.
    assert Known.release(known, 10, MapSet.new()).held == %{}
  end

  test "what is known under another name now is not held" do
    a = address("a1")

    known =
      Known.merge(
        %Known{addresses: [a]},
        %{addresses: [%{a | host: "b"}], ttl: 5},
        10,
        endpoints("a1")
      )

    assert Enum.map(known.addresses, & &1.host) == ["b"]
    # But what is not known is not known.
    answer = %{addresses: [%{a | host: "b"}], ttl: 5, unknown: [%{host: "a"}]}
    known = Known.merge(%Known{addresses: [a]}, answer, 10, endpoints("a1"))
    assert Enum.map(known.addresses, & &1.host) == ["b", "a"]
  end

  describe "the weight of a part" do
    # Host, weight before or in the answer; the parts, and the weights of all then.
    @weights [
      # Without one, what is kept weighs what it did.
      {[{"b1", 7}], [{"a1", 2}], [%{host: "b"}], [2, 7]},
      {[{"b1", 7}, {"b2", 7}], [{"a1", 2}], [%{host: "b", weight: 6}], [2, 3, 3]},
      {[{"b1", 7}, {"b2", 7}], [{"a1", 1}], [%{host: "b", weight: 1}], [2, 1, 1]},
      # A family of a host, the other of which is known.
      {[{"b6", 7}], [{"b1", 4}, {"a1", 4}], [%{host: "b", family: :inet6, weight: 4}], [2, 4, 2]},
      # Nothing was known of it.
      {[], [{"b1", 4}, {"a1", 4}], [%{host: "b", family: :inet6, weight: 4}], [4, 4]},
      {[], [{"a1", 4}], [%{host: "b", weight: 4}], [4]}
    ]

    test "is shared by the addresses that it has, known or kept" do
      weighted = &for {name, weight} <- &1, do: %{address(name) | weight: weight}

      for {before, answer, unknown, expected} = row <- @weights do
        known = %Known{addresses: weighted.(before)}
        answer = %{addresses: weighted.(answer), ttl: 5, unknown: unknown}
        known = Known.merge(known, answer, nil, MapSet.new())
        assert {row, Enum.map(known.addresses, & &1.weight)} == {row, expected}
        # It does not grow with every answer.
        again = Known.merge(known, answer, nil, MapSet.new())
        assert {row, Enum.map(again.addresses, & &1.weight)} == {row, expected}
      end
    end
  end
end
