defmodule GrpcLb.Top.ViewTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Top.Keyboard

  alias GrpcLb.Top.View

  @listed %{
    number: 7,
    name: "payments",
    policy: "least_request",
    owner: nil,
    size: 3,
    closed: false
  }

  defp sample(at, backends, more \\ %{}) do
    Map.merge(
      %{
        at: at,
        balancer: @listed,
        generation: 4,
        malformed_reports: 0,
        table: nil,
        layers: [],
        totals: totals(backends),
        left_out: 0,
        backends: backends
      },
      more
    )
  end

  defp totals(backends) do
    sum = fn field -> backends |> Enum.map(&Map.fetch!(&1, field)) |> Enum.sum() end
    oldest = for %{oldest_in_flight: oldest} when oldest != nil <- backends, do: oldest

    %{
      states: Enum.frequencies_by(backends, & &1.state),
      picks: sum.(:picks),
      failures: sum.(:failures),
      in_flight: sum.(:in_flight),
      oldest_in_flight: Enum.max(oldest, fn -> nil end)
    }
  end

  defp backend(id, more) do
    Map.merge(
      %{
        key: id,
        id: id,
        state: :ready,
        left: nil,
        ejected_by: nil,
        weight: 1,
        current_weight: 1.0,
        due: 0.0,
        picks: 0,
        in_flight: 0,
        oldest_in_flight: nil,
        latency_ns: nil,
        successes: 0,
        failures: 0,
        times_ejected: 0,
        priority: 0,
        locality: nil
      },
      Map.new(more)
    )
  end

  defp backends(picks_a, picks_b) do
    [
      backend("10.0.0.1:50051",
        picks: picks_a,
        in_flight: 2,
        oldest_in_flight: 1_500,
        latency_ns: 3_400_000
      ),
      backend("10.0.0.2:50051", picks: picks_b, weight: 4, current_weight: 0.4, due: 0.5),
      backend("10.0.0.3:50051",
        state: :ejected,
        left: 12_300,
        ejected_by: :failure_percentage,
        failures: div(picks_a, 100),
        latency_ns: 250_000
      )
    ]
  end

  defp shown(view, size, mode \\ :none) do
    for line <- View.lines(view, size, mode) do
      line |> IO.iodata_to_binary() |> String.replace(~r/\e\[\d*m/, "") |> String.trim_trailing()
    end
  end

  defp view(samples) do
    Enum.reduce(samples, %{View.new(:shop@host) | chosen: 7}, fn sample, view ->
      View.sampled(view, sample)
    end)
  end

  defp two_looks,
    do: view([sample(1_000, backends(100, 100)), sample(3_000, backends(1_600, 600))])

  describe "the table" do
    test "shows what happened between two looks" do
      assert shown(two_looks(), {80, :all}) == [
               "balancer 7 payments  least_request  2 ready, 1 ejected  on shop@host",
               "generation 4  2 in flight, the oldest for 1s",
               "backend        state              weight share        picks/s busy latency fails",
               "10.0.0.1:50051 ready                   1   75% ████▌      750    2   3.4ms     0",
               "10.0.0.2:50051 ready               4→0.4   25% █▌         250    0       -     0",
               "10.0.0.3:50051 ejected 12s (rate)      1    0%              0    0   250µs    16"
             ]
    end

    test "shows what was ever, after one look, and what weights say where nothing was picked" do
      lines = shown(view([sample(1_000, backends(0, 0))]), {80, :all})
      assert Enum.at(lines, 2) =~ ~r/share +picks busy/
      assert Enum.at(lines, 4) =~ "~50% ███ "
    end

    test "fits its screen, with as many rows as there is room for" do
      many = for n <- 1..50, do: backend("10.0.0.#{n}:50051", picks: n)
      view = view([sample(0, many)])

      for {columns, lines} = size <- [{80, 24}, {200, 50}, {60, 10}, {20, 5}] do
        shown = shown(view, size, :keys)
        assert length(shown) == lines
        if columns >= 80, do: assert(Enum.all?(shown, &(String.length(&1) <= columns)))
      end

      assert Enum.at(shown(view, {80, 24}, :keys), 3) =~ "10.0.0.1:50051"
      view = Enum.reduce(1..12, view, fn _, view -> View.press(view, :down) end)
      assert Enum.at(shown(view, {80, 24}, :keys), 3) =~ "10.0.0.13:50051"
      view = Enum.reduce(1..99, view, fn _, view -> View.press(view, "k") end)
      assert view.scrolled == 0
    end

    test "says how many are left out, and counts them where shares are made" do
      more =
        &Map.merge(%{left_out: 9, totals: %{totals([backend("x", picks: &1)]) | picks: &1}}, &2)

      before = sample(0, [backend("a", picks: 10)], more.(1_000, %{}))
      now = sample(1_000, [backend("b", picks: 500), backend("a", picks: 20)], more.(1_040, %{}))

      # What "b" had before is not known.
      assert [_title, _general, "9 backends more are not shown", _titles, b, a] =
               shown(view([before, now]), {80, :all})

      assert b =~ ~r/^b +ready +1 +0% +0 /
      assert a =~ ~r/^a +ready +1 +25% \S+ +10 /
    end

    test "colours states, only where there is a terminal" do
      lines = View.lines(two_looks(), {80, 24}, :keys)
      assert IO.iodata_to_binary(lines) =~ IO.ANSI.red() <> "ejected 12s"
      refute IO.iodata_to_binary(View.lines(two_looks(), {80, :all}, :none)) =~ "\e"
    end

    test "says what went wrong" do
      view = View.failed(two_looks(), "no connection to shop@host")
      assert shown(view, {80, :all}) == ["shop@host", "", "no connection to shop@host"]
      assert View.needs_look?(View.press(view, "b"))
    end
  end

  describe "the list" do
    test "has a balancer picked by its number" do
      other = %{@listed | number: 12, name: nil, policy: "random", owner: "#PID<0.1.0>"}
      closed = %{@listed | number: 3, closed: true, size: 0}
      view = View.listed([@listed, other, closed], View.new(:shop@host))

      assert shown(view, {60, :all}) == [
               "shop@host  2 balancers",
               "number name     policy          size owner",
               "     7 payments least_request      3 -",
               "    12 -        random             3 #PID<0.1.0>",
               "     3 payments least_request closed -"
             ]

      only = View.listed([@listed, closed], View.new(:shop@host))
      assert ["shop@host  1 balancer" | _] = shown(%{only | chosen: nil, now: nil}, {60, :all})

      typed = Enum.reduce(["1", "3", "\d", "2"], view, &View.press(&2, &1))
      assert List.last(shown(typed, {80, 10}, :keys)) =~ ~r/ 12$/
      assert %{chosen: 12, now: nil} = picked = View.press(typed, :enter)
      assert View.needs_look?(picked)
      assert View.press(view, :enter) == view
    end

    test "is left for the only balancer there is, until it is asked for" do
      assert %{chosen: 7} = view = View.listed([@listed], View.new(:shop@host))
      assert %{chosen: nil} = view = View.press(view, "b")
      assert %{chosen: nil} = View.listed([@listed], view)
    end
  end

  describe "keys" do
    test "sort by one column after the other" do
      sorted = fn view ->
        view
        |> shown({80, :all})
        |> Enum.drop(3)
        |> Enum.map_join(&(Regex.run(~r/^10\.0\.0\.(\d)/, &1) |> List.last()))
      end

      {orders, _view} =
        Enum.map_reduce(1..9, two_looks(), fn _, view ->
          {{view.sort, sorted.(view)}, View.press(view, "s")}
        end)

      assert orders == [
               listed: "123",
               share: "123",
               picks: "123",
               in_flight: "123",
               latency_ns: "132",
               failures: "312",
               state: "312",
               id: "123",
               listed: "123"
             ]
    end

    test "pause, quit, and do nothing" do
      view = two_looks()
      assert View.press(view, "p").paused
      assert List.last(shown(View.press(view, " "), {80, 9}, :lines)) =~ ~r/^PAUSED .*each with/
      refute view |> View.press("p") |> View.press("p") |> Map.fetch!(:paused)
      assert for(key <- ["q", "\x03", "\x04"], do: View.press(view, key)) == [:quit, :quit, :quit]
      assert for(key <- ["x", "é", :enter, "7"], do: View.press(view, key) == view) |> Enum.all?()
    end
  end
end
