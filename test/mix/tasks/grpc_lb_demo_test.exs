defmodule Mix.Tasks.GrpcLb.DemoTest do
  # Not async: it takes all the processors there are.
  use ExUnit.Case

  alias Mix.Tasks.GrpcLb.Demo.{CallLog, Connection, Contest.Contender, ContestReport, Fleet}
  alias Mix.Tasks.GrpcLb.Demo.{Fleet.Member, Frame, Lineup, Meter, Report, ServerProcess}
  alias Mix.Tasks.GrpcLb.Demo.{Stage, Style, Tally, Traffic}

  @moduletag timeout: 120_000

  describe "the demo, as an operating-system process" do
    test "adds up and leaves no process behind" do
      {output, status} = "0" |> start_demo() |> await_end()

      assert status == 0, output
      assert output =~ ~r/All \d+ checks hold/

      [sent, answered, failed] =
        numbers(output, ~r/([\d,]+) sent = ([\d,]+) answered \+ ([\d,]+) failed/)

      assert sent == answered + failed
      assert sent >= 100_000
      # Not a terminal: nothing but text.
      refute output =~ "\e"
    end

    test "fails when a server dies that should not" do
      demo = start_demo("0")
      output = await_output(demo, ~r/a (\d+), b \d+.*\n/)
      [_line, os_pid] = Regex.run(~r/a (\d+), b/, output)
      kill(os_pid)

      {output, status} = await_end(demo, output)
      assert status == 1
      assert output =~ ~r/checks failed: .*processes/
    end

    for {time, output} <- [
          "while servers boot": "One balancer",
          "while they serve": "c was killed"
        ] do
      test "leaves no server behind when it is killed itself #{time}" do
        demo = start_demo("5")
        output = await_output(demo, unquote(output))
        {:os_pid, os_pid} = Port.info(demo, :os_pid)
        kill(os_pid)

        {_output, status} = await_end(demo, output)
        assert status == 128 + 9
      end
    end

    test "has servers that end when nobody reads what they say, though their stdin is open" do
      # Which a server sees first of a parent that is killed is a matter of luck.
      pipeline = ["-c", ~s("$@" | true), "sh" | ServerProcess.command()]
      opts = [:binary, :exit_status, args: pipeline]
      shell = Port.open({:spawn_executable, System.find_executable("sh")}, opts)
      assert_receive {^shell, {:exit_status, 0}}, 30_000
    end

    test "refuses what it does not understand" do
      for {args, reason} <- [
            {~w(--seconds -1), "--seconds must be from 0 to 30, got -1.0"},
            {~w(--seconds 30.5), "--seconds must be from 0 to 30, got 30.5"},
            {~w(--seconds many), "--seconds must be a number, got many"},
            {~w(--seconds), "--seconds needs a value"},
            {~w(--fast), "unknown option --fast"},
            {~w(now), "unexpected argument now"},
            {~w(--policy fastest), ~s(unknown policy "fastest", expected round_robin or )},
            {~w(--policy), "--policy needs a value"},
            {~w(--policy random --seconds 2), "--seconds with --policy must be from 3 to 30"},
            {~w(--policy random --slow few), "--slow must be a number, got few"},
            {~w(--policy random --slow 1.5), "--slow must be a number, got 1.5"},
            {~w(--policy random --flaky -1), "--flaky must be from 0 to 5, got -1"},
            {~w(--policy random --slow 3 --flaky 3), "there are 5 servers, too few for 3 slow"},
            {~w(--slow 1), "--slow goes with --policy only"},
            {~w(--flaky 1), "--flaky goes with --policy only"}
          ] do
        error = assert_raise Mix.Error, fn -> Mix.Tasks.GrpcLb.Demo.run(args) end
        assert error.message =~ reason
        assert error.message =~ "usage: mix grpc_lb.demo"
      end
    end
  end

  describe "the contest, as an operating-system process" do
    # What it shows of errors it judges itself. Of latency too, but how long calls take on a machine
    # that does other work says nothing of the demo.
    test "shows what peak_ewma with outlier detection is good for" do
      args = ~w(--policy peak_ewma --slow 1 --flaky 1 --seconds 6)
      {output, status} = args |> start_task() |> await_end()

      slow? = output =~ ~r/(✗|FAILED) p99 /u
      assert status == if(slow?, do: 1, else: 0), output

      for title <- ["counts", "other errors", "errors, round_robin", "errors, detection"] do
        assert output =~ ~r/(✓|ok) #{title} /u, output
      end

      assert output =~ ~r/ p99 +[\d.]+ ms/
      refute output =~ "\e"

      [calls, told, answers] =
        numbers(output, ~r/([\d,]+) calls = ([\d,]+) in the balan.* = ([\d,]+) answers/)

      assert calls == told and told == answers
    end

    test "leaves no server behind when it is killed itself" do
      demo = start_task(~w(--policy random --slow 1 --flaky 1))
      output = await_output(demo, ~r/1\.0 s/)
      {:os_pid, os_pid} = Port.info(demo, :os_pid)
      kill(os_pid)

      {_output, status} = await_end(demo, output)
      assert status == 128 + 9
    end
  end

  # The servers inherit the demo's standard error, so the end of that stream is the end of them
  # all.
  defp start_demo(seconds), do: start_task(["--seconds", seconds])

  defp start_task(args) do
    ebin = Application.app_dir(:grpc_lb, "ebin")

    code = """
    {:ok, _started} = Application.ensure_all_started(:grpc_lb)
    Mix.Tasks.GrpcLb.Demo.run(#{inspect(args)})
    """

    Port.open(
      {:spawn_executable, System.find_executable("elixir")},
      [:binary, :exit_status, :eof, :stderr_to_stdout, args: ["-pa", ebin, "-e", code]]
    )
  end

  defp await_output(demo, pattern, output \\ "") do
    if output =~ pattern do
      output
    else
      receive do
        {^demo, {:data, data}} -> await_output(demo, pattern, output <> data)
        {^demo, {:exit_status, status}} -> flunk("ended with #{status}: #{output}")
      after
        60_000 -> flunk("no #{inspect(pattern)} in: #{output}")
      end
    end
  end

  defp await_end(demo, output \\ "", status \\ nil, eof? \\ false)
  defp await_end(_demo, output, status, true) when status != nil, do: {output, status}

  defp await_end(demo, output, status, eof?) do
    receive do
      {^demo, {:data, data}} -> await_end(demo, output <> data, status, eof?)
      {^demo, {:exit_status, status}} -> await_end(demo, output, status, eof?)
      {^demo, :eof} -> await_end(demo, output, status, true)
    after
      60_000 -> flunk("something is still running after: #{output}")
    end
  end

  defp kill(os_pid), do: {_output, 0} = System.cmd("sh", ["-c", "kill -KILL #{os_pid}"])

  defp numbers(output, pattern) do
    [_match | numbers] = Regex.run(pattern, output)
    for number <- numbers, do: number |> String.replace(",", "") |> String.to_integer()
  end

  describe "Report" do
    test "finds nothing wrong where all adds up" do
      checks = Report.checks(facts())
      assert length(checks) == 14
      assert Report.failed(checks) == []
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
        assert title in (facts() |> change.() |> Report.checks() |> Report.failed())
      end
    end

    test "shows every server with what each side counted" do
      table = %Style{} |> Report.table(facts()) |> Enum.map(&IO.chardata_to_string/1)
      assert length(table) == 2 + 7
      assert String.split(Enum.at(table, 3)) == ~w(b 25 - 25 0 25 0 0)
      assert String.split(Enum.at(table, 4)) == ~w(c 16 16 14 2 14 0 137)
    end

    test "marks what failed" do
      lines = Report.lines(%Style{}, [{"sums", true, "1 = 1"}, {"shares", false, "1 = 2"}])
      assert [good, bad] = Enum.map(lines, &IO.chardata_to_string/1)
      assert good =~ ~r/^  ok sums +1 = 1$/
      assert bad =~ ~r/^  FAILED shares +1 = 2$/
    end
  end

  describe "Tally" do
    test "counts what matches every filter" do
      {a, b} = {pid(), pid()}

      tally =
        %Tally{}
        |> outcome(:steady, a, :answered, 10)
        |> outcome(:steady, a, :answered, 30)
        |> outcome(:changing, a, {:failed, :timeout}, 20)
        |> outcome(:changing, b, :answered, 5)

      assert tally.sent == 4
      assert tally.slowest_us == 30
      assert Tally.count(tally) == 4
      assert Tally.count(tally, connection: a) == 3
      assert Tally.count(tally, connection: a, stages: [:steady]) == 2
      assert Tally.count(tally, outcome: :failed) == 1
      assert Tally.count(tally, outcome: {:failed, :timeout}, stages: [:steady]) == 0
      assert Tally.failures(tally) == %{timeout: 1}
    end

    test "merges" do
      {a, b} = {pid(), pid()}
      one = %Tally{} |> outcome(:steady, a, :answered, 10) |> outcome(:steady, b, :answered, 40)
      other = outcome(%Tally{}, :steady, a, :answered, 20)
      merged = Tally.merge([one, other, %Tally{}])

      assert merged.sent == 3
      assert merged.slowest_us == 40
      assert Tally.count(merged, connection: a) == 2
      assert Tally.count(merged, connection: b) == 1
    end
  end

  describe "Stage" do
    test "is left behind by all callers, or not" do
      stage = Stage.new(2)
      assert Stage.advance(stage) == :steady
      assert Stage.enter(stage, 1) == :steady
      refute Stage.entered_by_all?(stage)
      assert Stage.enter(stage, 2) == :steady
      assert Stage.entered_by_all?(stage)
      assert Stage.advance(stage) == :rest
      refute Stage.entered_by_all?(stage)
    end

    test "comes before others" do
      assert Stage.between(:changing, :joined) == [:changing, :taken_out, :joined]
      assert :settled in Stage.from(:drained)
      refute :joined in Stage.from(:drained)
    end
  end

  describe "Frame" do
    @picture %{
      elapsed_ms: 12_345,
      progress: 0.5,
      answered: 123_456_789,
      failed: 1_234,
      rate: 123_456.7,
      rows: [
        %{
          name: "a",
          os_pid: 4_194_304,
          state: :draining,
          answered: 99_999_999,
          rate: 99_999,
          share: 1.0
        },
        %{name: "b", os_pid: 1, state: :killed, answered: 0, rate: 0, share: 0.0}
      ],
      events: [{1_000, "b was killed"}]
    }

    test "fits into 80 columns" do
      for unicode? <- [true, false], line <- lines(%Style{unicode?: unicode?}) do
        assert String.length(line) <= 80, line
      end
    end

    test "has a row for each server" do
      lines = lines(%Style{})

      assert Enum.any?(
               lines,
               &(&1 =~ ~r/^  a +4194304  #+ +100.0 % +99,999 +99,999,999  draining/)
             )

      assert Enum.any?(lines, &(&1 =~ ~r/^  b +1 +0.0 % +0 +0  killed/))

      assert Enum.any?(
               lines,
               &(&1 =~ ~r/# +50 % +123,456,789 answered +123,457\/s +1234 failed/)
             )

      assert Enum.any?(lines, &(&1 =~ "1.0 s  b was killed"))
    end

    test "draws over the last one" do
      refute IO.chardata_to_string(Frame.redraw(["x"], 0)) =~ "\e[0A"
      assert IO.chardata_to_string(Frame.redraw(["x", "y"], 3)) =~ ~r/^\e\[3A\r.*x\e\[K\ny\e\[K\n/
    end

    defp lines(style), do: style |> Frame.lines(@picture) |> Enum.map(&IO.chardata_to_string/1)
  end

  describe "Style" do
    test "draws bars of one width, to an eighth of a column" do
      assert Style.bar(%Style{unicode?: true}, 0.5, 3) == "█▌ "
      assert Style.bar(%Style{unicode?: true}, 7, 3) == "███"
      assert Style.bar(%Style{}, 0.5, 4) == "##  "
      assert Style.bar(%Style{}, 0, 4) == "    "
    end

    test "groups thousands" do
      assert Enum.map([0, 999, 1_000, 1_234_567], &Style.thousands/1) ==
               ~w(0 999 1,000 1,234,567)
    end
  end

  describe "a server that works" do
    test "fails as many of its requests as it is told to, and works on many at a time" do
      [member] = Fleet.start(["a"], %{"a" => [1, 30]})

      # More than it works on at the same time.
      outcomes =
        1..400
        |> Enum.map(&Task.async(fn -> {&1, Connection.request(member.connection, <<&1>>)} end))
        |> Task.await_many()

      {failed, answered} = Enum.split_with(outcomes, &match?({_, {:error, :server_failed}}, &1))
      assert length(failed) == 120
      for {n, outcome} <- answered, do: assert(outcome == {:ok, <<:erlang.crc32(<<n>>)::32>>})
      assert %{served: 400, exit_status: 0} = Fleet.stop(member, :stopped)
    end

    test "takes its time" do
      [member] = Fleet.start(["a"], %{"a" => [30, 0]})
      {us, {:ok, _crc}} = :timer.tc(fn -> Connection.request(member.connection, "x") end)
      assert us >= 30_000
      Fleet.stop(member, :stopped)
    end
  end

  describe "Traffic" do
    test "gives every balancer every call, and logs how each went" do
      members = Fleet.start(["a"], %{"a" => [1, 50]})
      {:ok, balancer} = GrpcLb.new(:round_robin, Fleet.backends(members))
      {:ok, empty} = GrpcLb.new(:round_robin, [])
      [log, none] = Traffic.run([balancer, empty], 100)

      assert log != [] and length(log) == length(none)
      assert Enum.all?(log, &(&1.connection == hd(members).connection))
      assert Enum.any?(log, &(&1.outcome == :answered))
      assert Enum.any?(log, &(&1.outcome == {:failed, :server_failed}))
      assert Enum.all?(none, &({&1.connection, &1.outcome} == {nil, {:failed, :no_backends}}))

      %{backends: [%{successes: ok, failures: failed}]} = GrpcLb.info(balancer)

      assert {ok, failed} ==
               {length(log) - length(CallLog.failed(log)), length(CallLog.failed(log))}

      Enum.each(members, &Fleet.stop(&1, :stopped))
    end
  end

  describe "CallLog" do
    test "knows shares, error rates and latencies" do
      {a, b} = {pid(), pid()}

      log =
        for n <- 1..1000 do
          outcome = if n > 990, do: {:failed, :server_failed}, else: :answered
          new_call(if(n > 750, do: b, else: a), n, n * 1000, outcome)
        end

      assert CallLog.share(log, [b]) == 0.25
      assert CallLog.share(log, [a, b]) == 1.0
      assert CallLog.share(log, []) == 0.0
      assert CallLog.error_rate(log) == 0.01
      assert log |> CallLog.since(981) |> CallLog.error_rate() == 0.5

      permilles = [1, 500, 990, 999, 1000]
      latencies = for permille <- permilles, do: CallLog.latency_ms(log, permille)
      assert latencies == Enum.map(permilles, &(&1 / 1))

      assert CallLog.latency_ms(Enum.take(log, 1), 500) == 1.0

      assert {CallLog.latency_ms([], 990), CallLog.error_rate([]), CallLog.share([], [a])} ==
               {0.0, 0.0, 0.0}
    end
  end

  describe "Lineup" do
    test "has the good ones first" do
      lineup = Lineup.new(1, 2)
      assert Lineup.names(lineup, :good) == ["a", "b"]
      assert Lineup.names(lineup, :slow) == ["c"]
      assert Lineup.names(lineup, :flaky) == ["d", "e"]
      assert_in_delta Lineup.even_errors(lineup), 0.12, 1.0e-9

      assert %{"a" => [good_ms, 0], "c" => [slow_ms, 0], "d" => [good_ms, 30]} =
               Lineup.work(lineup)

      assert slow_ms == 10 * good_ms
      assert length(Lineup.describe(lineup)) == 3
      assert length(Lineup.describe(Lineup.new(0, 0))) == 1
      assert Lineup.names(Lineup.new(5, 0), :slow) == ~w(a b c d e)
    end
  end

  describe "ContestReport" do
    test "finds nothing wrong where all is as it should be" do
      checks = ContestReport.checks(contest())
      assert length(checks) == 6
      assert Report.failed(checks) == []
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
             &outcomes(&1, :round_robin, "e", 8, {:failed, :server_failed})},
            {"errors, round_robin",
             &outcomes(&1, :round_robin, "e", 4, {:failed, :server_failed})},
            {"errors, detection", &outcomes(&1, :chosen, "e", 3, {:failed, :server_failed})},
            {"p99", &latencies(&1, :chosen, "d", 200)},
            {"p99", &latencies(&1, :round_robin, "d", 50)},
            {"processes", &contender_member(&1, :chosen, "c", exit_status: 1)},
            {"processes", &contender_member(&1, :round_robin, "c", exit_status: :still_running)}
          ] do
        assert title in (contest() |> change.() |> ContestReport.checks() |> Report.failed())
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
        titles = for {title, _holds?, _numbers} <- ContestReport.checks(facts), do: title
        assert titles -- ["counts", "other errors", "processes"] == judged
      end
    end

    test "leaves out what came before the first sweeps" do
      facts = contest()
      e = connection(facts.chosen, "e")
      early = for _ <- 1..50, do: new_call(e, 1_499, 900_000, {:failed, :server_failed})
      facts = %{facts | chosen: %{facts.chosen | log: early ++ facts.chosen.log}}
      assert facts |> ContestReport.checks() |> Report.failed() == ["counts"]
    end

    test "shows both, before and after the first sweeps" do
      table = %Style{} |> ContestReport.table(contest()) |> Enum.map(&IO.chardata_to_string/1)
      assert length(table) == 2 + 4
      assert Enum.all?(table, &(String.length(&1) <= 90))

      assert Enum.at(table, 2) =~
               ~r/^  round_robin alone +100 +20.0 % +20.0 % +20.0 +200.0 +200.0 +6.0 % +-$/

      assert Enum.at(table, 4) =~ ~r/^  peak_ewma +100 +0.0 % +1.0 % +20.0 +20.0 +20.0 +1.0 % +2$/
      assert Enum.at(table, 5) =~ ~r/^    from 1.5 s on +100 /
    end

    test "says on what terms, and how far they are" do
      setup = %{policy: :peak_ewma, lineup: Lineup.new(1, 1), seconds: 5}
      terms = setup |> ContestReport.terms() |> Enum.map_join("\n", &IO.chardata_to_string/1)
      assert terms =~ ~r/a b c +good/
      assert terms =~ ~r/e +flaky: .* 30 % fail/
      assert terms =~ ~r/round_robin +alone/
      assert terms =~ ~r/peak_ewma +penalty: \d+, with outlier detection/

      %{round_robin: alone, chosen: chosen} = contest()

      assert ContestReport.progress(3, [alone, chosen]) =~
               "3.0 s  round_robin 6 of 100 failed; peak_ewma 1 of 100 failed, e ejected"
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
    members = for {name, n} <- calls, do: %{new_member("a", a: n) | name: name}

    log =
      for member <- members, n <- 1..calls[member.name]//1 do
        ms = if member.name == "d", do: 200, else: 20

        outcome =
          if member.name == "e" and n <= failed, do: {:failed, :server_failed}, else: :answered

        new_call(member.connection, 2_000, ms * 1000, outcome)
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

  defp new_call(connection, at_ms, took_us, outcome) do
    %{connection: connection, at_ms: at_ms, took_us: took_us, outcome: outcome}
  end

  defp connection(contender, name) do
    Enum.find(contender.members, &(&1.name == name)).connection
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
    connection = connection(contest[which], name)

    update_in(contest, [which, Access.key!(:log)], fn log ->
      {own, others} = Enum.split_with(log, &(&1.connection == connection))

      own =
        own ++
          for _ <- length(own)..(number - 1)//1,
              do: new_call(connection, 2_000, 20_000, :answered)

      changed =
        for {call, n} <- Enum.with_index(own, 1),
            do: %{call | outcome: if(n <= number, do: outcome, else: :answered)}

      changed ++ others
    end)
  end

  defp latencies(contest, which, name, ms) do
    connection = connection(contest[which], name)

    update_in(contest, [which, Access.key!(:log)], fn log ->
      own = for _ <- 1..20, do: new_call(connection, 2_000, ms * 1000, :answered)
      Enum.reject(log, &(&1.connection == connection)) ++ own
    end)
  end

  # A small demo in which all adds up: what each server answered, by stage.
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
      port: nil,
      os_pid: 1,
      connection: pid(),
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
    connection = Enum.find(facts.members, &(&1.name == name)).connection
    %{facts | tally: outcome(facts.tally, stage, connection, outcome, 100)}
  end

  defp failed(facts, name, stage, reason), do: request(facts, name, stage, {:failed, reason})

  defp answered(facts, name, stage, by) do
    connection = Enum.find(facts.members, &(&1.name == name)).connection

    counts = Map.update(facts.tally.counts, {stage, connection, :answered}, by, &(&1 + by))

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

  defp outcome(tally, stage, connection, outcome, took_us) do
    tally |> Tally.sent() |> Tally.outcome(stage, connection, outcome, took_us)
  end

  defp pid, do: spawn(fn -> :ok end)
end
