defmodule GrpcLb.Bench.Figures.RustPeers do
  @moduledoc false
  # What `bench/peers` has measured of the core alone, beside balancers and snapshots in Rust:
  # `bench/results/peers.json`, rows of a name, backends, threads, a median in nanoseconds and its
  # spread.

  alias GrpcLb.Bench.Figures.Markdown

  def section([]), do: []

  def section(rows) do
    cases = rows |> Enum.map(&{&1.backends, &1.threads}) |> Enum.uniq() |> Enum.sort()

    header = for {backends, threads} <- cases, do: "#{backends}, #{threads}t"

    [
      "The core alone, in Rust, beside its peers: nanoseconds a pick by backends and threads (t).\n\n",
      Markdown.table(
        ["" | header],
        for name <- rows |> Enum.map(& &1.name) |> Enum.uniq() do
          [name | Enum.map(cases, &ns(rows, name, &1))]
        end
      )
    ]
  end

  defp ns(rows, name, {backends, threads}) do
    case Enum.find(rows, &(&1.name == name and &1.backends == backends and &1.threads == threads)) do
      nil -> ""
      row -> row.ns_median / 1
    end
  end
end
