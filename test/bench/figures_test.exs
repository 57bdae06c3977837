Code.require_file("bench_helper.exs", __DIR__)

defmodule GrpcLb.Bench.FiguresTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Bench.{Budget, Figures}
  alias GrpcLb.Bench.Figures.{Chart, Losses, Markdown}

  defp lines(series, scale \\ :log) do
    Chart.lines(%{
      title: "Cost & more",
      x: "backends",
      y: "ns",
      scale: scale,
      places: ["1", "10"],
      series: series
    })
  end

  defp series(title, side, figures) do
    points =
      for {place, figure} <- Enum.zip(["1", "10"], figures), do: {place, figure, figure, figure}

    %{title: title, side: side, points: points}
  end

  defp elements(svg, name) do
    for [_, attributes] <- Regex.scan(~r/<#{name}( [^>]*)>/, svg), do: attributes
  end

  defp attribute(attributes, name) do
    [_, value] = Regex.run(~r/ #{name}="([^"]*)"/, attributes)
    value
  end

  defp points(svg) do
    for line <- elements(svg, "polyline") do
      for pair <- line |> attribute(:points) |> String.split() do
        [x, y] = pair |> String.split(",") |> Enum.map(&String.to_float/1)
        {x, y}
      end
    end
  end

  test "equal ratios are equal distances on a logarithmic axis, and equal differences on a linear one" do
    [[{_, a}, {_, b}], [_, {_, c}]] =
      points(lines([series("a", "ours", [10, 100]), series("b", "peer", [10, 1000])]))

    assert_in_delta a - b, b - c, 0.2

    [[{_, a}, {_, b}], [_, {_, c}]] =
      points(lines([series("a", "ours", [100, 200]), series("b", "peer", [100, 300])], :linear))

    assert_in_delta a - b, b - c, 0.2
  end

  test "a figure tells its title and all it shows in words, and refers to nothing outside" do
    svg = lines([series("ours <fast>", "ours", [10, 12]), series("ETS", "peer", [100, 2000])])

    assert [_] = elements(svg, "title")
    assert svg =~ "<title id=\"title\">Cost &amp; more</title>"
    assert svg =~ "ours &lt;fast&gt;: 1: 10, 10: 12; ETS: 1: 100, 10: 2,000."
    assert svg =~ "prefers-color-scheme: dark"
    assert Regex.scan(~r/\w+:\/\/[^"]+/, svg) == [["http://www.w3.org/2000/svg"]]
  end

  test "bars are as long as their figures" do
    bars =
      for {title, figure} <- [a: 10, b: 20],
          do: %{title: "#{title}", side: "ours", figure: figure}

    svg = Chart.bars(%{title: "Calls", y: "ns", bars: bars})

    [_paper, a, b] =
      for rect <- elements(svg, "rect"), do: rect |> attribute(:width) |> Float.parse() |> elem(0)

    assert_in_delta b / a, 2.0, 0.01
  end

  test "labels keep a distance and stay in order, within their bounds" do
    ys =
      for {_label, y} <- Chart.spread([{10.0, :a}, {10.0, :b}, {99.0, :c}, {100.0, :d}], 0, 100),
          do: y

    assert ys == Enum.sort(ys)
    assert Enum.all?(Enum.zip_with(tl(ys), ys, &(&1 - &2)), &(&1 >= 15))
    assert Enum.min(ys) >= 0 and Enum.max(ys) <= 100
  end

  test "README has a place for the figures, and all images that it shows" do
    readme = File.read!("README.md")

    assert Figures.between(readme, "new") =~ "<!-- bench -->\nnew<!-- /bench -->\n"

    for [_, path] <- Regex.scan(~r/!\[[^\]]*\]\(([^):]+)\)/, readme),
        do: assert(File.exists?(path))
  end

  test "a Markdown table escapes what would part its cells" do
    table = IO.iodata_to_binary(Markdown.table(["", "ns"], [["a | b", 12.345]]))

    assert table == "|  | ns |\n| --- | ---: |\n| a \\| b | 12.3 |\n"
  end

  test "losses are the missed budgets, and peers that are surely faster than one of ours" do
    held = Budget.judge_once(%Budget{what: "held", limit: 2.0}, 1.0)
    missed = Budget.judge_once(%Budget{what: "late", limit: 2.0, unit: "us"}, 3.0)
    row = %{value: "pid", backends: 5, processes: 1}

    picks =
      for {title, side, low, high} <- [
            {"ours", "ours", 80, 90},
            {"ours, quick", "ours", 20, 24},
            {"tuple", "peer", 21, 23},
            {"ETS", "peer", 200, 300},
            {"unit", "scale", 10, 11}
          ] do
        median = (low + high) / 2

        Map.merge(row, %{
          title: title,
          side: side,
          low_ns: low,
          high_ns: high,
          median_ns: median,
          price: "a collection"
        })
      end

    results = %{
      budgets: [held, missed],
      sections: %{picks: picks, pools: [], calls: [], reconciles: [], under_change: [], core: []}
    }

    assert Losses.budgets(results) == [
             ["late", "3.00 us", "3.00 us", "3.00 us", "at most 2.00 us"]
           ]

    assert Losses.peers(results) == [
             ["pid, 5 backends, 1 process", "tuple", "22.0 ns", "ours (3.86x)", "a collection"]
           ]
  end
end
