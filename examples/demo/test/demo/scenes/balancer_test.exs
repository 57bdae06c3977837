defmodule Demo.Scenes.BalancerTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.{Meter, Tally}
  alias Demo.Check
  alias Demo.Scenes.Balancer.Report
  alias Demo.Servers.Fleet.Member
  alias Demo.View.Style

  describe "Report" do
    test "finds nothing wrong where all adds up" do
      checks = Report.checks(facts())
      assert length(checks) == 14
      assert Check.failed(checks) == []
    end

    test "names the check that does not hold" do
      for {title, change} <- [
            {"requests", &put_in(&1.tally.sent, 273)},
            {"requests", &%{&1 | requests: 1_000}},
            {"on the wire", &meter(&1, "c", :sent, 20)},
            {"servers' counts", &member(&1, "a", served: 41)},
            {"servers' counts", &member(&1, "c", served: nil)},
            {"servers' counts", &meter(&1, "d", :answered, 39)},
            {"balancer's counts", &member(&1, "c", picks: 15)},
            {"balancer's counts", &member(&1, "f", picks: nil)},
            {"steady, 5 servers", &answered(&1, "b", :steady, +2)},
            {"settled, 5 servers", &answered(&1, "g", :settled, -2)},
            {"changing, a d e", &answered(&1, "a", :joined, +17)},
            {"c killed", &%{&1 | removal_us: nil}},
            {"c killed", &answered(&1, "c", :taken_out, +1)},
            {"errors", &failed(&1, "a", :changing, :connection_lost)},
            {"errors", &failed(&1, "c", :changing, :no_backends)},
            {"waits", &failed(&1, "c", :changing, :timeout)},
            {"f g joined", &%{&1 | joined: %{added: 2, removed: 0, kept: 5}}},
            {"f g joined", &failed(&1, "f", :joined, :not_connected)},
            {"b drained", &%{&1 | left: %{added: 0, removed: 2, kept: 4}}},
            {"b drained", &failed(&1, "b", :joined, :not_connected)},
            {"b drained", &answered(&1, "b", :drained, +1)},
            {"out of order", &meter(&1, "a", :overtaken, 0)},
            {"out of order", &failed(&1, "c", :changing, :wrong_answer)},
            {"processes", &member(&1, "c", exit_status: 0)},
            {"processes", &member(&1, "e", exit_status: :still_running)}
          ] do
        assert title in (facts() |> change.() |> Report.checks() |> Check.failed())
      end
    end

    test "shows every server with what each side counted" do
      table = %Style{} |> Report.table(facts()) |> Enum.map(&IO.chardata_to_string/1)
      assert length(table) == 2 + 7
      assert String.split(Enum.at(table, 3)) == ~w(b 25 - 25 0 25 0 0)
      assert String.split(Enum.at(table, 4)) == ~w(c 16 16 14 2 14 0 137)
    end

    test "says what happened" do
      assert Report.sentence(facts()) =~
               "while 200 requests were made. Lost with the killed one: 2. All others"
    end
  end

  @stages ~w(rest steady rest changing taken_out joined drained rest settled rest)a

  # A small run in which all adds up: what each server answered, by stage.
  @answers %{
    "a" => [steady: 10, changing: 5, taken_out: 5, joined: 5, drained: 5, settled: 10],
    "b" => [steady: 10, changing: 5, taken_out: 5, joined: 5],
    "c" => [steady: 10, changing: 4],
    "d" => [steady: 10, changing: 5, taken_out: 5, joined: 5, drained: 5, settled: 10],
    "e" => [steady: 10, changing: 5, taken_out: 5, joined: 5, drained: 5, settled: 9],
    "f" => [joined: 5, drained: 5, settled: 10],
    "g" => [joined: 5, drained: 5, settled: 10]
  }

  defp facts do
    facts = %{
      members: for({name, answers} <- @answers, do: new_member(name, answers)),
      tally: %Tally{},
      stages: @stages,
      requests: 100,
      first: ~w(a b c d e),
      killed: "c",
      new: ~w(f g),
      drained: "b",
      removal_us: 3,
      joined: %{added: 2, removed: 1, kept: 4},
      left: %{added: 0, removed: 1, kept: 5},
      left_in_flight: 4,
      schedulers: 2
    }

    facts =
      for {name, answers} <- @answers, {stage, n} <- answers, _ <- 1..n, reduce: facts do
        facts -> request(facts, name, stage, :answered)
      end

    facts
    |> request("c", :changing, {:failed, :connection_lost})
    |> request("c", :changing, {:failed, :not_connected})
  end

  defp new_member(name, answers) do
    total = answers |> Keyword.values() |> Enum.sum()
    meter = Meter.new()
    Meter.put(meter, :answered, total)
    Meter.put(meter, :sent, if(name == "c", do: total + 1, else: total))
    if name == "a", do: Meter.put(meter, :overtaken, 3)

    member = %Member{
      name: name,
      process: nil,
      number: 1,
      os_pid: 1,
      client: pid(),
      meter: meter,
      served: total,
      picks: total,
      exit_status: 0,
      state: :stopped
    }

    case name do
      "b" -> %{member | state: :drained, picks: nil}
      "c" -> %{member | state: :killed, picks: total + 2, exit_status: 137}
      _ -> member
    end
  end

  defp request(facts, name, stage, outcome) do
    client = Enum.find(facts.members, &(&1.name == name)).client
    %{facts | tally: outcome(facts.tally, stage, client, outcome, 100)}
  end

  defp failed(facts, name, stage, reason), do: request(facts, name, stage, {:failed, reason})

  defp answered(facts, name, stage, by) do
    client = Enum.find(facts.members, &(&1.name == name)).client

    counts = Map.update(facts.tally.counts, {stage, client, :answered}, by, &(&1 + by))

    put_in(facts.tally.counts, counts)
  end

  defp member(facts, name, changes) do
    members = for m <- facts.members, do: if(m.name == name, do: struct!(m, changes), else: m)
    %{facts | members: members}
  end

  defp meter(facts, name, field, value) do
    Meter.put(Enum.find(facts.members, &(&1.name == name)).meter, field, value)
    facts
  end

  defp outcome(tally, stage, client, outcome, took_us) do
    tally |> Tally.sent() |> Tally.outcome(stage, client, outcome, took_us)
  end

  defp pid, do: spawn(fn -> :ok end)
end
