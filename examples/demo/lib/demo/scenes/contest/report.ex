defmodule Demo.Scenes.Contest.Report do
  @moduledoc false
  # Judges the facts of a contest and writes them down. Pure: every number comes in with the facts.

  alias Demo.Callers.CallLog
  alias Demo.Check
  alias Demo.Scenes.Contest
  alias Demo.Scenes.Contest.Contender
  alias Demo.Servers.Lineup
  alias Demo.View.{Style, Text}

  # Of the calls after the first sweeps.
  @most_errors 0.02
  # How far round robin's errors may be from the flaky servers' share, as a part of it; and where calls were few,
  # in calls of each of them: it has had one of its turns more or less, and failed one more or less of these.
  @even_within 0.25
  @even_within_calls 2
  @times_faster 3

  @columns [7, 8, 8, 7, 7, 7, 8, 6]

  # What is judged depends on who takes part, and how many good servers there are to go to.
  @spec checks(Contest.facts()) :: [Check.t()]
  def checks(facts) do
    [
      {true, &counts/1},
      {true, &elsewhere/1},
      {flaky?(facts), &even_errors/1},
      {flaky?(facts) and avoids_flaky?(facts), &few_errors/1},
      {avoids_slow?(facts), &latency/1},
      {true, &processes/1}
    ]
    |> Enum.filter(fn {judged?, _check} -> judged? end)
    |> Enum.map(fn {true, check} -> check.(facts) end)
  end

  # Who takes part, and on what terms.
  @spec terms(Lineup.t(), [Contender.t()]) :: [String.t()]
  def terms(lineup, contenders) do
    [Lineup.describe(lineup) | Enum.flat_map(contenders, &terms_of/1)]
  end

  defp terms_of(%{detection: nil}), do: []

  defp terms_of(%{options: options, detection: detection} = contender) do
    own =
      for {option, setting} <- options,
          do: "#{contender.policy} has the option #{option}: #{setting}."

    [
      "Outlier detection looks every #{Text.seconds(detection[:interval])}, and ejects who failed " <>
        "more than #{detection[:failure_percentage][:threshold]} % of its calls: for " <>
        "#{Text.seconds(detection[:base_ejection_time])} at first, then for longer. At most " <>
        "#{detection[:max_ejection_percent]} % of the servers are out at a time."
      | own
    ]
  end

  @spec title(Contender.t()) :: String.t()
  def title(%{policy: policy, detection: nil}), do: "#{policy} alone"
  def title(%{policy: policy}), do: "#{policy} + outlier detection"

  # The calls so far, for the live view: those after the first sweeps, once there are some.
  @spec summary(CallLog.t(), non_neg_integer()) :: String.t()
  def summary(log, settled_ms) do
    settled = CallLog.since(log, settled_ms)
    log = if settled == [], do: log, else: settled
    "p99 #{ms(log, 990)} ms, #{Text.percent(CallLog.error_rate(log))} failed"
  end

  # What there is to remember.
  @spec sentence(Contest.facts()) :: String.t()
  def sentence(%{round_robin: alone, chosen: chosen} = facts) do
    guard = if chosen.detection, do: " and outlier detection", else: ""

    "With #{chosen.policy}#{guard} #{result(settled(facts, chosen))}; " <>
      "with round robin alone #{result(settled(facts, alone))}."
  end

  defp result(log) do
    "#{Text.percent(CallLog.error_rate(log))} of the calls failed and 99 of 100 took at most " <>
      "#{ms(log, 990)} ms"
  end

  @spec table(Style.t(), Contest.facts()) :: [IO.chardata()]
  def table(style, facts) do
    heads = [
      ["", "", "slow", "flaky", "p50", "p99", "p99.9", "", "ejec-"],
      ["", "calls", "share", "share", "ms", "ms", "ms", "errors", "tions"]
    ]

    rows =
      for contender <- both(facts) do
        later = "  from #{Text.seconds(facts.settled_ms)} on"

        [
          row(facts, contender, "#{contender.policy}", contender.log) ++ [ejections(contender)],
          row(facts, contender, later, settled(facts, contender))
        ]
      end

    Enum.map(heads, &Style.paint(style, :faint, cells(&1))) ++
      (rows |> Enum.concat() |> Enum.map(&cells/1))
  end

  defp row(facts, contender, title, log) do
    [
      title,
      String.trim(Text.number(length(log), 6)),
      Text.percent(CallLog.share(log, clients(facts, contender, :slow))),
      Text.percent(CallLog.share(log, clients(facts, contender, :flaky))),
      ms(log, 500),
      ms(log, 990),
      ms(log, 999),
      Text.percent(CallLog.error_rate(log))
    ]
  end

  defp ejections(%{detection: nil}), do: "-"
  defp ejections(contender), do: "#{told(contender.info, [:times_ejected])}"

  # Backend by backend, the callers, the balancer and the server counted the same.
  defp counts(facts) do
    equal? =
      for contender <- both(facts), backend <- contender.info.backends do
        member = Enum.find(contender.members, &(&1.name == backend.id))
        calls = CallLog.count(contender.log, [member.client])

        {member.served, backend.successes + backend.failures, backend.in_flight} ==
          {calls, calls, 0}
      end

    calls = for contender <- both(facts), do: length(contender.log)
    told = for contender <- both(facts), do: told(contender.info, [:successes, :failures])
    served = for contender <- both(facts), member <- contender.members, do: member.served || 0

    {"counts", Enum.all?(equal?),
     "#{sum(calls)} calls = #{sum(told)} in the balancers' counts = #{sum(served)} answers"}
  end

  # What fails is what a flaky server said has failed.
  defp elsewhere(facts) do
    others =
      for contender <- both(facts),
          flaky = clients(facts, contender, :flaky),
          call <- CallLog.failed(contender.log),
          call.client not in flaky or call.outcome != {:failed, :server_failed},
          do: elem(call.outcome, 1)

    {"other errors", others == [],
     Enum.join(["#{length(others)} not made by a flaky server" | Enum.uniq(others)], ", ")}
  end

  defp flaky?(facts), do: Lineup.count(facts.lineup, :flaky) > 0
  defp good?(facts), do: Lineup.count(facts.lineup, :good) > 0

  # Where most are flaky, what they fail in the moments of their return is alone too much.
  defp avoids_flaky?(facts) do
    facts.chosen.detection != nil and good?(facts) and
      2 * Lineup.count(facts.lineup, :flaky) < Lineup.size()
  end

  # The other policies promise nothing of latency. This one draws two: where more are slow, or only
  # one is good, both that are drawn are too often bad.
  defp avoids_slow?(facts) do
    facts.chosen.policy == :peak_ewma and Lineup.count(facts.lineup, :slow) == 1 and
      Lineup.count(facts.lineup, :good) > 1
  end

  defp even_errors(facts) do
    even = Lineup.even_errors(facts.lineup)
    log = settled(facts, facts.round_robin)
    rate = CallLog.error_rate(log)
    calls = @even_within_calls * Lineup.count(facts.lineup, :flaky)
    within = max(even * @even_within, calls / max(length(log), 1))
    {least, most} = {max(even - within, 0), even + within}

    {"errors, round_robin", rate >= least and rate <= most,
     "#{Text.percent(rate)} from #{Text.seconds(facts.settled_ms)} on, the even share is #{Text.percent(even)}: " <>
       "#{Text.percent(least)} to #{Text.percent(most)}"}
  end

  defp few_errors(facts) do
    rate = CallLog.error_rate(settled(facts, facts.chosen))

    {"errors, detection", rate < @most_errors,
     "#{Text.percent(rate)} from #{Text.seconds(facts.settled_ms)} on, below #{Text.percent(@most_errors)}"}
  end

  defp latency(facts) do
    [even, chosen] =
      for contender <- both(facts), do: CallLog.latency_ms(settled(facts, contender), 990)

    {"p99", chosen * @times_faster < even,
     "#{Text.decimal(chosen)} ms from #{Text.seconds(facts.settled_ms)} on, below a third of " <>
       "round_robin's #{Text.decimal(even)} ms"}
  end

  defp processes(facts) do
    statuses = for contender <- both(facts), member <- contender.members, do: member.exit_status

    {"processes", Enum.all?(statuses, &(&1 == 0)),
     "all #{length(statuses)} servers ended with #{Enum.join(Enum.uniq(statuses), " ")}"}
  end

  defp both(facts), do: [facts.round_robin, facts.chosen]

  @spec clients(Contest.facts(), Contender.t(), Lineup.kind()) :: [pid()]
  defp clients(facts, contender, kind) do
    names = Lineup.names(facts.lineup, kind)
    for member <- contender.members, member.name in names, do: member.client
  end

  # After the first sweeps.
  defp settled(facts, contender), do: CallLog.since(contender.log, facts.settled_ms)

  defp told(info, counts) do
    Enum.sum(for backend <- info.backends, count <- counts, do: backend[count])
  end

  defp sum(numbers), do: numbers |> Enum.sum() |> Text.thousands()
  # Whole milliseconds, and what fits into a column.
  defp ms(log, per_mille),
    do: log |> CallLog.latency_ms(per_mille) |> Text.number(6) |> String.trim()

  defp cells([title | cells]) do
    columns = Enum.zip_with(cells, @columns, &String.pad_leading/2)
    ["  ", String.pad_trailing(title, 20) | columns]
  end
end
