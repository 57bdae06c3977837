defmodule Demo.Scenes.Balancer.Report do
  @moduledoc false
  # Judges the facts of the scene and writes them down. Pure: every number comes in with the facts.

  alias Demo.Callers.{Meter, Stage, Tally}
  alias Demo.Check
  alias Demo.Scenes.Checks
  alias Demo.Servers.Fleet
  alias Demo.View.{Style, Text}

  # removal_us       from the end of the killed one's client to its being out of the
  #                  rotation; nil if it never was
  # joined, left     what the two reconciles returned
  # left_in_flight   requests that the drained one still had as it was reconciled out
  @type facts :: %{
          members: [Fleet.Member.t()],
          tally: Tally.t(),
          stages: [Stage.name()],
          requests: pos_integer(),
          first: [String.t()],
          killed: String.t(),
          new: [String.t()],
          drained: String.t(),
          removal_us: non_neg_integer() | nil,
          joined: map(),
          left: map(),
          left_in_flight: integer(),
          schedulers: pos_integer()
        }

  # The kill, the two that join, the one that leaves.
  @changes 3
  @exit_of_killed 128 + 9

  @columns [10, 12, 10, 10, 10, 11, 8]

  @spec checks(facts()) :: [Check.t()]
  def checks(facts) do
    [
      Checks.requests(facts.tally, facts.requests),
      wire(facts),
      servers(facts),
      balancer(facts),
      steady(facts, "steady", :steady, facts.first),
      changing(facts),
      steady(facts, "settled", :settled, names(facts, &(&1.state == :stopped))),
      killed(facts),
      Checks.errors(facts.tally, facts.killed, [member(facts, facts.killed).client]),
      waits(facts),
      joined(facts),
      drained(facts),
      order(facts),
      processes(facts)
    ]
  end

  # What there is to remember.
  @spec sentence(facts()) :: String.t()
  def sentence(facts) do
    "One server of #{length(facts.first)} was killed, #{length(facts.new)} joined and one left " <>
      "while #{n(facts.tally.sent)} requests were made. Lost with the killed one: " <>
      "#{n(failed_at(facts, facts.killed))}. All others were answered."
  end

  # What each side counted: the callers, the balancer, the servers.
  @spec table(Style.t(), facts()) :: [IO.chardata()]
  def table(style, facts) do
    heads = [
      ["", "callers'", "balancer's", "callers'", "callers'", "server's", "", "exit"],
      ["server", "picks", "picks", "answers", "failures", "answers", "overtaken", "status"]
    ]

    rows =
      for member <- facts.members do
        [
          member.name,
          count(facts, member),
          member.picks,
          count(facts, member, outcome: :answered),
          count(facts, member, outcome: :failed),
          member.served,
          Meter.get(member.meter, :overtaken),
          member.exit_status
        ]
      end

    Enum.map(heads, &Style.paint(style, :faint, cells(&1))) ++ Enum.map(rows, &cells/1)
  end

  # A request that failed with :not_connected was never sent.
  defp wire(facts) do
    sent = metered(facts, :sent)
    answered = metered(facts, :answered)
    lost = Tally.count(facts.tally, outcome: {:failed, :connection_lost})

    {"on the wire", sent == answered + lost,
     "#{n(sent)} sent = #{n(answered)} answered + #{n(lost)} lost with #{facts.killed}"}
  end

  defp servers(facts) do
    equal? =
      Enum.all?(facts.members, fn member ->
        callers = count(facts, member, outcome: :answered)
        member.served == callers and Meter.get(member.meter, :answered) == callers
      end)

    served = facts.members |> Enum.map(&(&1.served || 0)) |> Enum.sum()
    answered = Tally.count(facts.tally, outcome: :answered)

    {"servers' counts", equal?, "#{n(served)} answers there = #{n(answered)} at the callers"}
  end

  # The drained one's count left the balancer with it.
  defp balancer(facts) do
    listed = Enum.reject(facts.members, &(&1.name == facts.drained))
    picked = listed |> Enum.map(&count(facts, &1)) |> Enum.sum()
    told = listed |> Enum.map(&(&1.picks || 0)) |> Enum.sum()

    {"balancer's counts", Enum.all?(listed, &(&1.picks == count(facts, &1))),
     "#{n(told)} picks there = #{n(picked)} at the callers, without #{facts.drained}"}
  end

  defp steady(facts, title, stage, names) do
    clients = for name <- names, do: member(facts, name).client
    Checks.even(facts.tally, "#{title}, #{length(names)} servers", clients, stage)
  end

  # Over each list by itself the counts are at most one apart. Around a change, each scheduler
  # may have one pick under way on the old list: it adds to one count there and leaves a gap in
  # the rotation of the new list.
  defp changing(facts) do
    names = facts.first -- [facts.killed, facts.drained]
    {least, most} = extremes(facts, names, Stage.between(facts.stages, :changing, :drained))
    bound = @changes + 1 + @changes * 2 * facts.schedulers

    {"changing, #{Enum.join(names, " ")}", most - least <= bound,
     "#{n(least)} to #{n(most)} picks each, #{most - least} apart, at most #{bound}"}
  end

  defp killed(facts) do
    late = count(facts, member(facts, facts.killed), stages: Stage.from(facts.stages, :taken_out))
    out = if facts.removal_us, do: "out within #{n(facts.removal_us + 1)} us", else: "never out"

    {"#{facts.killed} killed", late == 0 and facts.removal_us != nil,
     "#{out} of its client's end, #{n(late)} picks since"}
  end

  defp waits(facts) do
    timeouts = Tally.count(facts.tally, outcome: {:failed, :timeout})

    {"waits", timeouts == 0,
     "#{n(timeouts)} timeouts, slowest request #{n(div(facts.tally.slowest_us, 1000))} ms"}
  end

  defp joined(facts) do
    expected = %{added: length(facts.new), removed: 1, kept: length(facts.first) - 1}
    picks = for name <- facts.new, do: count(facts, member(facts, name))
    failed = facts.new |> Enum.map(&failed_at(facts, &1)) |> Enum.sum()

    {"#{Enum.join(facts.new, " ")} joined",
     facts.joined == expected and failed == 0 and Enum.all?(picks, &(&1 > 0)),
     "#{changes(facts.joined)}; #{Enum.map_join(picks, " + ", &n/1)} picks"}
  end

  defp drained(facts) do
    expected = %{added: 0, removed: 1, kept: length(facts.first) + length(facts.new) - 2}
    late = count(facts, member(facts, facts.drained), stages: Stage.from(facts.stages, :drained))
    failed = failed_at(facts, facts.drained)

    {"#{facts.drained} drained", facts.left == expected and late == 0 and failed == 0,
     "removed #{facts.left.removed}; #{facts.left_in_flight} still in flight, " <>
       "#{n(failed)} failed, #{n(late)} picks since"}
  end

  defp order(facts) do
    overtaken = metered(facts, :overtaken)
    wrong = Tally.count(facts.tally, outcome: {:failed, :wrong_answer})

    {"out of order", overtaken > 0 and wrong == 0,
     "#{n(overtaken)} answers overtaken, #{n(wrong)} to the wrong caller"}
  end

  defp processes(facts) do
    {killed, others} = Enum.split_with(facts.members, &(&1.name == facts.killed))
    killed = Enum.map(killed, & &1.exit_status)
    others = others |> Enum.map(& &1.exit_status) |> Enum.uniq()

    {"processes", killed == [@exit_of_killed] and others == [0],
     "all #{length(facts.members)} ended: #{facts.killed} with #{Enum.join(killed)}, " <>
       "the others with #{Enum.join(others, " ")}"}
  end

  defp extremes(facts, names, stages) do
    names |> Enum.map(&count(facts, member(facts, &1), stages: stages)) |> Enum.min_max()
  end

  defp count(facts, member, filters \\ []) do
    Tally.count(facts.tally, [client: member.client] ++ filters)
  end

  defp failed_at(facts, name), do: count(facts, member(facts, name), outcome: :failed)

  defp metered(facts, field) do
    facts.members |> Enum.map(&Meter.get(&1.meter, field)) |> Enum.sum()
  end

  defp member(facts, name), do: Enum.find(facts.members, &(&1.name == name))

  defp names(facts, filter),
    do: for(member <- Enum.filter(facts.members, filter), do: member.name)

  defp changes(%{added: added, removed: removed, kept: kept}) do
    "added #{added}, removed #{removed}, kept #{kept}"
  end

  defp cells([name | numbers]) do
    columns =
      for {number, width} <- Enum.zip(numbers, @columns) do
        String.pad_leading(cell(number, width), width)
      end

    ["  ", String.pad_trailing(name, 6) | columns]
  end

  defp cell(nil, _width), do: "-"
  defp cell(number, width) when is_integer(number), do: Text.number(number, width - 1)
  defp cell(text, _width), do: to_string(text)

  defp n(number), do: Text.thousands(number)
end
