defmodule Demo.Callers.Tally do
  @moduledoc false
  # What a caller counts for itself: how many of its requests came to which outcome, at which
  # client, in which stage. Tallies merge; every question about the callers is asked here.

  alias Demo.Callers.Stage

  @type outcome :: :answered | {:failed, atom()}
  @type t :: %__MODULE__{
          sent: non_neg_integer(),
          slowest_us: non_neg_integer(),
          counts: %{{Stage.name(), client :: pid() | nil, outcome()} => pos_integer()}
        }

  defstruct sent: 0, slowest_us: 0, counts: %{}

  # Before the request: so one that never came to an outcome would show.
  @spec sent(t()) :: t()
  def sent(tally), do: %{tally | sent: tally.sent + 1}

  @spec outcome(t(), Stage.name(), pid() | nil, outcome(), non_neg_integer()) :: t()
  def outcome(tally, stage, client, outcome, took_us) do
    counts = Map.update(tally.counts, {stage, client, outcome}, 1, &(&1 + 1))
    %{tally | counts: counts, slowest_us: max(tally.slowest_us, took_us)}
  end

  @spec merge([t()]) :: t()
  def merge(tallies) do
    Enum.reduce(tallies, %__MODULE__{}, fn tally, sum ->
      %__MODULE__{
        sent: sum.sent + tally.sent,
        slowest_us: max(sum.slowest_us, tally.slowest_us),
        counts: Map.merge(sum.counts, tally.counts, fn _key, a, b -> a + b end)
      }
    end)
  end

  # The requests that match every given filter: `stages:`, `client:`, `outcome:`
  # (`:answered`, `:failed`, or one kind of failure, as `{:failed, :timeout}`).
  @spec count(t(), keyword()) :: non_neg_integer()
  def count(tally, filters \\ []) do
    tally.counts
    |> Enum.filter(fn {key, _n} -> Enum.all?(filters, &match(&1, key)) end)
    |> Enum.map(fn {_key, n} -> n end)
    |> Enum.sum()
  end

  @spec failures(t()) :: %{atom() => pos_integer()}
  def failures(tally) do
    for {{_stage, _client, {:failed, reason}}, n} <- tally.counts, reduce: %{} do
      sum -> Map.update(sum, reason, n, &(&1 + n))
    end
  end

  defp match({:stages, stages}, {stage, _client, _outcome}), do: stage in stages
  defp match({:client, client}, key), do: elem(key, 1) == client
  defp match({:outcome, :failed}, {_stage, _client, outcome}), do: outcome != :answered
  defp match({:outcome, outcome}, key), do: elem(key, 2) == outcome
end
