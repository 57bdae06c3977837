defmodule Demo.Servers.Lineup do
  @moduledoc false
  # Which servers of a contest are good, slow and flaky, and what that means.

  alias Demo.Servers.ServerProcess

  @names ~w(a b c d e)
  @work_ms 80
  @times_slower 10
  @failing_percent 30

  @type kind :: :good | :slow | :flaky
  @type t :: [{name :: String.t(), kind()}]

  @spec size() :: pos_integer()
  def size, do: length(@names)

  # The good ones come first.
  @spec new(non_neg_integer(), non_neg_integer()) :: t()
  def new(slow, flaky) when slow + flaky <= length(@names) do
    good = length(@names) - slow - flaky
    kinds = for {kind, n} <- [good: good, slow: slow, flaky: flaky], _ <- 1..n//1, do: kind
    Enum.zip(@names, kinds)
  end

  @spec names(t(), kind()) :: [String.t()]
  def names(lineup, kind), do: for({name, ^kind} <- lineup, do: name)

  @spec count(t(), kind()) :: non_neg_integer()
  def count(lineup, kind), do: length(names(lineup, kind))

  # As `Fleet.start/2` takes it.
  @spec work(t()) :: %{String.t() => ServerProcess.work()}
  def work(lineup), do: Map.new(lineup, fn {name, kind} -> {name, work_of(kind)} end)

  # The share of the requests that fails where every server gets as many.
  @spec even_errors(t()) :: float()
  def even_errors(lineup), do: count(lineup, :flaky) / size() * @failing_percent / 100

  # "a b c are good (80 ms a call), d is slow (800 ms a call)."
  @spec describe(t()) :: String.t()
  def describe(lineup) do
    kinds =
      for kind <- [:good, :slow, :flaky], (names = names(lineup, kind)) != [] do
        "#{Enum.join(names, " ")} #{if length(names) == 1, do: "is", else: "are"} #{describe_kind(kind)}"
      end

    Enum.join(kinds, ", ") <> "."
  end

  defp work_of(:good), do: {@work_ms, 0}
  defp work_of(:slow), do: {@times_slower * @work_ms, 0}
  defp work_of(:flaky), do: {@work_ms, @failing_percent}

  defp describe_kind(:good), do: "good (#{@work_ms} ms a call)"
  defp describe_kind(:slow), do: "slow (#{@times_slower * @work_ms} ms a call)"
  defp describe_kind(:flaky), do: "flaky (#{@work_ms} ms a call, #{@failing_percent} % fail)"
end
