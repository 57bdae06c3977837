defmodule Mix.Tasks.GrpcLb.Demo.CallLog do
  @moduledoc false
  # All calls of a run, each by itself, and what can be asked of them.

  alias Mix.Tasks.GrpcLb.Demo.Tally

  # connection    nil where none was had
  # at_ms         from the beginning of the run to that of the call
  @type call :: %{
          connection: pid() | nil,
          at_ms: non_neg_integer(),
          took_us: non_neg_integer(),
          outcome: Tally.outcome()
        }
  @type t :: [call()]

  @spec count(t(), [pid()]) :: non_neg_integer()
  def count(log, connections), do: Enum.count(log, &(&1.connection in connections))

  @spec share(t(), [pid()]) :: float()
  def share(log, connections), do: count(log, connections) / max(length(log), 1)

  @spec failed(t()) :: t()
  def failed(log), do: Enum.filter(log, &(&1.outcome != :answered))

  # The calls that began `ms` into the run, or later.
  @spec since(t(), non_neg_integer()) :: t()
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
