defmodule GrpcLb.Bench.Figures.Chart do
  @moduledoc false
  # Two kinds of chart, of data alone.

  alias GrpcLb.Bench.Figures.Svg
  alias GrpcLb.Bench.Table

  @width 900
  @top 64
  @label_height 15

  @doc """
  Lines over an axis of places, which are labelled one by one, and have the same distances.

  A series is `%{title, side, points}`, a point `{place, figure, low, high}`; those of a peer are
  dashed. With `scale: :log` equal distances are equal ratios. `told` says a figure in words.
  """
  def lines(%{title: title, x: x, y: y, places: places, scale: scale, series: series} = chart) do
    told = Map.get(chart, :told, &number/1)
    [height, left, right, bottom] = [420, 70, 320, 48]
    figures = for %{points: points} <- series, {_, figure, _, _} <- points, do: figure
    {ticks, position} = axis(scale, figures, height - bottom, @top)

    across = fn place ->
      index = Enum.find_index(places, &(&1 == place))
      step = (@width - left - right) / max(1, length(places) - 1)
      left + index * step
    end

    grid =
      for tick <- ticks do
        level = position.(tick)

        [
          Svg.line(left, level, @width - right, level, class: "grid"),
          Svg.text(left - 8, level + 4, told.(tick), class: "quiet", text_anchor: "end")
        ]
      end

    marks =
      for place <- places do
        Svg.text(across.(place), height - bottom + 18, place,
          class: "quiet",
          text_anchor: "middle"
        )
      end

    coloured = Enum.with_index(series)
    drawn = for {one, index} <- coloured, do: series(one, Svg.colour(index), across, position)

    Svg.page(@width, height, title, describe(chart, told), [
      heading(title, y),
      grid,
      Svg.line(left, height - bottom, @width - right, height - bottom, class: "axis"),
      marks,
      Svg.text((left + @width - right) / 2, height - 10, x, class: "quiet", text_anchor: "middle"),
      drawn,
      labels(coloured, told, {@width - right + 12, position, @top, height - bottom})
    ])
  end

  @doc """
  Bars from zero, with their figures. A bar is `%{title, side, figure, low, high}`; those of
  this library, of peers, and for scale have a colour each.
  """
  def bars(%{title: title, y: unit, bars: bars}) do
    [left, right, step] = [290, 90, 26]
    height = @top + length(bars) * step + 20
    most = bars |> Enum.map(& &1.figure) |> Enum.max()
    scale = (@width - left - right) / most

    drawn =
      for {bar, index} <- Enum.with_index(bars) do
        top = @top + index * step
        width = max(1.0, bar.figure * scale)

        [
          Svg.text(left - 8, top + 14, bar.title, text_anchor: "end"),
          Svg.rect(left, top + 2, width, step - 10, fill: Svg.colour(side(bar.side)), rx: 2),
          Svg.text(left + width + 6, top + 14, number(bar.figure), class: "quiet")
        ]
      end

    described = Enum.map_join(bars, "; ", &"#{&1.title}: #{number(&1.figure)}")

    Svg.page(@width, height, title, "#{title}, #{unit}. #{described}.", [
      heading(title, unit),
      Svg.line(left, @top - 4, left, height - 16, class: "axis"),
      drawn
    ])
  end

  defp heading(title, unit) do
    [Svg.text(20, 28, title, class: "title"), Svg.text(20, 48, unit, class: "quiet")]
  end

  defp side("ours"), do: 0
  defp side("peer"), do: 1
  defp side("scale"), do: 5

  defp series(%{points: points, side: side}, colour, across, position) do
    class = if side == "ours", do: "line", else: "line peer"

    [
      Svg.polyline(for({x, figure, _, _} <- points, do: {across.(x), position.(figure)}),
        class: class,
        stroke: colour
      ),
      for {x, figure, low, high} <- points do
        [
          Svg.line(across.(x), position.(low), across.(x), position.(high),
            class: "range",
            stroke: colour
          ),
          Svg.circle(across.(x), position.(figure), 3, fill: colour)
        ]
      end
    ]
  end

  # At the ends of the lines, as far from each other as letters are high.
  defp labels(coloured, told, {x, position, top, bottom}) do
    ends =
      for {%{points: points, title: title}, index} <- coloured do
        {_, figure, _, _} = List.last(points)
        {position.(figure), title, told.(figure), Svg.colour(index)}
      end

    for {{_, title, figure, colour}, y} <- ends |> Enum.sort() |> spread(top, bottom) do
      [
        Svg.rect(x, y - 5, 10, 10, fill: colour, rx: 2),
        Svg.text(x + 16, y + 4, "#{title}: #{figure}")
      ]
    end
  end

  @doc "Labels (their first element is where they want to be), with where they can be."
  def spread(labels, top, bottom) do
    {placed, _} =
      Enum.map_reduce(labels, top * 1.0, fn label, free ->
        y = max(elem(label, 0), free)
        {{label, y}, y + @label_height}
      end)

    {placed, _} =
      placed
      |> Enum.reverse()
      |> Enum.map_reduce(bottom * 1.0, fn {label, y}, free ->
        y = min(y, free)
        {{label, y}, y - @label_height}
      end)

    Enum.reverse(placed)
  end

  # Its ticks, and where a figure is on it.
  defp axis(:linear, figures, bottom, top) do
    most = Enum.max(figures)
    step = nice(most / 5)
    last = Float.ceil(most / step) * step
    ticks = for n <- 0..round(last / step)//1, do: n * step
    {ticks, fn figure -> bottom - figure / last * (bottom - top) end}
  end

  defp axis(:log, figures, bottom, top) do
    {least, most} = Enum.min_max(figures)
    first = Float.floor(:math.log10(least))
    last = max(first + 1, Float.ceil(:math.log10(most)))
    ticks = for power <- round(first)..round(last)//1, do: :math.pow(10, power)
    span = (bottom - top) / (last - first)

    # What is beyond the axis is at its end.
    {ticks,
     fn figure ->
       decades = :math.log10(max(figure, 1.0e-9)) - first
       bottom - (decades |> max(0.0) |> min(last - first)) * span
     end}
  end

  defp nice(step) do
    power = :math.pow(10, Float.floor(:math.log10(step)))
    Enum.find([1, 2, 5, 10], &(&1 * power >= step)) * power
  end

  @doc "Nanoseconds, in the unit that leaves few digits."
  def duration(ns) when ns >= 1.0e6, do: "#{number(ns / 1.0e6)} ms"
  def duration(ns) when ns >= 1.0e3, do: "#{number(ns / 1.0e3)} us"
  def duration(ns), do: "#{number(ns)} ns"

  defp number(number) when number >= 1000 do
    number
    |> round()
    |> Integer.to_string()
    |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end

  defp number(number) when number == trunc(number), do: "#{trunc(number)}"
  defp number(number), do: Table.cell(number)

  defp describe(%{title: title, x: x, y: y, series: series}, told) do
    lines =
      Enum.map_join(series, "; ", fn %{title: title, points: points} ->
        figures =
          Enum.map_join(points, ", ", fn {x, figure, _, _} -> "#{x}: #{told.(figure)}" end)

        "#{title}: #{figures}"
      end)

    "#{title}: #{y}, by #{x}. #{lines}."
  end
end
