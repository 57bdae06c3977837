defmodule Mix.Tasks.GrpcLb.Demo do
  @shortdoc "Shows a balancer over real TCP connections, and checks what it shows"

  @moduledoc """
  Balances real requests over real connections, while servers die, join and leave.

      $ mix grpc_lb.demo
      $ mix grpc_lb.demo --seconds 30
      $ mix grpc_lb.demo --policy peak_ewma --slow 1 --flaky 1

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

  ## With a policy

  With `--policy`, round robin alone is shown beside that policy with outlier detection. Each has
  five servers of its own, as above, and both get the same calls at the same moments, 50 a second.
  A good server needs 80 ms for a call, and works on many at the same time. A slow one needs ten
  times as long, and a flaky one fails 30 % of its calls.

  At the end come what share of the calls the slow and the flaky ones got, how long calls took, and
  how many failed: over the whole run, and without the first 1.5 s, in which outlier detection finds
  out who is flaky. It looks every 0.5 s, ejects for 5 s at first and then for longer, and when a
  flaky server comes back it fails calls until the next look: so some fail all along. Without the
  first 1.5 s, it is checked that

    * what callers, balancers and servers counted adds up, and only flaky servers fail;
    * round robin alone fails as many calls as the share of the flaky servers suggests;
    * with outlier detection less than 2 % fail, if less than half of the servers are flaky and one
      is good. Not with `pick_first`, which outlier detection leaves alone;
    * with `peak_ewma`, of one slow server and two good ones or more, 99 of 100 calls took less than
      a third of what they took with round robin.

  `peak_ewma` has a `:penalty` of 240 ms, to suit such calls. Other policies have their default
  options. See `GrpcLb.Policy`.

  ## Options

    * `--seconds` - how long the requests run, from 0 to 30, by default 10. It takes longer
      where 100,000 requests do. With `--policy`, from 3 to 30.
    * `--policy` - the policy to show beside round robin
    * `--slow`, `--flaky` - how many of its five servers are slow, and how many are flaky, by
      default none
  """

  use Mix.Task

  alias Mix.Tasks.GrpcLb.Demo.{CommandLine, Contest, ContestReport, PickCost, Report}
  alias Mix.Tasks.GrpcLb.Demo.{Scenario, Style, View}

  @requirements ["app.start"]

  @requests 100_000
  @most_seconds 55

  @impl true
  def run(args) do
    request = CommandLine.parse!(args)
    watchdog = spawn(&watch/0)

    try do
      demo(Style.detect(), request)
    after
      Process.exit(watchdog, :kill)
    end
  end

  defp demo(style, request) do
    started = System.monotonic_time(:millisecond)
    checks = show(style, request)
    took = Float.round((System.monotonic_time(:millisecond) - started) / 1000, 1)
    conclude(style, length(checks), Report.failed(checks), took)
  end

  defp show(style, {:scenario, seconds}) do
    puts(style, "One balancer, round robin, 32 callers, real requests over TCP", [])

    {:ok, view} = View.start_link(style)
    facts = Scenario.play(view, seconds, @requests)
    View.stop(view)

    checks = Report.checks(facts)
    puts(style, "What each side counted", Report.table(style, facts))
    puts(style, "What must hold", Report.lines(style, checks))
    puts(style, "What a pick costs", PickCost.lines(style, PickCost.measure()))
    checks
  end

  defp show(style, {:contest, setup}) do
    title =
      "Round robin beside #{setup.policy}: the same calls, by the clock, to two fleets alike"

    puts(style, title, ContestReport.terms(setup) ++ [""])
    facts = Contest.play(setup, &IO.puts(ContestReport.progress(&1, &2)))

    checks = ContestReport.checks(facts)

    puts(
      style,
      "What came of #{length(facts.chosen.log)} calls",
      ContestReport.table(style, facts)
    )

    puts(style, "What must hold", Report.lines(style, checks))
    checks
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
