defmodule Demo.Scenes.Checks do
  @moduledoc false
  # What must hold in every scene with callers.

  alias Demo.Callers.{Stage, Tally}
  alias Demo.Check
  alias Demo.View.Text

  # Every request has come to an outcome, and there were enough.
  @spec requests(Tally.t(), pos_integer()) :: Check.t()
  def requests(%{sent: sent} = tally, least) do
    answered = Tally.count(tally, outcome: :answered)
    failed = Tally.count(tally, outcome: :failed)

    {"requests", sent == answered + failed and sent >= least,
     "#{n(sent)} sent = #{n(answered)} answered + #{n(failed)} failed"}
  end

  # Round robin is exact over a list that does not change.
  @spec even(Tally.t(), String.t(), [pid()], Stage.name()) :: Check.t()
  def even(tally, title, clients, stage) do
    picks = for client <- clients, do: Tally.count(tally, client: client, stages: [stage])
    {least, most} = Enum.min_max(picks)

    {title, most - least <= 1,
     "#{n(least)} to #{n(most)} picks each, #{most - least} apart, at most 1"}
  end

  # What failed was lost with the one that was killed, and had no other reason.
  @spec errors(Tally.t(), killed :: String.t(), [pid()]) :: Check.t()
  def errors(tally, killed, clients) do
    here = clients |> Enum.map(&Tally.count(tally, client: &1, outcome: :failed)) |> Enum.sum()
    elsewhere = Tally.count(tally, outcome: :failed) - here
    failures = Tally.failures(tally)
    known? = Map.keys(failures) -- [:connection_lost, :not_connected] == []

    reasons =
      if failures == %{},
        do: "",
        else: " (" <> Enum.map_join(failures, ", ", fn {why, m} -> "#{n(m)} #{why}" end) <> ")"

    {"errors", elsewhere == 0 and known?,
     "#{n(here)} at #{killed}, #{n(elsewhere)} elsewhere#{reasons}"}
  end

  defp n(number), do: Text.thousands(number)
end
