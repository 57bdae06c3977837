# Makes a picture that moves of what the demo draws on a terminal:
#
#   elixir recording.exs TYPESCRIPT SVG
#
# TYPESCRIPT is what `script` has recorded, see `scripts/recording`. The frames are those that the live view
# has drawn, every half second one, and the last stays for a while.
defmodule Recording do
  @every 4
  @seconds 0.5
  @last_seconds 4
  @columns 80
  @character {8.4, 18}
  @margin 16

  def main([typescript, svg]) do
    frames = typescript |> File.read!() |> frames()
    if frames == [], do: raise("#{typescript} has no frames of the live view")
    File.write!(svg, picture(frames))
  end

  defp frames(typescript) do
    all = for [_all, frame] <- Regex.scan(~r/\e\[\?2026h(.*?)\e\[\?2026l/s, typescript), do: frame
    last = List.last(all)
    Enum.map(Enum.take_every(Enum.drop(all, -1), @every) ++ List.wrap(last), &lines/1)
  end

  # Each line as a list of {colour, text}.
  defp lines(frame) do
    frame
    |> String.replace(~r/\r|\e\[\d*A|\e\[[KJ]|\e\[\?7[hl]/, "")
    |> String.split("\n")
    |> Enum.map(&spans/1)
    |> Enum.reverse()
    |> Enum.drop_while(&(&1 == []))
    |> Enum.reverse()
  end

  defp spans(line) do
    ["" | parts] = String.split("\e[0m" <> line, "\e[")

    for part <- parts, [code, text] = String.split(part, "m", parts: 2), text != "" do
      {colour(code), text}
    end
  end

  defp colour("1"), do: "bright"
  defp colour("2"), do: "faint"
  defp colour("31"), do: "red"
  defp colour("32"), do: "green"
  defp colour("33"), do: "yellow"
  defp colour("36"), do: "cyan"
  defp colour(_plain), do: nil

  defp picture(frames) do
    {wide, high} = @character
    rows = frames |> Enum.map(&length/1) |> Enum.max()
    {width, height} = {round(@columns * wide) + 2 * @margin, rows * high + 2 * @margin}
    count = length(frames)
    lasts = (count - 1) * @seconds + @last_seconds

    """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{width} #{height}" role="img" aria-labelledby="title desc">
    <title id="title">The demo on a terminal</title>
    <desc id="desc">32 callers share five servers by round robin. One server is killed and the others take its \
    calls; two join, and one leaves. Each has the same share of the calls at all times.</desc>
    <style>
    svg { color-scheme: light dark; --ground: #fbfbfa; --text: #24292f; --faint: #6e7781; --red: #b3261e; \
    --green: #1a7f37; --yellow: #8a6100; --cyan: #0b6e8f; }
    @media (prefers-color-scheme: dark) { svg { --ground: #16191d; --text: #e2e5e9; --faint: #8b949e; \
    --red: #ff8b82; --green: #6fd08c; --yellow: #e0b84c; --cyan: #5cc8e8; } }
    rect { fill: var(--ground); }
    text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--text); white-space: pre; }
    .bright { font-weight: bold; } .faint { fill: var(--faint); } .red { fill: var(--red); }
    .green { fill: var(--green); } .yellow { fill: var(--yellow); } .cyan { fill: var(--cyan); }
    g { visibility: hidden; animation: #{lasts}s step-end infinite; }
    #{keyframes(count, lasts)}
    @media (prefers-reduced-motion: reduce) { g { animation: none; } g:last-of-type { visibility: visible; } }
    </style>
    <rect width="#{width}" height="#{height}" rx="8"/>
    #{frames |> Enum.with_index() |> Enum.map(&group/1)}</svg>
    """
  end

  defp keyframes(count, lasts) do
    for index <- 0..(count - 1) do
      from = percent(index * @seconds / lasts)

      to =
        if index == count - 1,
          do: "",
          else: "#{percent((index + 1) * @seconds / lasts)} { visibility: hidden; }"

      hidden = if index == 0, do: "", else: "0% { visibility: hidden; } "
      "@keyframes f#{index} { #{hidden}#{from} { visibility: visible; } #{to} }\n"
    end
  end

  defp percent(part), do: "#{Float.round(part * 100, 3)}%"

  defp group({lines, index}) do
    {_wide, high} = @character

    rows =
      for {spans, row} <- Enum.with_index(lines), spans != [] do
        spans = for {colour, text} <- spans, do: span(colour, escape(text))
        ~s(<text x="#{@margin}" y="#{@margin + row * high + 13}">#{spans}</text>\n)
      end

    ~s(<g style="animation-name: f#{index}">\n#{rows}</g>\n)
  end

  defp span(nil, text), do: text
  defp span(colour, text), do: ~s(<tspan class="#{colour}">#{text}</tspan>)

  defp escape(text) do
    text
    |> String.trim_trailing("\n")
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
  end
end

Recording.main(System.argv())
