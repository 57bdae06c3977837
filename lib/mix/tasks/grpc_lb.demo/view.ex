defmodule Mix.Tasks.GrpcLb.Demo.View do
  @moduledoc false
  # Shows the demo while it runs. It reads the counters a few times a second, by itself, so
  # that whoever makes the requests never waits for the output. `Frame` does the drawing.

  use GenServer

  alias Mix.Tasks.GrpcLb.Demo.{Callers, Fleet, Frame, Meter, Style}

  @redraw_ms 125
  @line_ms 1_000
  # Rates are over the last second or so.
  @window_ms 1_000

  @type t :: pid()

  @spec start_link(Style.t()) :: GenServer.on_start()
  def start_link(style), do: GenServer.start_link(__MODULE__, style)

  @spec show(t(), [Fleet.Member.t()], Callers.t()) :: :ok
  def show(view, members, callers), do: GenServer.cast(view, {:show, members, callers})

  @spec event(t(), String.t()) :: :ok
  def event(view, text), do: GenServer.cast(view, {:event, text})

  @spec progress(t(), float()) :: :ok
  def progress(view, fraction), do: GenServer.cast(view, {:progress, fraction})

  # Draws once more, so that what stays on the screen is the end.
  @spec stop(t()) :: :ok
  def stop(view) do
    GenServer.call(view, :draw)
    GenServer.stop(view)
  end

  @impl true
  def init(style) do
    {:ok, _timer} =
      :timer.send_interval(if(style.terminal?, do: @redraw_ms, else: @line_ms), :tick)

    {:ok,
     %{
       style: style,
       started: now(),
       members: [],
       callers: nil,
       progress: 0.0,
       events: [],
       samples: [],
       drawn: 0
     }}
  end

  @impl true
  def handle_cast({:show, members, callers}, state) do
    {:noreply, %{state | members: members, callers: callers}}
  end

  def handle_cast({:progress, fraction}, state), do: {:noreply, %{state | progress: fraction}}

  def handle_cast({:event, text}, state) do
    event = {now() - state.started, text}
    unless state.style.terminal?, do: IO.puts(Frame.event(state.style, event))
    {:noreply, %{state | events: state.events ++ [event]}}
  end

  @impl true
  def handle_call(:draw, _from, state), do: {:reply, :ok, draw(state)}

  @impl true
  def handle_info(:tick, state), do: {:noreply, draw(state)}

  defp draw(%{members: []} = state), do: state

  defp draw(%{style: %{terminal?: true}} = state) do
    {picture, state} = picture(state)
    lines = Frame.lines(state.style, picture)
    IO.write(Frame.redraw(lines, state.drawn))
    %{state | drawn: length(lines)}
  end

  defp draw(state) do
    {picture, state} = picture(state)
    IO.puts(Frame.line(picture))
    state
  end

  defp picture(state) do
    time = now()
    answered = Map.new(state.members, &{&1.name, Meter.get(&1.meter, :answered)})
    samples = [{time, answered} | state.samples]

    {past, before} =
      Enum.find(samples, List.last(samples), fn {t, _} -> time - t >= @window_ms end)

    seconds = max(time - past, 1) / 1000

    rates =
      Map.new(answered, fn {name, n} -> {name, (n - Map.get(before, name, 0)) / seconds} end)

    rate = rates |> Map.values() |> Enum.sum()

    rows =
      for member <- state.members do
        %{
          name: member.name,
          os_pid: member.os_pid,
          state: member.state,
          answered: answered[member.name],
          rate: rates[member.name],
          share: if(rate == 0, do: 0.0, else: rates[member.name] / rate)
        }
      end

    picture = %{
      elapsed_ms: time - state.started,
      progress: state.progress,
      answered: answered |> Map.values() |> Enum.sum(),
      failed: Callers.failed(state.callers),
      rate: rate,
      rows: rows,
      events: state.events
    }

    {picture, %{state | samples: Enum.take_while(samples, fn {t, _} -> t >= past end)}}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
