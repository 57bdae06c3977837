defmodule Demo.Scenes.RestartTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.Tally
  alias Demo.Check
  alias Demo.Scenes.Restart.Report
  alias Demo.Servers.Fleet.Member

  @stages ~w(rest steady rest restarting rest)a

  # A small run in which all adds up: what each process has served, the one before the restart first.
  @served %{"a" => [3, 5], "b" => [4, 4], "c" => [6, 2]}

  test "finds nothing wrong where all adds up" do
    checks = Report.checks(facts())
    assert length(checks) == 5
    assert Check.failed(checks) == []

    assert Report.sentence(facts()) =~
             "All 3 servers restarted, one after the other, while 14 requests"
  end

  test "names the check that does not hold" do
    for {title, change} <- [
          {"requests", &put_in(&1.tally.sent, 1)},
          {"requests", &%{&1 | requests: 1_000}},
          {"no failed call", &request(&1, :restarting, {:failed, :connection_lost})},
          {"all agree", &%{&1 | successes: 23}},
          {"all agree", &request(&1, :steady, :answered)},
          {"all agree", &server(&1, "a", served: 4)},
          {"each has served", &server(&1, "b", served: 0)},
          {"each has served", &server(&1, "b", served: nil)},
          {"processes", &server(&1, "c", exit_status: :still_running)},
          {"processes", &%{&1 | servers: for(e <- &1.servers, do: %{e | ended: []})}}
        ] do
      assert title in (facts() |> change.() |> Report.checks() |> Check.failed())
    end
  end

  defp facts do
    servers =
      for {name, [before, now]} <- @served,
          do: %{server: member(name, now), ended: [member(name, before)]}

    facts = %{
      servers: servers,
      tally: %Tally{},
      successes: 24,
      stages: @stages,
      requests: 20
    }

    facts = Enum.reduce(1..10, facts, fn _, facts -> request(facts, :steady, :answered) end)
    Enum.reduce(1..14, facts, fn _, facts -> request(facts, :restarting, :answered) end)
  end

  defp member(name, served) do
    member = %Member{name: name, process: nil, number: 1, os_pid: 1, meter: nil}
    %{member | served: served, exit_status: 0}
  end

  defp request(facts, stage, outcome) do
    %{facts | tally: Tally.outcome(Tally.sent(facts.tally), stage, self(), outcome, 100)}
  end

  defp server(facts, name, changes) do
    servers =
      for e <- facts.servers do
        if e.server.name == name, do: %{e | server: struct!(e.server, changes)}, else: e
      end

    %{facts | servers: servers}
  end
end
