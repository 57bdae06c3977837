defmodule Demo do
  @moduledoc false
  # Announces the scenes, plays one after another, and says what came of them.

  alias Demo.{Check, Scene}
  alias Demo.View.{Style, Text}

  @number_columns 5
  @title_columns 14

  # Returns what failed in a sentence, if anything did.
  @spec play(Style.t(), [{module(), Scene.options()}]) :: :ok | {:failed, String.t()}
  def play(style, scenes) do
    started = now()
    puts(announcement(style, scenes))

    checks =
      for {{scene, options}, number} <- Enum.with_index(scenes, 1) do
        puts(["", heading(style, scene, number, length(scenes))])
        outcome = scene.play(style, options)
        puts(outcome(style, outcome))
        {scene.title(), outcome.checks}
      end

    conclude(style, checks, now() - started)
  end

  # What will come, before it comes.
  @spec announcement(Style.t(), [{module(), Scene.options()}]) :: [IO.chardata()]
  def announcement(style, scenes) do
    seconds = Enum.sum(for {_scene, options} <- scenes, do: options.seconds + 1)

    title =
      "grpc_lb over real TCP connections, in about #{round(seconds)} seconds. What will come:"

    lines =
      for {{scene, options}, number} <- Enum.with_index(scenes, 1) do
        announcement(style, scene, number, options)
      end

    ["", Style.paint(style, :bright, title), "" | Enum.concat(lines)]
  end

  defp announcement(style, scene, number, options) do
    indent = @number_columns + @title_columns + 1
    [first | others] = scene.announcement(options)

    title = [
      String.pad_leading("#{number}", @number_columns - 2),
      "  ",
      Style.paint(style, :cyan, String.pad_trailing(scene.title(), @title_columns + 1))
    ]

    [line | lines] = Text.wrap(first, indent)

    [[title, line] | lines] ++
      for paragraph <- others, line <- indented(paragraph, indent), do: line
  end

  defp indented(paragraph, indent) do
    [first | lines] = Text.wrap(paragraph, indent)
    [String.duplicate(" ", indent) <> first | lines]
  end

  defp heading(style, scene, number, all) do
    title = "#{number}/#{all}  #{scene.title()}  "
    rule = if style.unicode?, do: "─", else: "-"
    columns = Text.columns() - String.length(title)

    [
      Style.paint(style, :bright, title),
      Style.paint(style, :faint, String.duplicate(rule, columns))
    ]
  end

  # The sentence first, then what shows it.
  @spec outcome(Style.t(), Scene.outcome()) :: [IO.chardata()]
  def outcome(style, outcome) do
    failed = Check.failed(outcome.checks)
    {mark, columns} = Style.mark(style, failed == [])

    sentence =
      if failed == [],
        do: outcome.sentence,
        else: "This is not as it must be: #{Enum.join(failed, ", ")}."

    [first | lines] = Text.wrap(sentence, columns + 1)

    tables =
      for {title, lines} <- outcome.tables do
        ["", Style.paint(style, :faint, title) | lines]
      end

    ["", [mark, " ", Style.paint(style, :bright, first)]] ++
      for(line <- lines, do: Style.paint(style, :bright, line)) ++ Enum.concat(tables)
  end

  defp conclude(style, checks, took_ms) do
    number = checks |> Enum.map(fn {_title, checks} -> length(checks) end) |> Enum.sum()

    failed =
      for {title, checks} <- checks, check <- Check.failed(checks), do: "#{title}: #{check}"

    took = Text.seconds(took_ms)

    if failed == [] do
      {mark, _columns} = Style.mark(style, true)
      text = "All is as it must be. #{number} checks hold. The demo took #{took}."
      puts(["", [mark, " ", Style.paint(style, :bright, text)], ""])
    else
      {:failed, "#{length(failed)} of #{number} checks failed: #{Enum.join(failed, "; ")}"}
    end
  end

  defp puts(lines), do: IO.write(Enum.map(lines, &[&1, "\n"]))

  defp now, do: System.monotonic_time(:millisecond)
end
