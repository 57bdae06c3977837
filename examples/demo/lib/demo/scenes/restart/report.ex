defmodule Demo.Scenes.Restart.Report do
  @moduledoc false
  # Judges the facts of the scene. Pure: every number comes in with the facts.

  alias Demo.Callers.{Stage, Tally}
  alias Demo.Check
  alias Demo.Scenes.Checks
  alias Demo.Servers.Fleet
  alias Demo.View.Text

  # ended       the processes that had the server's address before
  # successes   the connection's own count of calls that were answered
  @type facts :: %{
          servers: [%{server: Fleet.Member.t(), ended: [Fleet.Member.t()]}],
          tally: Tally.t(),
          successes: non_neg_integer(),
          stages: [Stage.name()],
          requests: pos_integer()
        }

  @spec checks(facts()) :: [Check.t()]
  def checks(facts) do
    [
      Checks.requests(facts.tally, facts.requests),
      failures(facts),
      counts(facts),
      served(facts),
      processes(facts)
    ]
  end

  # What there is to remember.
  @spec sentence(facts()) :: String.t()
  def sentence(facts) do
    "All #{length(facts.servers)} servers restarted, one after the other, while " <>
      "#{n(count(facts, stages: [:restarting]))} requests were made. Not one failed."
  end

  defp failures(facts) do
    failed = count(facts, outcome: :failed)
    reasons = facts.tally |> Tally.failures() |> Map.keys() |> Enum.join(", ")
    {"no failed call", failed == 0, String.trim("#{n(failed)} failed #{reasons}")}
  end

  # Callers, connection and servers count by themselves.
  defp counts(facts) do
    answered = count(facts, outcome: :answered)
    served = facts |> processes_of() |> Enum.map(&(&1.served || 0)) |> Enum.sum()

    {"all agree", answered == facts.successes and answered == served,
     "#{n(answered)} to the callers, #{n(facts.successes)} in the connection, #{n(served)} by the servers"}
  end

  defp served(facts) do
    numbers = for process <- processes_of(facts), do: process.served || 0

    {"each has served", Enum.all?(numbers, &(&1 > 0)),
     Enum.map_join(facts.servers, ", ", fn %{server: server, ended: ended} ->
       numbers = for process <- Enum.reverse([server | ended]), do: n(process.served || 0)
       "#{server.name} #{Enum.join(numbers, " and ")}"
     end)}
  end

  defp processes(facts) do
    restarted? = Enum.all?(facts.servers, &(length(&1.ended) == 1))
    statuses = for process <- processes_of(facts), do: process.exit_status

    {"processes", restarted? and Enum.uniq(statuses) == [0],
     "#{length(statuses)} for #{length(facts.servers)} servers, all ended with " <>
       "#{statuses |> Enum.uniq() |> Enum.join(", ")}"}
  end

  defp processes_of(facts), do: Enum.flat_map(facts.servers, &[&1.server | &1.ended])

  defp count(facts, filters), do: Tally.count(facts.tally, filters)

  defp n(number), do: Text.thousands(number)
end
