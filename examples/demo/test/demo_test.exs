defmodule DemoTest do
  # Not async: it takes all the processors there are.
  use ExUnit.Case

  import ExUnit.CaptureIO

  alias Demo.CommandLine
  alias Demo.Scenes.{Balancer, Connection, Contest, PickCost, Pool, Restart}
  alias Demo.View.Style

  @moduletag timeout: 120_000

  describe "the demo, as an operating-system process" do
    test "says what will come, adds up, and leaves no process behind" do
      {output, status} = ~w(--seconds 0) |> start_demo() |> await_end()

      assert status == 0, output

      assert output =~
               ~r/What will come:\n\n +1  A balancer .*\n +2  A pool .*\n +3  A connection .*\n +4  A restart /

      assert output =~ ~r/All is as it must be. 35 checks hold/

      assert [[sent, answered, failed], pool, connection, restart] =
               numbers(output, ~r/([\d,]+) sent = ([\d,]+) answered \+ ([\d,]+) failed/)

      assert sent >= 100_000

      for [sent, answered, failed] <- [[sent, answered, failed], pool, connection, restart] do
        assert sent == answered + failed
      end

      # Not a terminal: nothing but text.
      refute output =~ "\e"
      assert_narrow(output)
    end

    # It must not be over before the server is killed.
    test "fails when a server dies that should not" do
      demo = start_demo(~w(--scene balancer --seconds 5))
      output = await_output(demo, ~r/a (\d+), b \d+.*\n/)
      [_line, os_pid] = Regex.run(~r/a (\d+), b/, output)
      kill(os_pid)

      {output, status} = await_end(demo, output)
      assert status == 1
      assert output =~ ~r/This is not as it must be: .*processes/s
      assert output =~ ~r/checks failed: .*processes/
    end

    for {time, scene, output} <- [
          {"while servers boot", "balancer", "What will come"},
          {"while they serve", "balancer", "c was killed"},
          {"while a pool's server serves", "pool", "e has joined"},
          {"while a connection's servers serve", "connection", "b was killed"},
          {"while one of them restarts", "restart", "a ended as process"},
          {"in a contest", "contest", "p99 "}
        ] do
      test "leaves no server behind when it is killed itself #{time}" do
        args =
          case unquote(scene) do
            "contest" -> ~w(--policy random --slow 1 --flaky 1)
            scene -> ["--scene", scene, "--seconds", "5"]
          end

        demo = start_demo(args)
        output = await_output(demo, unquote(Macro.escape(output)))
        {:os_pid, os_pid} = Port.info(demo, :os_pid)
        kill(os_pid)

        {_output, status} = await_end(demo, output)
        assert status == 128 + 9
      end
    end

    # What it shows of errors it judges itself. Of latency too, but how long calls take on a machine
    # that does other work says nothing of the demo.
    test "shows what peak_ewma with outlier detection is good for" do
      # Less than an ejection takes: a flaky server that is back fails a share of few calls that is a matter of luck.
      args = ~w(--policy peak_ewma --slow 1 --flaky 1 --seconds 5)
      {output, status} = args |> start_demo() |> await_end()

      slow? = output =~ ~r/(✗|FAILED) p99 /u
      assert status == if(slow?, do: 1, else: 0), output

      for title <- ["counts", "other errors", "errors, round_robin", "errors, detection"] do
        assert output =~ ~r/(✓|ok) #{title} /u, output
      end

      assert output =~ ~r/ p99 +[\d.]+ ms/
      refute output =~ "\e"
      assert_narrow(output)

      assert [[calls, told, answers]] =
               numbers(output, ~r/([\d,]+) calls = ([\d,]+) in the balan.* = ([\d,]+) answers/)

      assert calls == told and told == answers
    end
  end

  describe "on a terminal" do
    test "every line has at most 80 columns" do
      style = %Style{terminal?: true, unicode?: true}

      scenes =
        for scene <- [Balancer, Pool, Connection, Restart, PickCost],
            do: {scene, %{seconds: 0, requests: 4_000}}

      output = capture_io(fn -> assert Demo.play(style, scenes) == :ok end)

      # It has redrawn itself.
      assert output =~ ~r/\e\[\d+A/
      assert_narrow(output)
    end

    # On a busy machine a check may fail for latency.
    test "so it is with a policy" do
      style = %Style{terminal?: true, unicode?: true}
      args = ~w(--policy weighted_round_robin --slow 1 --flaky 1 --seconds 3)
      output = capture_io(fn -> Demo.play(style, CommandLine.parse!(args)) end)

      # Two panels, drawn again and again.
      assert length(Regex.scan(~r/weighted_round_robin \+ outlier detection/, output)) > 2
      assert output =~ ~r/\e\[\d+A/
      assert_narrow(output)
    end
  end

  describe "the command line" do
    test "has all scenes, the later ones shorter" do
      assert CommandLine.parse!([]) == [
               {Balancer, %{seconds: 10, requests: 100_000}},
               {Pool, %{seconds: 4, requests: 8_000}},
               {Connection, %{seconds: 4, requests: 8_000}},
               {Restart, %{seconds: 4, requests: 8_000}},
               {PickCost, %{seconds: 4, requests: 0}}
             ]

      assert CommandLine.parse!(~w(--scene pool)) == [{Pool, %{seconds: 10, requests: 8_000}}]
      assert [{Balancer, %{seconds: 2.5}} | _] = CommandLine.parse!(~w(--seconds 2.5))
      assert [{Contest, %{policy: :random}}] = CommandLine.parse!(~w(--policy random))
    end

    test "refuses what it does not understand" do
      for {args, reason} <- [
            {~w(--seconds -1), "--seconds must be from 0 to 30, got -1.0"},
            {~w(--seconds 30.5), "--seconds must be from 0 to 30, got 30.5"},
            {~w(--seconds many), "--seconds must be a number, got many"},
            {~w(--seconds), "--seconds needs a value"},
            {~w(--fast), "unknown option --fast"},
            {~w(now), "unexpected argument now"},
            {~w(--scene last), ~s(unknown scene "last", expected balancer or pool or )},
            {~w(--scene pool --policy random), "--scene does not go with --policy"},
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
        error = assert_raise Mix.Error, fn -> Mix.Tasks.Demo.run(args) end
        assert error.message =~ reason
        assert error.message =~ "usage: mix demo"
      end
    end
  end

  # The servers inherit the demo's standard error, so the end of that stream is the end of them
  # all.
  defp start_demo(args) do
    code = """
    {:ok, _started} = Application.ensure_all_started(:grpc_lb_demo)
    Mix.Tasks.Demo.run(#{inspect(args)})
    """

    ebins = for app <- [:grpc_lb, :grpc_lb_demo], do: Application.app_dir(app, "ebin")
    paths = Enum.flat_map(ebins, &["-pa", &1])

    Port.open(
      {:spawn_executable, System.find_executable("elixir")},
      [:binary, :exit_status, :eof, :stderr_to_stdout, args: paths ++ ["-e", code]]
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
    for [_match | numbers] <- Regex.scan(pattern, output) do
      for number <- numbers, do: number |> String.replace(",", "") |> String.to_integer()
    end
  end

  # What a terminal is told by, and has no width.
  @control ~r/\e\[[0-9;?]*[A-Za-z]|\r/

  defp assert_narrow(output) do
    for line <- output |> String.replace(@control, "") |> String.split("\n") do
      assert String.length(line) <= 80, line
    end
  end
end
