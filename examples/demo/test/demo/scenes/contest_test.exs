defmodule Demo.Scenes.ContestTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.Meter
  alias Demo.Check
  alias Demo.Scenes.Contest
  alias Demo.Scenes.Contest.{Contender, Report}
  alias Demo.Servers.{Fleet.Member, Lineup}
  alias Demo.View.Style

  describe "Report" do
    test "finds nothing wrong where all is as it should be" do
      checks = Report.checks(contest())
      assert length(checks) == 6
      assert Check.failed(checks) == []
    end

    test "names the check that does not hold" do
      for {title, change} <- [
            {"counts", &contender_member(&1, :chosen, "b", served: 1)},
            {"counts", &contender_member(&1, :round_robin, "b", served: nil)},
            {"counts", &contender_backend(&1, :chosen, "a", successes: 0)},
            {"counts", &contender_backend(&1, :chosen, "e", in_flight: 1)},
            {"other errors", &outcomes(&1, :chosen, "a", 1, {:failed, :server_failed})},
            {"other errors", &outcomes(&1, :chosen, "e", 1, {:failed, :timeout})},
            {"other errors", &outcomes(&1, :round_robin, "e", 1, {:failed, :wrong_answer})},
            {"errors, round_robin",
             &outcomes(&1, :round_robin, "e", 9, {:failed, :server_failed})},
            {"errors, round_robin",
             &outcomes(&1, :round_robin, "e", 3, {:failed, :server_failed})},
            {"errors, detection", &outcomes(&1, :chosen, "e", 3, {:failed, :server_failed})},
            {"p99", &latencies(&1, :chosen, "d", 200)},
            {"p99", &latencies(&1, :round_robin, "d", 50)},
            {"processes", &contender_member(&1, :chosen, "c", exit_status: 1)},
            {"processes", &contender_member(&1, :round_robin, "c", exit_status: :still_running)}
          ] do
        assert title in (contest() |> change.() |> Report.checks() |> Check.failed())
      end
    end

    test "judges what makes sense" do
      for {slow, flaky, policy, detection, judged} <- [
            {1, 1, :peak_ewma, [], ["errors, round_robin", "errors, detection", "p99"]},
            {1, 1, :least_request, [], ["errors, round_robin", "errors, detection"]},
            {1, 1, :pick_first, nil, ["errors, round_robin"]},
            {1, 0, :peak_ewma, [], ["p99"]},
            {2, 0, :peak_ewma, [], []},
            {4, 0, :peak_ewma, [], []},
            {1, 3, :peak_ewma, [], ["errors, round_robin"]},
            {4, 1, :random, [], ["errors, round_robin"]},
            {0, 0, :peak_ewma, [], []}
          ] do
        facts = %{contest() | lineup: Lineup.new(slow, flaky)}
        facts = %{facts | chosen: %{facts.chosen | policy: policy, detection: detection}}
        titles = for {title, _holds?, _numbers} <- Report.checks(facts), do: title
        assert titles -- ["counts", "other errors", "processes"] == judged
      end
    end

    test "leaves out what came before the first sweeps" do
      facts = contest()
      e = client(facts.chosen, "e")
      early = for _ <- 1..50, do: new_call(e, 1_499, 900_000, {:failed, :server_failed})
      facts = %{facts | chosen: %{facts.chosen | log: early ++ facts.chosen.log}}
      assert facts |> Report.checks() |> Check.failed() == ["counts"]
    end

    test "shows both, before and after the first sweeps" do
      table = %Style{} |> Report.table(contest()) |> Enum.map(&IO.chardata_to_string/1)
      assert length(table) == 2 + 4
      assert Enum.all?(table, &(String.length(&1) <= 80))

      assert Enum.at(table, 2) =~
               ~r/^  round_robin +100 +20.0 % +20.0 % +20 +200 +200 +6.0 % +-$/

      assert Enum.at(table, 4) =~ ~r/^  peak_ewma +100 +0.0 % +1.0 % +20 +20 +20 +1.0 % +2$/
      assert Enum.at(table, 5) =~ ~r/^    from 1.5 s on +100 /
    end

    test "says on what terms, and how far they are" do
      options = %{policy: :peak_ewma, lineup: Lineup.new(1, 1), seconds: 5}
      [alone, chosen] = Contest.contenders(options)
      terms = options.lineup |> Report.terms([alone, chosen]) |> Enum.join("\n")
      assert terms =~ ~r/a b c are good/
      assert terms =~ ~r/e is flaky .* 30 % fail/
      assert terms =~ ~r/Outlier detection looks every 0.5 s/
      assert terms =~ ~r/peak_ewma has the option penalty: \d+/

      assert {Report.title(alone), Report.title(chosen)} ==
               {"round_robin alone", "peak_ewma + outlier detection"}

      assert Report.summary(contest().round_robin.log, 1_500) == "p99 200 ms, 6.0 % failed"
    end

    test "leaves out of what is live what came before the first sweeps, once it can" do
      late = new_call(self(), 1_500, 1_000, :answered)
      early = new_call(self(), 1_499, 900_000, {:failed, :server_failed})
      assert Report.summary([early, late], 1_500) == "p99 1 ms, 0.0 % failed"
      assert Report.summary([early], 1_500) == "p99 900 ms, 100.0 % failed"
    end

    test "says what happened" do
      assert Report.sentence(contest()) ==
               "With peak_ewma and outlier detection 1.0 % of the calls failed and 99 of 100 took " <>
                 "at most 20 ms; with round robin alone 6.0 % of the calls failed and 99 of 100 " <>
                 "took at most 200 ms."
    end

    test "has a table of at most 80 columns, however long its numbers are" do
      %{chosen: chosen} = facts = contest()
      info = %{backends: for(b <- chosen.info.backends, do: %{b | times_ejected: 9_999})}
      slow = for call <- chosen.log, do: %{call | took_us: 99_999_999_999}
      chosen = %{chosen | policy: :weighted_round_robin, log: slow, info: info}

      for line <- Report.table(%Style{}, %{facts | chosen: chosen}) do
        assert line |> IO.chardata_to_string() |> String.length() <= 80
      end
    end
  end

  # A small contest in which all is as it should be.
  defp contest do
    %{
      lineup: Lineup.new(1, 1),
      round_robin: contender(:round_robin, nil, Map.new(~w(a b c d e), &{&1, 20}), 6),
      chosen:
        contender(:peak_ewma, [], %{"a" => 33, "b" => 33, "c" => 33, "d" => 0, "e" => 1}, 1),
      settled_ms: 1_500
    }
  end

  defp contender(policy, detection, calls, failed) do
    members = for {name, n} <- calls, do: new_member(name, n)

    log =
      for member <- members, n <- 1..calls[member.name]//1 do
        ms = if member.name == "d", do: 200, else: 20

        outcome =
          if member.name == "e" and n <= failed, do: {:failed, :server_failed}, else: :answered

        new_call(member.client, 2_000, ms * 1000, outcome)
      end

    backends =
      for {name, n} <- calls do
        failures = if name == "e", do: failed, else: 0
        ejected? = name == "e" and detection != nil

        %{
          id: name,
          successes: n - failures,
          failures: failures,
          in_flight: 0,
          ejected_until: if(ejected?, do: 7_000),
          times_ejected: if(ejected?, do: 2, else: 0)
        }
      end

    %Contender{
      policy: policy,
      options: [],
      detection: detection,
      members: members,
      log: log,
      info: %{backends: backends}
    }
  end

  defp new_member(name, served) do
    %Member{
      name: name,
      process: nil,
      number: 1,
      os_pid: 1,
      client: spawn(fn -> :ok end),
      meter: Meter.new(),
      served: served,
      exit_status: 0,
      state: :stopped
    }
  end

  defp new_call(client, at_ms, took_us, outcome) do
    %{client: client, at_ms: at_ms, took_us: took_us, outcome: outcome}
  end

  defp client(contender, name) do
    Enum.find(contender.members, &(&1.name == name)).client
  end

  defp contender_member(contest, which, name, changes) do
    update_in(contest, [which, Access.key!(:members)], fn members ->
      for m <- members, do: if(m.name == name, do: struct!(m, changes), else: m)
    end)
  end

  defp contender_backend(contest, which, id, changes) do
    update_in(contest, [which, Access.key!(:info), :backends], fn backends ->
      for b <- backends, do: if(b.id == id, do: Map.merge(b, Map.new(changes)), else: b)
    end)
  end

  # The first `number` calls of a server came to `outcome`, its others were answered.
  defp outcomes(contest, which, name, number, outcome) do
    client = client(contest[which], name)

    update_in(contest, [which, Access.key!(:log)], fn log ->
      {own, others} = Enum.split_with(log, &(&1.client == client))

      own =
        own ++
          for _ <- length(own)..(number - 1)//1,
              do: new_call(client, 2_000, 20_000, :answered)

      changed =
        for {call, n} <- Enum.with_index(own, 1),
            do: %{call | outcome: if(n <= number, do: outcome, else: :answered)}

      changed ++ others
    end)
  end

  defp latencies(contest, which, name, ms) do
    client = client(contest[which], name)

    update_in(contest, [which, Access.key!(:log)], fn log ->
      own = for _ <- 1..20, do: new_call(client, 2_000, ms * 1000, :answered)
      Enum.reject(log, &(&1.client == client)) ++ own
    end)
  end
end
