defmodule Mix.Tasks.GrpcLb.Demo do
  @shortdoc "Shows a balancer over real TCP connections, and checks what it shows"

  @moduledoc """
  Balances real requests over real connections, while servers die, join and leave.

      $ mix grpc_lb.demo
      $ mix grpc_lb.demo --seconds 30

  Five servers are started, each an operating-system process of its own with a TCP port on the
  loopback interface. One connection process for each multiplexes the requests of 32 callers,
  and answers come back out of order. Every caller picks its connection from one round-robin
  balancer, at least 100,000 times altogether. While they do:

    * one server is killed with `SIGKILL`: its callers get errors, nobody hangs, and picks stop
      choosing it as soon as its connection process has ended;
    * two new servers are started and reconciled in;
    * one server is reconciled out, and stopped when its last request has been answered.

  In a terminal this is shown as it happens; elsewhere, or with `NO_COLOR` set or `TERM=dumb`,
  as a line a second. At the end the callers', the balancer's and the servers' own counts must
  add up. Then a pick is timed beside round robin built from the BEAM's own parts.

  The exit status is 1 if a check fails, or if all this takes 55 seconds. No server outlives
  the demo, however that ends.

  ## Options

    * `--seconds` - how long the requests run, from 0 to 30, by default 10. It takes longer
      where 100,000 requests do.
  """

  use Mix.Task

  alias Mix.Tasks.GrpcLb.Demo.{PickCost, Report, Scenario, Style, View}

  @requirements ["app.start"]

  @requests 100_000
  @seconds 10
  @most_seconds 55

  @impl true
  def run(args) do
    seconds = seconds!(args)
    watchdog = spawn(&watch/0)

    try do
      demo(Style.detect(), seconds)
    after
      Process.exit(watchdog, :kill)
    end
  end

  defp seconds!(args) do
    case OptionParser.parse(args, strict: [seconds: :float]) do
      {[], [], []} -> @seconds
      {[seconds: seconds], [], []} when seconds >= 0 and seconds <= 30 -> seconds
      _wrong -> Mix.raise("usage: mix grpc_lb.demo [--seconds SECONDS], SECONDS from 0 to 30")
    end
  end

  defp demo(style, seconds) do
    started = System.monotonic_time(:millisecond)
    puts(style, "One balancer, round robin, 32 callers, real requests over TCP", [])

    {:ok, view} = View.start_link(style)
    facts = Scenario.play(view, seconds, @requests)
    View.stop(view)

    checks = Report.checks(facts)
    puts(style, "What each side counted", Report.table(style, facts))
    puts(style, "What must hold", Report.lines(style, checks))
    puts(style, "What a pick costs", PickCost.lines(style, PickCost.measure()))

    took = Float.round((System.monotonic_time(:millisecond) - started) / 1000, 1)
    conclude(style, length(checks), Report.failed(checks), took)
  end

  defp conclude(style, number, [], took) do
    puts(style, "All #{number} checks hold. The demo took #{took} s.", [])
  end

  defp conclude(_style, number, failed, _took) do
    Mix.raise("#{length(failed)} of #{number} checks failed: #{Enum.join(failed, "; ")}")
  end

  defp puts(style, title, lines) do
    IO.write(["\n", Style.paint(style, :bright, title), "\n" | Enum.map(lines, &[&1, "\n"])])
  end

  # Whatever hangs, this does not wait for it. The servers end with the virtual machine.
  @spec watch() :: no_return()
  defp watch do
    Process.sleep(@most_seconds * 1000)
    IO.puts(:stderr, "The demo was not done within #{@most_seconds} s.")
    System.halt(1)
  end
end
