defmodule Mix.Tasks.GrpcLb.DemoTest do
  # Not async: it takes all the processors there are.
  use ExUnit.Case

  alias Mix.Tasks.GrpcLb.Demo.{Fleet.Member, Frame, Meter, Report, ServerProcess, Stage, Style}
  alias Mix.Tasks.GrpcLb.Demo.Tally

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
      for args <- [["--seconds", "-1"], ["--seconds", "many"], ["--fast"], ["now"]] do
        assert_raise Mix.Error, ~r/usage/, fn -> Mix.Tasks.GrpcLb.Demo.run(args) end
      end
    end
  end

  # The servers inherit the demo's standard error, so the end of that stream is the end of them
  # all.
  defp start_demo(seconds) do
    ebin = Application.app_dir(:grpc_lb, "ebin")
    code = "Mix.Tasks.GrpcLb.Demo.run(~w(--seconds #{seconds}))"

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
