defmodule Demo.Scenes.Pool.Report do
  @moduledoc false
  # Judges the facts of the scene. Pure: every number comes in with the facts.

  alias Demo.Callers.{Meter, Stage, Tally}
  alias Demo.Check
  alias Demo.Scenes.Checks
  alias Demo.Servers.Fleet
  alias Demo.View.Text

  # picks         the pool's count of a member; nil of one that is no member any more
  # left_alive?   whether the one that left lived on
  @type member :: %{
          name: String.t(),
          client: pid(),
          meter: Meter.t(),
          state: :member | :left | :killed,
          picks: non_neg_integer() | nil
        }
  @type facts :: %{
          server: Fleet.Member.t(),
          members: [member()],
          tally: Tally.t(),
          stages: [Stage.name()],
          requests: pos_integer(),
          first: [String.t()],
          joined: String.t(),
          left: String.t(),
          killed: String.t(),
          replaced: String.t(),
          left_alive?: boolean()
        }

  @spec checks(facts()) :: [Check.t()]
  def checks(facts) do
    [
      Checks.requests(facts.tally, facts.requests),
      steady(facts),
      pool(facts),
      joined(facts, facts.joined, "joined"),
      left(facts),
      killed(facts),
      joined(facts, facts.replaced, "replaced #{facts.killed}"),
      Checks.errors(facts.tally, facts.killed, [client(facts, facts.killed)]),
      server(facts)
    ]
  end

  # What there is to remember.
  @spec sentence(facts()) :: String.t()
  def sentence(facts) do
    failed = count(facts, facts.killed, outcome: :failed)

    "A member joined, one left, one was killed and replaced while #{n(facts.tally.sent)} " <>
      "requests were made. Lost with the killed one: #{n(failed)}. All others were answered."
  end

  defp steady(facts) do
    clients = for name <- facts.first, do: client(facts, name)
    Checks.even(facts.tally, "steady, #{length(clients)} members", clients, :steady)
  end

  # Who has left took its count along.
  defp pool(facts) do
    members = Enum.filter(facts.members, &(&1.state == :member))
    told = members |> Enum.map(&(&1.picks || 0)) |> Enum.sum()
    picked = members |> Enum.map(&count(facts, &1.name)) |> Enum.sum()

    {"pool's counts", Enum.all?(members, &(&1.picks == count(facts, &1.name))),
     "#{n(told)} picks there = #{n(picked)} at the callers"}
  end

  defp joined(facts, name, how) do
    picks = count(facts, name)
    failed = count(facts, name, outcome: :failed)
    {"#{name} #{how}", picks > 0 and failed == 0, "#{n(picks)} picks, #{n(failed)} failed"}
  end

  defp left(facts) do
    late = count(facts, facts.left, stages: Stage.from(facts.stages, :left))
    failed = count(facts, facts.left, outcome: :failed)
    alive = if facts.left_alive?, do: "its process lives on", else: "its process is dead"

    {"#{facts.left} left", late == 0 and failed == 0 and facts.left_alive?,
     "#{n(late)} picks since, #{n(failed)} failed, #{alive}"}
  end

  defp killed(facts) do
    late = count(facts, facts.killed, stages: Stage.from(facts.stages, :killed))
    {"#{facts.killed} killed", late == 0, "#{n(late)} picks since its death was known"}
  end

  defp server(facts) do
    {"process", facts.server.exit_status == 0,
     "the server ended with #{facts.server.exit_status}"}
  end

  defp count(facts, name, filters \\ []) do
    Tally.count(facts.tally, [client: client(facts, name)] ++ filters)
  end

  defp client(facts, name), do: Enum.find(facts.members, &(&1.name == name)).client

  defp n(number), do: Text.thousands(number)
end
