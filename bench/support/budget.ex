defmodule GrpcLb.Bench.Budget do
  @moduledoc false
  # A figure that the design sets a limit to, and whether it is kept.
  #
  # A limit is missed where the median is beyond it. That is sure where the whole interval is, and
  # what is not sure is worth more observations. An aim is only shown.

  @enforce_keys [:what]
  defstruct [:what, :limit, :aim, bound: :at_most, unit: "x"]

  @type t :: %__MODULE__{
          what: String.t(),
          limit: number | nil,
          aim: number | nil,
          bound: :at_most | :at_least,
          unit: String.t()
        }

  # As a share of the median, the width of an interval that is narrow enough to be shown.
  @narrow 0.1

  @doc "The row of a budget that was measured, with an interval of `GrpcLb.Bench.Stats`."
  def judge(%__MODULE__{} = budget, interval) do
    budget
    |> Map.from_struct()
    |> Map.merge(%{
      measured: interval.median,
      low: interval.low,
      high: interval.high,
      observations: interval.observations,
      met: met(budget, interval.median),
      sure: sure?(budget, interval)
    })
  end

  @doc "As `judge/2`, of what was measured once."
  def judge_once(budget, figure) do
    judge(budget, %{median: figure, low: figure, high: figure, observations: 1})
  end

  @doc "Whether more observations could tell more: the interval is wide, or holds the limit."
  def settled?(%__MODULE__{limit: nil}, interval), do: narrow?(interval)
  def settled?(budget, interval), do: narrow?(interval) or sure?(budget, interval)

  @doc "A row in words."
  def sentence(row) do
    "#{row.what}: #{number(row.measured)} #{row.unit} " <>
      "(#{number(row.low)} to #{number(row.high)}), #{bound(row)} #{number(row.limit)}"
  end

  @doc "All rows, as a table."
  def table(rows) do
    {"budgets (medians of the ratios within each observation, and their intervals)",
     ["", "measured", "from", "to", "", "", "limit", "aim", ""],
     for row <- rows do
       [row.what, row.measured, row.low, row.high, row.unit, bound(row), row.limit, row.aim] ++
         [verdict(row)]
     end}
  end

  defp verdict(%{met: nil, aim: nil}), do: "-"
  defp verdict(%{met: nil, aim: aim, measured: measured}) when measured <= aim, do: "aim met"
  defp verdict(%{met: nil}), do: "aim missed"
  defp verdict(%{met: met, sure: true}), do: word(met)
  defp verdict(%{met: met, settled: false}), do: word(met) <> "? (time was up)"
  defp verdict(%{met: met}), do: word(met) <> "?"

  defp word(true), do: "met"
  defp word(false), do: "MISSED"

  def bound(row), do: row.bound |> to_string() |> String.replace("_", " ")

  defdelegate number(number), to: GrpcLb.Bench.Table, as: :cell

  @doc "The rows whose limit is missed."
  def missed(rows), do: Enum.filter(rows, &(&1.met == false))

  defp narrow?(%{median: median, low: low, high: high}), do: high - low <= @narrow * abs(median)

  defp sure?(%{limit: nil}, _interval), do: true
  defp sure?(%{limit: limit}, %{low: low, high: high}), do: limit < low or limit >= high

  defp met(%{limit: nil}, _measured), do: nil
  defp met(%{limit: limit, bound: :at_most}, measured), do: measured <= limit
  defp met(%{limit: limit, bound: :at_least}, measured), do: measured >= limit
end
