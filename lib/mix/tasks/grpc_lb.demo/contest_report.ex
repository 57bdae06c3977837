defmodule Mix.Tasks.GrpcLb.Demo.ContestReport do
  @moduledoc false
  # Judges the facts of a contest and writes them down. Pure, as `Report`.

  alias Mix.Tasks.GrpcLb.Demo.{CallLog, Contest, Lineup, Report, Style}
  alias Mix.Tasks.GrpcLb.Demo.Contest.Contender

  # Of the calls after the first sweeps.
  @most_errors 0.02
  # How far round robin's errors may be from the flaky servers' share, as a part of it.
  @even_within 0.25
  @times_faster 3

  @columns [8, 8, 8, 8, 8, 8, 8, 6]

  # What is judged depends on who takes part, and how many good servers there are to go to.
  @spec checks(Contest.facts()) :: [Report.check()]
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
  @spec terms(Contest.setup()) :: [IO.chardata()]
  def terms(setup) do
    servers = for {names, what} <- Lineup.describe(setup.lineup), do: {names, [what]}
    policies = for it <- Contest.contenders(setup), do: {Atom.to_string(it.policy), terms_of(it)}

    for {name, lines} <- servers ++ policies, {line, index} <- Enum.with_index(lines) do
      ["  ", String.pad_trailing(if(index == 0, do: name, else: ""), 21), line]
    end
  end

  defp terms_of(%{detection: nil}), do: ["alone"]

  defp terms_of(%{options: options, detection: detection}) do
    own = for {option, setting} <- options, do: "#{option}: #{setting}, "
    interval = seconds(detection[:interval])

    [
      "#{own}with outlier detection: a sweep every #{interval}",
      "ejects who failed more than #{detection[:failure_percentage][:threshold]} %, for " <>
        "#{seconds(detection[:base_ejection_time])}, the next time for twice that;",
      "in between it is back for #{interval}; #{detection[:max_ejection_percent]} % of all may " <>
        "be ejected at a time"
    ]
  end

  # How far they have come, by what their balancers say.
  @spec progress(pos_integer(), [Contender.t()]) :: String.t()
  def progress(second, contenders) do
    String.pad_leading("#{second}.0 s  ", 10) <> Enum.map_join(contenders, "; ", &progress_of/1)
  end

  defp progress_of(contender) do
    %{info: info} = contender
    ejected = for %{ejected_until: until} = backend <- info.backends, until != nil, do: backend.id
    away = if ejected == [], do: "", else: ", #{Enum.join(ejected, " ")} ejected"

    "#{contender.policy} #{sum([told(info, [:failures])])} of " <>
      "#{sum([told(info, [:successes, :failures])])} failed#{away}"
  end

  @spec table(Style.t(), Contest.facts()) :: [IO.chardata()]
  def table(style, facts) do
    heads = [
      ["", "", "slow", "flaky", "p50", "p99", "p99.9", "", "ejec-"],
      ["", "calls", "share", "share", "ms", "ms", "ms", "errors", "tions"]
    ]

    rows =
      for contender <- both(facts) do
        [
          row(facts, contender, title(facts, contender), contender.log) ++ [ejections(contender)],
          row(
            facts,
            contender,
            "  from #{seconds(facts.settled_ms)} on",
            settled(facts, contender)
          )
        ]
      end

    Enum.map(heads, &Style.paint(style, :faint, cells(&1))) ++
      (rows |> Enum.concat() |> Enum.map(&cells/1))
  end

  defp row(facts, contender, title, log) do
    [
      title,
      Style.thousands(length(log)),
      percent(CallLog.share(log, connections(facts, contender, :slow))),
      percent(CallLog.share(log, connections(facts, contender, :flaky))),
      decimal(CallLog.latency_ms(log, 500)),
      decimal(CallLog.latency_ms(log, 990)),
      decimal(CallLog.latency_ms(log, 999)),
      percent(CallLog.error_rate(log))
    ]
  end

  defp ejections(%{detection: nil}), do: "-"
  defp ejections(contender), do: "#{told(contender.info, [:times_ejected])}"

  defp title(%{round_robin: alone}, alone), do: "round_robin alone"
  defp title(_facts, chosen), do: Atom.to_string(chosen.policy)

  # Backend by backend, the callers, the balancer and the server counted the same.
  defp counts(facts) do
    equal? =
      for contender <- both(facts), backend <- contender.info.backends do
        member = Enum.find(contender.members, &(&1.name == backend.id))
        calls = CallLog.count(contender.log, [member.connection])

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
          flaky = connections(facts, contender, :flaky),
          call <- CallLog.failed(contender.log),
          call.connection not in flaky or call.outcome != {:failed, :server_failed},
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
    rate = CallLog.error_rate(settled(facts, facts.round_robin))
    {least, most} = {even * (1 - @even_within), even * (1 + @even_within)}

    {"errors, round_robin", rate >= least and rate <= most,
     "#{percent(rate)} from #{seconds(facts.settled_ms)} on, the even share is #{percent(even)}: " <>
       "#{percent(least)} to #{percent(most)}"}
  end

  defp few_errors(facts) do
    rate = CallLog.error_rate(settled(facts, facts.chosen))

    {"errors, detection", rate < @most_errors,
     "#{percent(rate)} from #{seconds(facts.settled_ms)} on, below #{percent(@most_errors)}"}
  end

  defp latency(facts) do
    [even, chosen] =
      for contender <- both(facts), do: CallLog.latency_ms(settled(facts, contender), 990)

    {"p99", chosen * @times_faster < even,
     "#{decimal(chosen)} ms from #{seconds(facts.settled_ms)} on, below a third of " <>
       "round_robin's #{decimal(even)} ms"}
  end

  defp processes(facts) do
    statuses = for contender <- both(facts), member <- contender.members, do: member.exit_status

    {"processes", Enum.all?(statuses, &(&1 == 0)),
     "all #{length(statuses)} servers ended with #{Enum.join(Enum.uniq(statuses), " ")}"}
  end

  defp both(facts), do: [facts.round_robin, facts.chosen]

  @spec connections(Contest.facts(), Contender.t(), Lineup.kind()) :: [pid()]
  defp connections(facts, contender, kind) do
    names = Lineup.names(facts.lineup, kind)
    for member <- contender.members, member.name in names, do: member.connection
  end

  # After the first sweeps.
  defp settled(facts, contender), do: CallLog.since(contender.log, facts.settled_ms)

  defp told(info, counts) do
    Enum.sum(for backend <- info.backends, count <- counts, do: backend[count])
  end

  defp sum(numbers), do: numbers |> Enum.sum() |> Style.thousands()
  defp seconds(ms), do: decimal(ms / 1000) <> " s"
  defp percent(fraction), do: decimal(fraction * 100) <> " %"
  defp decimal(number), do: :erlang.float_to_binary(number / 1, decimals: 1)

  defp cells([title | cells]) do
    columns = Enum.zip_with(cells, @columns, &String.pad_leading/2)
    ["  ", String.pad_trailing(title, 20) | columns]
  end
end
