defmodule Demo.Scenes.ConnectionTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.Tally
  alias Demo.Check
  alias Demo.Scenes.Connection.Report
  alias Demo.Servers.Fleet.Member

  @stages ~w(rest steady rest changing down back rest)a

  # A small run in which all adds up: what was answered through each client, by stage. The server
  # `b` had two.
  @answers %{
    "a" => [steady: 10, changing: 2, down: 5, back: 5],
    "b" => [steady: 10, changing: 2],
    "b, again" => [back: 5],
    "c" => [steady: 9, changing: 2, down: 5, back: 5]
  }

  test "finds nothing wrong where all adds up" do
    checks = Report.checks(facts())
    assert length(checks) == 7
    assert Check.failed(checks) == []
    assert Report.sentence(facts()) =~ "while 61 requests were made. Lost with it: 1."
  end

  test "names the check that does not hold" do
    for {title, change} <- [
          {"requests", &put_in(&1.tally.sent, 1)},
          {"requests", &%{&1 | requests: 1_000}},
          {"steady, 3 servers", &request(&1, "a", :steady, :answered)},
          {"b killed", &request(&1, "b", :down, :answered)},
          {"b killed", &request(&1, "b", :back, {:failed, :not_connected})},
          {"meanwhile", &entry(&1, "c", clients: [self()])},
          {"b back", &entry(&1, "b", clients: [self(), client("b")])},
          {"b back", &entry(&1, "b", clients: [client("b, again")])},
          {"errors", &request(&1, "a", :down, {:failed, :connection_lost})},
          {"errors", &request(&1, "b", :changing, {:failed, :timeout})},
          {"errors", &request(&1, nil, :down, {:failed, :no_backends})},
          {"processes", &entry(&1, "b", ended: [server("b", 0)])},
          {"processes", &entry(&1, "a", server: server("a", :still_running))}
        ] do
      assert title in (facts() |> change.() |> Report.checks() |> Check.failed())
    end
  end

  setup do
    for {name, _answers} <- @answers, do: Process.put(name, spawn(fn -> :ok end))
    :ok
  end

  defp facts do
    facts = %{
      servers: [
        %{server: server("a", 0), clients: [client("a")], ended: []},
        %{
          server: server("b", 0),
          clients: [client("b, again"), client("b")],
          ended: [server("b", 137)]
        },
        %{server: server("c", 0), clients: [client("c")], ended: []}
      ],
      tally: %Tally{},
      stages: @stages,
      requests: 50,
      killed: "b",
      back_ms: 200
    }

    facts =
      for {name, answers} <- @answers, {stage, n} <- answers, _ <- 1..n, reduce: facts do
        facts -> request(facts, name, stage, :answered)
      end

    request(facts, "b", :changing, {:failed, :connection_lost})
  end

  defp server(name, status) do
    server = %Member{name: name, process: nil, number: 1, os_pid: 1, meter: nil}
    %{server | exit_status: status}
  end

  defp client(name), do: Process.get(name)

  defp request(facts, name, stage, outcome) do
    tally = Tally.outcome(Tally.sent(facts.tally), stage, name && client(name), outcome, 100)
    %{facts | tally: tally}
  end

  defp entry(facts, name, changes) do
    servers =
      for e <- facts.servers, do: if(e.server.name == name, do: Enum.into(changes, e), else: e)

    %{facts | servers: servers}
  end
end
