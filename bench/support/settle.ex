defmodule GrpcLb.Bench.Settle do
  @moduledoc false
  # Observes until enough is known: at least as often as an interval needs, and then for as long as
  # a budget is open and there is time.

  alias GrpcLb.Bench.{Budget, Stats}

  @doc """
  All observations, first to last, and a row a budget. `budgets` are `{budget, figure}`, where
  `figure` takes an observation. A row's `settled` is false where the time was up before it was.
  """
  def observe(observe, budgets, seconds) do
    observe([], observe, budgets, System.monotonic_time(:millisecond) + round(seconds * 1000))
  end

  defp observe(observations, observe, budgets, until) do
    observations = [observe.() | observations]

    if enough?(observations, budgets, until),
      do: {Enum.reverse(observations), judge(observations, budgets)},
      else: observe(observations, observe, budgets, until)
  end

  defp enough?(observations, budgets, until) do
    length(observations) >= Stats.least() and
      (System.monotonic_time(:millisecond) >= until or
         Enum.all?(budgets, fn {budget, figure} -> settled?(budget, figure, observations) end))
  end

  defp judge(observations, budgets) do
    for {budget, figure} <- budgets do
      budget
      |> Budget.judge(interval(observations, figure))
      |> Map.put(:settled, settled?(budget, figure, observations))
    end
  end

  defp settled?(budget, figure, observations) do
    Budget.settled?(budget, interval(observations, figure))
  end

  defp interval(observations, figure), do: observations |> Enum.map(figure) |> Stats.interval()
end
