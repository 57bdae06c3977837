defmodule Demo.Scenes.PoolTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.Tally
  alias Demo.Check
  alias Demo.Scenes.Pool.Report
  alias Demo.Servers.Fleet.Member

  @stages ~w(rest steady rest changing joined left killed replaced rest)a

  # A small run in which all adds up: what was answered by each member, by stage.
  @answers %{
    "a" => [steady: 10, changing: 1, joined: 5, left: 5, killed: 2, replaced: 5],
    "b" => [steady: 10, changing: 1, joined: 5],
    "c" => [steady: 10, joined: 5, left: 4],
    "d" => [steady: 9, joined: 5, left: 5, killed: 2, replaced: 5],
    "e" => [joined: 5, left: 5, replaced: 5],
    "f" => [replaced: 5]
  }

  test "finds nothing wrong where all adds up" do
    checks = Report.checks(facts())
    assert length(checks) == 9
    assert Check.failed(checks) == []
    assert Report.sentence(facts()) =~ "110 requests were made. Lost with the killed one: 1."
  end

  test "names the check that does not hold" do
    for {title, change} <- [
          {"requests", &put_in(&1.tally.sent, 1)},
          {"requests", &%{&1 | requests: 1_000}},
          {"steady, 4 members", &request(&1, "a", :steady, :answered)},
          {"pool's counts", &member(&1, "a", picks: 1)},
          {"pool's counts", &member(&1, "f", picks: nil)},
          {"e joined", &request(&1, "e", :joined, {:failed, :not_connected})},
          {"e joined", &member(&1, "e", client: self())},
          {"b left", &request(&1, "b", :left, :answered)},
          {"b left", &request(&1, "b", :joined, {:failed, :connection_lost})},
          {"b left", &%{&1 | left_alive?: false}},
          {"c killed", &request(&1, "c", :killed, :answered)},
          {"c killed", &request(&1, "c", :replaced, {:failed, :not_connected})},
          {"f replaced c", &member(&1, "f", client: self())},
          {"errors", &request(&1, "a", :killed, {:failed, :connection_lost})},
          {"errors", &request(&1, "c", :left, {:failed, :timeout})},
          {"process", &put_in(&1.server.exit_status, 1)}
        ] do
      assert title in (facts() |> change.() |> Report.checks() |> Check.failed())
    end
  end

  defp facts do
    server = %Member{name: "server", process: nil, number: 1, os_pid: 1, meter: nil}

    facts = %{
      server: %{server | exit_status: 0},
      members: for({name, answers} <- @answers, do: new_member(name, answers)),
      tally: %Tally{},
      stages: @stages,
      requests: 100,
      first: ~w(a b c d),
      joined: "e",
      left: "b",
      killed: "c",
      replaced: "f",
      left_alive?: true
    }

    facts =
      for {name, answers} <- @answers, {stage, n} <- answers, _ <- 1..n, reduce: facts do
        facts -> request(facts, name, stage, :answered)
      end

    request(facts, "c", :left, {:failed, :connection_lost})
  end

  defp new_member(name, answers) do
    member = %{
      name: name,
      client: spawn(fn -> :ok end),
      meter: nil,
      state: :member,
      picks: answers |> Keyword.values() |> Enum.sum()
    }

    case name do
      "b" -> %{member | state: :left, picks: nil}
      "c" -> %{member | state: :killed, picks: nil}
      _ -> member
    end
  end

  defp request(facts, name, stage, outcome) do
    client = Enum.find(facts.members, &(&1.name == name)).client
    %{facts | tally: facts.tally |> Tally.sent() |> Tally.outcome(stage, client, outcome, 100)}
  end

  defp member(facts, name, changes) do
    members = for m <- facts.members, do: if(m.name == name, do: Enum.into(changes, m), else: m)
    %{facts | members: members}
  end
end
