defmodule GrpcLb.Top.View do
  # What the live table shows, and what keys make of it. All of it is pure.
  @moduledoc false

  alias GrpcLb.Look.{Columns, Description, Rows, Sample, Shown}

  @enforce_keys [:node]
  defstruct [
    :node,
    :chosen,
    :before,
    :now,
    :error,
    # The balancer that was given, as long as it is the one that is shown.
    :given,
    list: [],
    # Whether to show the only balancer there is without being told to.
    alone: true,
    sort: :listed,
    paused: false,
    scrolled: 0,
    typed: ""
  ]

  @type t :: %__MODULE__{
          node: node(),
          chosen: pos_integer() | nil,
          before: Sample.t() | nil,
          now: Sample.t() | nil,
          error: String.t() | nil,
          given: reference() | nil,
          list: [Sample.listed()],
          alone: boolean(),
          sort: atom(),
          paused: boolean(),
          scrolled: non_neg_integer(),
          typed: String.t()
        }

  @typedoc "Columns and lines, as many as it takes."
  @type size :: {pos_integer(), pos_integer() | :all}

  @typedoc "How keys come: at once, with Enter, or not at all."
  @type mode :: :keys | :lines | :none

  @type key :: String.t() | :enter | :up | :down

  @sorts [
    listed: {"as listed", nil},
    share: {"share", :desc},
    picks: {"picks/s", :desc},
    in_flight: {"busy", :desc},
    latency_ns: {"latency", :desc},
    failures: {"fails", :desc},
    state: {"state", :asc},
    id: {"backend", :asc}
  ]

  @spec new(node()) :: t()
  def new(node), do: %__MODULE__{node: node}

  @doc "The view of a balancer of this node."
  @spec of(reference(), pos_integer()) :: t()
  def of(balancer, number),
    do: %__MODULE__{node: node(), given: balancer, chosen: number, alone: false}

  @doc "A list of balancers has come."
  @spec listed([Sample.listed()], t()) :: t()
  def listed(list, view) do
    case Enum.reject(list, & &1.closed) do
      [only] when view.alone -> choose(%{view | list: list}, only.number)
      _none_or_several -> %{view | list: list, error: nil}
    end
  end

  @doc "A sample of the balancer has come that is shown."
  @spec sampled(t(), Sample.t()) :: t()
  def sampled(view, sample), do: %{view | before: view.now, now: sample, error: nil}

  @doc "Nothing has come, and why."
  @spec failed(t(), String.t()) :: t()
  def failed(view, why), do: %{view | error: why, before: nil, now: nil}

  @doc "Whether there is nothing to show."
  @spec needs_look?(t()) :: boolean()
  def needs_look?(%{now: nil, error: nil}), do: true
  def needs_look?(_view), do: false

  @doc "What a key does."
  @spec press(t(), key()) :: t() | :quit
  def press(_view, key) when key in ["q", "Q", "\x03", "\x04"], do: :quit
  def press(view, "p"), do: %{view | paused: not view.paused}
  def press(view, " "), do: press(view, "p")
  def press(view, "s"), do: %{view | sort: next(view.sort), scrolled: 0}
  def press(view, key) when key in ["j", :down], do: scroll(view, 1)
  def press(view, key) when key in ["k", :up], do: scroll(view, -1)

  def press(view, "b"),
    do: %{
      view
      | chosen: nil,
        given: nil,
        now: nil,
        before: nil,
        error: nil,
        alone: false,
        scrolled: 0,
        typed: ""
    }

  def press(%{chosen: nil} = view, <<digit>>) when digit in ?0..?9,
    do: %{view | typed: String.slice(view.typed <> <<digit>>, 0, 18)}

  def press(%{chosen: nil, typed: typed} = view, :enter) when typed != "",
    do: choose(view, String.to_integer(typed))

  def press(view, key) when key in ["\d", "\b"],
    do: %{view | typed: String.slice(view.typed, 0..-2//1)}

  def press(view, _other), do: view

  defp choose(view, number),
    do: %{view | chosen: number, typed: "", scrolled: 0, now: nil, before: nil, error: nil}

  defp next(sort) do
    [_sort, {next, _how} | _rest] = Enum.drop_while(@sorts ++ @sorts, &(elem(&1, 0) != sort))
    next
  end

  defp scroll(view, by) do
    count = if view.now, do: length(view.now.backends), else: length(view.list)
    %{view | scrolled: (view.scrolled + by) |> min(count - 1) |> max(0)}
  end

  @doc "The lines of the screen, as many as fit."
  @spec lines(t(), size(), mode()) :: [iodata()]
  def lines(view, {columns, lines}, mode) do
    styled = mode != :none
    {head, rows, table} = body(view)
    foot = if mode == :none, do: [], else: [foot(view, columns, mode)]
    room = if lines == :all, do: length(rows), else: lines - length(head) - 1 - length(foot)
    # What is not seen costs nothing.
    rows = rows |> Enum.drop(view.scrolled) |> Enum.take(max(room, 0))
    [titles | shown] = table.(rows, columns, styled)
    fill = if lines == :all, do: 0, else: max(room - length(shown), 0)
    head = Enum.map(head, &cut(&1, columns))
    head ++ [titles | shown] ++ List.duplicate("", fill) ++ foot
  end

  # The lines above the table, its rows, and how they become lines.
  defp body(%{error: nil, now: nil} = view) do
    open = Enum.count(view.list, &(not &1.closed))

    {["#{view.node}  #{open} #{if open == 1, do: "balancer", else: "balancers"}"], view.list,
     &list/3}
  end

  defp body(%{now: nil} = view),
    do: {["#{view.node}", ""], [], fn [], _columns, _styled -> [view.error] end}

  defp body(%{now: now} = view) do
    rows = view.before |> Rows.between(now) |> sort(view.sort)
    picks = if view.before, do: "picks/s", else: "picks"
    more = if now.left_out > 0, do: ["#{now.left_out} backends more are not shown"], else: []
    head = ["#{Description.title(now)}  on #{view.node}" | Description.facts(now)] ++ more
    {head, rows, &Description.table(&1, picks, &2, &3)}
  end

  defp list(list, columns, styled) do
    titles = [
      {"number", :right, 6},
      {"name", :left, 4},
      {"policy", :left, 12},
      {"size", :right, 6},
      {"owner", :left, 8}
    ]

    rows =
      for listed <- list do
        size = if listed.closed, do: {:faint, "closed"}, else: Shown.number(listed.size)
        owner = listed.owner || "-"
        [Integer.to_string(listed.number), listed.name || "-", listed.policy, size, owner]
      end

    Columns.lines(titles, rows, columns, styled)
  end

  defp sort(rows, :listed), do: rows

  defp sort(rows, by) do
    {_title, how} = @sorts[by]
    # What is not known comes last.
    {known, unknown} = Enum.split_with(rows, &(Map.fetch!(&1, by) != nil))
    Enum.sort_by(known, &Map.fetch!(&1, by), how) ++ unknown
  end

  defp foot(view, columns, mode) do
    {sort, _how} = @sorts[view.sort]
    enter = if mode == :lines, do: ", each with Enter", else: ""

    keys =
      if view.chosen,
        do: "q quit  p pause  s sort (#{sort})  b balancers  j k scroll",
        else: "q quit  number and Enter: show it  j k scroll  #{view.typed}"

    paused = if view.paused, do: "PAUSED  ", else: ""
    text = cut(paused <> keys <> enter, columns)

    [
      IO.ANSI.reverse(),
      text,
      String.duplicate(" ", columns - Shown.columns(text)),
      IO.ANSI.reset()
    ]
  end

  defp cut(text, columns), do: Shown.fit(text, columns)
end
