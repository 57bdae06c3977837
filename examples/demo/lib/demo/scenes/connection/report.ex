defmodule Demo.Scenes.Connection.Report do
  @moduledoc false
  # Judges the facts of the scene. Pure: every number comes in with the facts.

  alias Demo.Callers.{Stage, Tally}
  alias Demo.Check
  alias Demo.Scenes.Checks
  alias Demo.Servers.Fleet
  alias Demo.View.Text

  # clients    of the server's address, the latest first
  # ended      the servers that had the address before
  # back_ms    from the start of the killed one's successor to its being in the rotation
  @type entry :: %{server: Fleet.Member.t(), clients: [pid()], ended: [Fleet.Member.t()]}
  @type facts :: %{
          servers: [entry()],
          tally: Tally.t(),
          stages: [Stage.name()],
          requests: pos_integer(),
          killed: String.t(),
          back_ms: non_neg_integer()
        }

  @exit_of_killed 128 + 9

  @spec checks(facts()) :: [Check.t()]
  def checks(facts) do
    [
      Checks.requests(facts.tally, facts.requests),
      steady(facts),
      killed(facts),
      meanwhile(facts),
      back(facts),
      Checks.errors(facts.tally, facts.killed, lost_clients(facts)),
      processes(facts)
    ]
  end

  # What there is to remember.
  @spec sentence(facts()) :: String.t()
  def sentence(facts) do
    failed = count(facts, lost_clients(facts), outcome: :failed)

    "A server was killed and came back while #{n(facts.tally.sent)} requests were made. " <>
      "Lost with it: #{n(failed)}. All others were answered."
  end

  defp steady(facts) do
    clients = for %{server: server} <- facts.servers, do: first_client(facts, server.name)
    Checks.even(facts.tally, "steady, #{length(clients)} servers", clients, :steady)
  end

  defp killed(facts) do
    client = first_client(facts, facts.killed)
    late = count(facts, [client], stages: Stage.from(facts.stages, :down))
    {"#{facts.killed} killed", late == 0, "#{n(late)} picks since its client's end"}
  end

  defp meanwhile(facts) do
    others = Enum.reject(facts.servers, &(&1.server.name == facts.killed))

    picks =
      for entry <- others, do: {entry.server.name, count(facts, entry.clients, stages: [:down])}

    {"meanwhile", Enum.all?(picks, fn {_name, n} -> n > 0 end),
     Enum.map_join(picks, ", ", fn {name, picks} -> "#{n(picks)} picks of #{name}" end)}
  end

  defp back(facts) do
    [latest | before] = entry(facts, facts.killed).clients
    picks = count(facts, [latest], stages: [:back])

    {"#{facts.killed} back", picks > 0 and before != [],
     "#{n(picks)} picks, the first #{n(facts.back_ms)} ms after it was up"}
  end

  defp processes(facts) do
    statuses = for %{server: server} <- facts.servers, do: server.exit_status
    killed = for %{exit_status: status} <- entry(facts, facts.killed).ended, do: status

    {"processes", killed == [@exit_of_killed] and Enum.uniq(statuses) == [0],
     "all #{length(statuses) + length(killed)} ended: #{facts.killed} with " <>
       "#{Enum.join(killed, " ")}, the others with #{statuses |> Enum.uniq() |> Enum.join(" ")}"}
  end

  defp count(facts, clients, filters) do
    clients |> Enum.map(&Tally.count(facts.tally, [client: &1] ++ filters)) |> Enum.sum()
  end

  # Of the killed one. The one that is lost is opened again at once, which can be before the server is dead.
  defp lost_clients(facts), do: tl(entry(facts, facts.killed).clients)

  defp first_client(facts, name), do: List.last(entry(facts, name).clients)

  defp entry(facts, name), do: Enum.find(facts.servers, &(&1.server.name == name))

  defp n(number), do: Text.thousands(number)
end
