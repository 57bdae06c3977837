defmodule GrpcLb.Bench.Figures do
  @moduledoc false
  # Writes what README and the guides show of the latest run.

  alias GrpcLb.Bench.Json
  alias GrpcLb.Bench.Figures.{Charts, Report}

  @marks {"<!-- bench -->\n", "<!-- /bench -->\n"}

  def main(root) do
    results = root |> Path.join("bench/results/latest.json") |> File.read!() |> Json.decode()
    charts = Path.join(root, Report.charts())
    File.mkdir_p!(charts)
    for {file, _alt, svg} <- Charts.all(results), do: File.write!(Path.join(charts, file), svg)
    File.write!(Path.join(root, Report.page()), Report.full(results))

    readme = Path.join(root, "README.md")
    File.write!(readme, between(File.read!(readme), Report.summary(results)))
    IO.puts("Written: README.md, #{Report.page()}, #{Report.charts()}")
  end

  @doc "The text with what is between the marks replaced."
  def between(text, content) do
    {open, close} = @marks
    [before, rest] = String.split(text, open)
    [_old, after_it] = String.split(rest, close)
    before <> open <> content <> close <> after_it
  end
end
