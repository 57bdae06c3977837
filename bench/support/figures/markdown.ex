defmodule GrpcLb.Bench.Figures.Markdown do
  @moduledoc false

  alias GrpcLb.Bench.Table

  @doc "A table, the first column to the left, the others to the right."
  def table(header, rows) do
    marks = ["---" | List.duplicate("---:", length(header) - 1)]
    Enum.map([header, marks | rows], &line/1)
  end

  defp line(cells), do: ["| ", Enum.map_join(cells, " | ", &cell/1), " |\n"]

  defp cell(text) when is_binary(text), do: String.replace(text, "|", "\\|")
  defp cell(other), do: Table.cell(other)
end
