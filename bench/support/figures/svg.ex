defmodule GrpcLb.Bench.Figures.Svg do
  @moduledoc false
  # The elements of a figure, and the page that they are on: it has a background of its own, light
  # or dark as the reader's, names what it shows to those who cannot see it, and refers to nothing
  # outside.

  @style """
  text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
  .paper { fill: #ffffff; }
  .title { font-size: 15px; font-weight: 600; }
  .quiet { fill: #59636e; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .axis { stroke: #818b98; stroke-width: 1; }
  .line { fill: none; stroke-width: 2.5; }
  .peer { stroke-width: 1.5; stroke-dasharray: 5 3; }
  .range { stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .paper { fill: #0d1117; }
    .quiet { fill: #9198a1; }
    .grid { stroke: #2f353d; }
    .axis { stroke: #656c76; }
  }
  """

  # They are told apart on white and on black.
  @colours ~w(#2f81f7 #d9730d #1a9c5b #d1428c #8b6cd9 #7d8590 #c0392b #0f9fb0 #a67c00)

  def colour(index), do: Enum.at(@colours, rem(index, length(@colours)))

  @doc "A figure of this size, with its title and what it shows in words."
  def page(width, height, title, description, elements) do
    IO.iodata_to_binary([
      ~s(<svg xmlns="http://www.w3.org/2000/svg" width="#{width}" height="#{height}" ),
      ~s(viewBox="0 0 #{width} #{height}" role="img" aria-labelledby="title desc">\n),
      ["<title id=\"title\">", escape(title), "</title>\n"],
      ["<desc id=\"desc\">", escape(description), "</desc>\n"],
      ["<style>\n", @style, "</style>\n"],
      ~s(<rect class="paper" width="#{width}" height="#{height}" rx="6"/>\n),
      Enum.map(elements, &[&1, ?\n]),
      "</svg>\n"
    ])
  end

  def text(x, y, content, attributes \\ []) do
    ["<text", attributes([x: x, y: y] ++ attributes), ">", escape(content), "</text>"]
  end

  def line(x1, y1, x2, y2, attributes) do
    ["<line", attributes([x1: x1, y1: y1, x2: x2, y2: y2] ++ attributes), "/>"]
  end

  def rect(x, y, width, height, attributes) do
    ["<rect", attributes([x: x, y: y, width: width, height: height] ++ attributes), "/>"]
  end

  def circle(x, y, radius, attributes) do
    ["<circle", attributes([cx: x, cy: y, r: radius] ++ attributes), "/>"]
  end

  def polyline(points, attributes) do
    points = Enum.map_join(points, " ", fn {x, y} -> "#{value(x)},#{value(y)}" end)
    ["<polyline", attributes([points: points] ++ attributes), "/>"]
  end

  defp attributes(attributes) do
    for {name, value} <- attributes do
      name = name |> to_string() |> String.replace("_", "-")
      [?\s, name, "=\"", escape(value(value)), ?"]
    end
  end

  defp value(number) when is_float(number), do: :erlang.float_to_binary(number, decimals: 1)
  defp value(other), do: to_string(other)

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end
end
