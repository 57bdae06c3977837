defmodule Demo.Scenes.Pace do
  @moduledoc false
  # A scene in steps of equal length. A step ends when its time is over and its requests have been
  # answered, and the view shows how far it is.

  alias Demo.View.Live

  @poll_ms 10

  @enforce_keys [:live, :steps, :ms, :requests]
  defstruct @enforce_keys ++ [done: 0]

  @type t :: %__MODULE__{
          live: Live.t(),
          steps: pos_integer(),
          ms: non_neg_integer(),
          requests: pos_integer(),
          done: non_neg_integer()
        }

  # `requests`: of the whole scene, at least.
  @spec new(Live.t(), pos_integer(), number(), pos_integer()) :: t()
  def new(live, steps, seconds, requests) do
    %__MODULE__{
      live: live,
      steps: steps,
      ms: round(seconds * 1000 / steps),
      requests: ceil(requests / steps)
    }
  end

  # `answered` says how many requests have been answered so far.
  @spec step(t(), (() -> non_neg_integer())) :: t()
  def step(pace, answered) do
    from_ms = now()
    from = answered.()

    await(fn ->
      time = (now() - from_ms) / max(pace.ms, 1)
      requests = (answered.() - from) / pace.requests
      part = time |> min(requests) |> min(1)
      Live.progress(pace.live, (pace.done + part) / pace.steps)
      part == 1
    end)

    %{pace | done: pace.done + 1}
  end

  # For what no message tells.
  @spec await((() -> boolean())) :: :ok
  def await(done?) do
    unless done?.() do
      Process.sleep(@poll_ms)
      await(done?)
    end

    :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
