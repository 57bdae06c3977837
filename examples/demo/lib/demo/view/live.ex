defmodule Demo.View.Live do
  @moduledoc false
  # Shows a scene while it runs. It asks for the counts a few times a second, by itself, so that
  # whoever makes the requests never waits for the output. `Frame` does the drawing.

  use GenServer

  alias Demo.View.{Frame, Style, Text}

  # What a scene counts, and how it is to be shown.
  #
  # window_ms    rates and shares are over so much time
  # numbers      what stands under the last two heads of the panel: `:rate`, `:count` or `:failed`
  # count        calls that ended, `failed` of them failed
  # summary      of the panel; left out, what was answered, how fast, and how many failed
  @type row :: %{
          required(:name) => String.t(),
          required(:note) => String.t(),
          required(:state) => atom(),
          required(:count) => non_neg_integer(),
          optional(:failed) => non_neg_integer()
        }
  @type panel :: %{
          required(:title) => String.t() | nil,
          required(:heads) => [String.t()],
          required(:numbers) => [atom()],
          required(:rows) => [row()],
          optional(:failed) => non_neg_integer(),
          optional(:summary) => String.t()
        }
  @type sample :: %{window_ms: pos_integer(), panels: [panel()]}
  @type t :: pid()

  @redraw_ms 125
  @line_ms 1_000

  # Shows what `scene` tells it to, and returns what the scene returns. It draws once more at the
  # end, so that what stays on the screen is that.
  @spec during(Style.t(), (t() -> result)) :: result when result: term()
  def during(style, scene) do
    {:ok, live} = GenServer.start_link(__MODULE__, style)
    result = scene.(live)
    GenServer.call(live, :draw)
    GenServer.stop(live)
    result
  end

  # From now on `sample` says what there is to see. It runs in the view's process. When this has
  # returned, the one before it runs no more.
  @spec show(t(), (() -> sample())) :: :ok
  def show(live, sample), do: GenServer.call(live, {:show, sample})

  @spec event(t(), String.t()) :: :ok
  def event(live, text), do: GenServer.cast(live, {:event, text})

  @spec progress(t(), number()) :: :ok
  def progress(live, fraction), do: GenServer.cast(live, {:progress, fraction})

  @impl true
  def init(style) do
    {:ok, _timer} =
      :timer.send_interval(if(style.terminal?, do: @redraw_ms, else: @line_ms), :tick)

    {:ok,
     %{
       style: style,
       started: now(),
       sample: nil,
       progress: 0.0,
       events: [],
       samples: [],
       drawn: 0
     }}
  end

  @impl true
  def handle_cast({:progress, fraction}, state), do: {:noreply, %{state | progress: fraction}}

  def handle_cast({:event, text}, state) do
    event = {now() - state.started, text}
    unless state.style.terminal?, do: puts(Frame.event(state.style, event))
    {:noreply, %{state | events: state.events ++ [event]}}
  end

  @impl true
  def handle_call({:show, sample}, _from, state), do: {:reply, :ok, %{state | sample: sample}}
  def handle_call(:draw, _from, state), do: {:reply, :ok, draw(state)}

  @impl true
  def handle_info(:tick, state), do: {:noreply, draw(state)}

  defp draw(%{sample: nil} = state), do: state

  defp draw(state) do
    {picture, state} = picture(state)

    if state.style.terminal? do
      lines = Frame.lines(state.style, picture)
      IO.write(Frame.redraw(lines, state.drawn))
      %{state | drawn: length(lines)}
    else
      puts(Frame.plain(picture))
      state
    end
  end

  defp puts(lines), do: IO.write(Enum.map(lines, &[&1, "\n"]))

  defp picture(state) do
    time = now()
    %{window_ms: window_ms, panels: panels} = state.sample.()
    counts = for panel <- panels, row <- panel.rows, into: %{}, do: {key(panel, row), row.count}
    samples = [{time, counts} | state.samples]

    {past, before} =
      Enum.find(samples, List.last(samples), fn {t, _} -> time - t >= window_ms end)

    seconds = max(time - past, 1) / 1000
    rate = fn panel, row -> (row.count - Map.get(before, key(panel, row), 0)) / seconds end

    picture = %{
      elapsed_ms: time - state.started,
      progress: state.progress,
      panels: for(panel <- panels, do: panel(panel, &rate.(panel, &1))),
      events: state.events
    }

    {picture, %{state | samples: Enum.take_while(samples, fn {t, _} -> t >= past end)}}
  end

  defp panel(panel, rate) do
    rates = Enum.map(panel.rows, rate)
    total = Enum.sum(rates)

    rows =
      for {row, rate} <- Enum.zip(panel.rows, rates) do
        row = Map.put(row, :rate, rate)

        row
        |> Map.take([:name, :note, :state])
        |> Map.put(:share, if(total == 0, do: 0.0, else: rate / total))
        |> Map.put(:numbers, for(number <- panel.numbers, do: row[number]))
      end

    %{
      title: panel.title,
      heads: panel.heads,
      summary: panel[:summary] || summary(panel, total),
      rows: rows
    }
  end

  defp summary(panel, rate) do
    answered = panel.rows |> Enum.map(& &1.count) |> Enum.sum()

    String.trim(Text.number(answered, 12)) <>
      " answered   " <>
      String.trim(Text.number(rate, 8)) <>
      "/s   " <> String.trim(Text.number(panel.failed, 8)) <> " failed"
  end

  defp key(panel, row), do: {panel.title, row.name}

  defp now, do: System.monotonic_time(:millisecond)
end
