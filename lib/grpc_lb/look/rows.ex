defmodule GrpcLb.Look.Rows do
  # The backends of a balancer as the rows of a table: what happened to each between two samples, or, of
  # one sample alone, ever.
  @moduledoc false

  alias GrpcLb.Look.{Sample, Shown}

  @type row :: %{
          id: String.t(),
          state: String.t(),
          tone: :good | :waiting | :bad,
          weight: String.t(),
          share: float(),
          # Whether it was had, or is what the weights say.
          measured: boolean(),
          # Of picks: a second, or ever.
          picks: number(),
          in_flight: non_neg_integer(),
          latency_ns: non_neg_integer() | nil,
          failures: non_neg_integer(),
          fails: boolean()
        }

  @doc "The rows of a sample, in the order of its backends."
  @spec between(Sample.t() | nil, Sample.t()) :: [row()]
  def between(before, now) do
    earlier = if before, do: Map.new(before.backends, &{&1.key, &1}), else: %{}
    left_out = before != nil and before.left_out > 0

    counted =
      for backend <- now.backends do
        # Of one that may have been left out nothing is known.
        unknown = if left_out, do: backend, else: %{picks: 0, failures: 0}
        was = Map.get(earlier, backend.key, unknown)
        # One that was forgotten and came again counts from 0.
        {backend, max(backend.picks - was.picks, 0), backend.failures > was.failures}
      end

    # Those of all: backends that have gone took their counts with them.
    all = now.totals.picks - if(before, do: before.totals.picks, else: 0)
    total = counted |> Enum.map(&elem(&1, 1)) |> Enum.sum() |> max(all)
    seconds = if before, do: max(now.at - before.at, 1) / 1_000, else: 1

    for {backend, picks, fails} <- counted do
      %{
        id: backend.id,
        state: state(backend),
        tone: tone(backend.state),
        weight: weight(backend),
        share: if(total > 0, do: picks / total, else: backend.due),
        measured: total > 0,
        picks: if(before, do: picks / seconds, else: picks),
        in_flight: backend.in_flight,
        latency_ns: backend.latency_ns,
        failures: backend.failures,
        fails: before != nil and fails
      }
    end
  end

  defp state(%{state: :ejected, left: left, ejected_by: rule}),
    do: "ejected #{Shown.ms(left)} (#{reason(rule)})"

  defp state(%{state: :down}), do: "down: owner died"
  defp state(%{state: :transient_failure}), do: "failing"
  defp state(%{state: :unused}), do: "not in subset"
  defp state(%{state: :ready, current_weight: nil}), do: "awaits reports"
  defp state(%{state: state}), do: Atom.to_string(state)

  # In few columns; `GrpcLb.describe/1` tells what they mean.
  defp reason(:consecutive_failures), do: "row"
  defp reason(:consecutive_transport_failures), do: "net"
  defp reason(:failure_percentage), do: "rate"
  defp reason(:success_rate), do: "peers"
  # A build of the library that did not tell.
  defp reason(nil), do: "?"

  defp tone(:ready), do: :good
  defp tone(state) when state in [:ejected, :down, :transient_failure], do: :bad
  defp tone(_other), do: :waiting

  defp weight(%{weight: weight, current_weight: now}) do
    given = Shown.number(weight)

    case Shown.number(now) do
      ^given -> given
      now -> "#{given}→#{now}"
    end
  end
end
