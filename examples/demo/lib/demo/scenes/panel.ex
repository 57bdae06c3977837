defmodule Demo.Scenes.Panel do
  @moduledoc false
  # What the view shows of a scene in which callers share servers: a row for each, and what happens.

  alias Demo.Callers
  alias Demo.Callers.Meter
  alias Demo.View.Live

  @window_ms 1_000

  @typep play :: %{:live => Live.t(), :callers => Callers.t(), optional(atom()) => term()}
  @typep server :: %{
           :name => String.t(),
           :state => atom(),
           :meter => Meter.t(),
           optional(atom()) => term()
         }

  # `name_head` and `note_head` are the heads of the columns with a server's name and its note.
  @spec show(play, [server()], {String.t(), String.t()}, (server() -> String.t())) :: play
        when play: play()
  def show(play, servers, {name_head, note_head}, note) do
    heads = [name_head, note_head, "share of the calls", "calls/s", "answered"]
    callers = play.callers

    sample = fn ->
      panel = %{
        title: nil,
        heads: heads,
        numbers: [:rate, :count],
        rows: Enum.map(servers, &row(&1, note)),
        failed: Callers.failed(callers)
      }

      %{window_ms: @window_ms, panels: [panel]}
    end

    :ok = Live.show(play.live, sample)
    play
  end

  defp row(server, note) do
    %{
      name: server.name,
      note: note.(server),
      state: server.state,
      count: Meter.get(server.meter, :answered)
    }
  end

  @spec tell(play, String.t()) :: play when play: play()
  def tell(play, event) do
    Live.event(play.live, event)
    play
  end
end
