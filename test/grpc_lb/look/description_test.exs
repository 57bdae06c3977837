defmodule GrpcLb.Look.DescriptionTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO
  import GrpcLb.Test.Eventually

  alias GrpcLb.Clock

  doctest GrpcLb.Look.Shown
  doctest GrpcLb.Look.Columns

  defp described(lb) do
    capture_io(fn -> assert GrpcLb.describe(lb) == :ok end)
    |> String.replace(~r/balancer \d+/, "balancer N")
    |> String.replace(inspect(self()), "#PID")
    |> String.split("\n")
    |> Enum.map(&String.trim_trailing/1)
  end

  test "says all in one block" do
    clock = Clock.manual()

    {:ok, lb} =
      GrpcLb.new(:round_robin, ["10.0.0.1:50051", {:b, 1, weight: 3}, {:c, 1, weight: 1}],
        clock: clock,
        name: "payments",
        owner: self(),
        outlier_detection: [consecutive_failures: 1]
      )

    for value <- ["10.0.0.1:50051", 1, 1], outcome = if(value == 1, do: :ok, else: {:error, 1}) do
      {:ok, ^value, ticket} = GrpcLb.checkout(lb)
      Clock.advance(clock, 2)
      :ok = GrpcLb.complete(ticket, outcome)
    end

    {:ok, 1, ticket} = GrpcLb.checkout(lb)
    Clock.advance(clock, 1_500)
    GrpcLb.set_state(lb, :c, :draining)

    assert described(lb) == [
             "balancer N payments  round_robin  1 ready, 1 ejected, 1 draining",
             "owner #PID  generation 3  1 in flight, the oldest for 1s",
             "",
             "backend        state             weight share          picks busy latency fails",
             "10.0.0.1:50051 ejected 28s (row)      1   25% █▌           1    0       -     1",
             ":b             ready                  3   50% ███          2    1     2ms     0",
             ":c             draining               1   25% █▌           1    0     2ms     0",
             ""
           ]

    :ok = GrpcLb.complete(ticket, :ok)
  end

  test "says what each layer serves, what a table takes, and what weights say where nothing was picked" do
    {:ok, lb} = GrpcLb.new(:random, [{:a, 1, locality: "eu"}, {:b, 2, priority: 1, weight: 0}])

    assert described(lb) == [
             "balancer N  random  2 ready",
             "generation 1  0 in flight",
             "priority 0 eu: 1 of 1 healthy, 100% of picks",
             "priority 1: 1 of 1 healthy, 0% of picks",
             "",
             "backend    state      weight share          picks busy latency fails",
             ":a         ready           1 ~100% ██████       0    0       -     0",
             ":b         ready           0   ~0%              0    0       -     0",
             ""
           ]

    # Of five entries one has three, whatever the weights of others in other layers.
    {:ok, lb} = GrpcLb.new({:maglev, table_size: 5}, ["a", "b"])
    shares = for backend <- GrpcLb.info(lb).backends, do: round(backend.table_share * 100)
    assert Enum.sort(shares) == [40, 60]
    described = for line <- described(lb), [share] <- [Regex.run(~r/~\d+/, line)], do: share
    assert described == Enum.map(shares, &"~#{&1}")

    {:ok, lb} = GrpcLb.new({:maglev, table_size: 5}, ["a"])
    assert ["balancer N  maglev  1 ready", _, "table of 5 entries in " <> _ | _] = described(lb)
  end

  test "takes backends for alike whose load reports are awaited" do
    {:ok, lb} = GrpcLb.new({:weighted_round_robin, weights: :reported}, [:a, {:b, 2, weight: 9}])

    assert [_, _, _, _titles, a, b, ""] = described(lb)
    assert a =~ ~r/^:a +awaits reports +1→- +~50%/
    assert b =~ ~r/^:b +awaits reports +9→- +~50%/
  end

  test "takes those whose load reports are awaited for average ones of those that have reported" do
    clock = Clock.manual()

    policy =
      {:weighted_round_robin, weights: :reported, reports: :out_of_band, blackout_period: 0}

    {:ok, lb} = GrpcLb.new(policy, [:a, :b, :c, :d], clock: clock)
    :ok = GrpcLb.report(lb, :a, %{rps_fractional: 100, cpu_utilization: 0.5})
    :ok = GrpcLb.report(lb, :b, %{rps_fractional: 300, cpu_utilization: 0.5})
    Clock.advance(clock, 1_000)

    assert [_, _, _, _titles, a, b, c, d, ""] = described(lb)
    assert a =~ ~r/ ~13%/
    assert b =~ ~r/ ~38%/
    for awaited <- [c, d], do: assert(awaited =~ ~r/ awaits reports .* ~25%/)
  end

  test "has the name of one that has gone" do
    owner = fn ->
      {:ok, lb} = GrpcLb.new(:random, [:a], name: "gone")
      [%{balancer: view}] = for %{name: "gone"} = it <- GrpcLb.all(), do: it
      {view, GrpcLb.size(lb)}
    end

    {view, 1} = owner |> Task.async() |> Task.await()
    eventually(fn -> GrpcLb.closed?(view) end)
    assert ["balancer N gone  random  closed" | _] = described(view)
  end

  test "says that there is nothing, and nothing any more" do
    {:ok, lb} = GrpcLb.new(:random, [])
    assert ["balancer N  random  no backends", "generation " <> _, ""] = described(lb)
    GrpcLb.close(lb)
    assert ["balancer N  random  closed" | _] = described(lb)
    assert_raise ArgumentError, ~r/argument 1 is not a balancer/, fn -> GrpcLb.describe(:oops) end
  end

  test "shows some of many, those first that are not well, and counts all" do
    {:ok, lb} = GrpcLb.new(:round_robin, Enum.map(1..2_000, &{&1, &1}))
    for id <- [1_998, 1_999], do: GrpcLb.set_state(lb, id, :transient_failure)
    tickets = for _ <- 1..1_998, do: lb |> GrpcLb.checkout() |> elem(2)
    [title, general, "", _titles | rows] = described(lb)
    assert title == "balancer N  round_robin  1998 ready, 2 transient failure"
    assert general =~ "1998 in flight"
    assert [first, second, third | _] = rows
    assert first =~ ~r/^1998 +failing/
    assert second =~ ~r/^1999 +failing/
    assert third =~ ~r/^1 +ready +1 +0.1% /
    assert length(rows) == 500 + 2
    assert Enum.take(rows, -2) == ["and 1500 more", ""]
    assert Enum.all?(tickets, &(GrpcLb.complete(&1, :ok) == :ok))
  end

  test "shows ids that would do something to a terminal as text" do
    ids = [
      "\e[2J\e[H",
      "a\nb",
      "\u202Eevil",
      {:a, "\a"},
      <<0xFF, 0x9B>>,
      String.duplicate("x", 300)
    ]

    {:ok, lb} = GrpcLb.new(:random, ids)
    block = capture_io(fn -> GrpcLb.describe(lb) end)
    refute block =~ ~r/[^\p{L}\p{N}\p{P}\p{S} \n]/u
    assert block =~ ~S("\e[2J\e[H")
    assert Enum.all?(String.split(block, "\n"), &(String.length(&1) <= 80))
  end
end
