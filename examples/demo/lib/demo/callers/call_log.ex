defmodule Demo.Callers.CallLog do
  @moduledoc false
  # All calls of a run, each by itself, and what can be asked of them. The calls write themselves
  # into a table, which the view reads while they run; all else is asked of its list.

  alias Demo.Callers.Tally

  # client    nil where none was had
  # at_ms     from the beginning of the run to that of the call
  @type call :: %{
          client: pid() | nil,
          at_ms: non_neg_integer(),
          took_us: non_neg_integer(),
          outcome: Tally.outcome()
        }
  @type t :: [call()]

  @spec new() :: :ets.table()
  def new, do: :ets.new(__MODULE__, [:public, write_concurrency: true])

  @spec add(:ets.table(), call()) :: true
  def add(table, call), do: :ets.insert(table, {make_ref(), call})

  @spec calls(:ets.table()) :: t()
  def calls(table), do: for({_ref, call} <- :ets.tab2list(table), do: call)

  @spec count(t(), [pid()]) :: non_neg_integer()
  def count(log, clients), do: Enum.count(log, &(&1.client in clients))

  @spec share(t(), [pid()]) :: float()
  def share(log, clients), do: count(log, clients) / max(length(log), 1)

  @spec failed(t()) :: t()
  def failed(log), do: Enum.filter(log, &(&1.outcome != :answered))

  # The calls that began `ms` into the run, or later.
  @spec since(t(), integer()) :: t()
  def since(log, ms), do: Enum.filter(log, &(&1.at_ms >= ms))

  @spec error_rate(t()) :: float()
  def error_rate(log), do: length(failed(log)) / max(length(log), 1)

  # In milliseconds: so many of 1,000 calls took no longer, failed ones among them.
  @spec latency_ms(t(), 1..1000) :: float()
  def latency_ms([], _per_mille), do: 0.0

  def latency_ms(log, per_mille) do
    rank = ceil(length(log) * per_mille / 1000)
    (log |> Enum.map(& &1.took_us) |> Enum.sort() |> Enum.at(rank - 1)) / 1000
  end
end
