defmodule GrpcLb.Bench.Contender do
  @moduledoc false
  # One way to pick, with the loops that time it.
  #
  # `use` compiles the loops into the contender's own module and inlines its `pick/1` into them,
  # so that the pick is timed and not the way to it. Each loop carries the last result and returns
  # it: work whose result nobody uses is work that the compiler may leave out.

  alias GrpcLb.Bench.{Contender, Histogram}

  @enforce_keys [:key, :title, :module, :order]
  defstruct [:key, :title, :module, :order, :price, side: :ours, opts: []]

  @type state :: term
  @type backend :: {id :: term, value :: term}

  @typedoc """
  What picks in a row have to look like: each value in turn, each as often as the others give or
  take one a scheduler, any of the values, the next integer, or nothing in particular.
  """
  @type order :: :rotation | :near_rotation | :any | :counter | :none

  @typedoc "Of this library, of what else there is, or only for scale."
  @type side :: :ours | :peer | :scale

  @typedoc "`price` is what a peer's time does not show of what it costs."
  @type t :: %Contender{
          key: atom,
          title: String.t(),
          module: module,
          order: order,
          side: side,
          price: String.t() | nil,
          opts: keyword
        }

  @callback setup([backend], opts :: keyword) :: state
  @callback teardown(state) :: term
  @callback pick(state) :: term
  @callback update(state, [backend]) :: term
  @callback loop(state, count :: non_neg_integer, last :: term) :: term
  @callback sample(state, count :: non_neg_integer, Histogram.t(), last :: term) ::
              term

  @optional_callbacks update: 2

  defmacro __using__(_opts) do
    quote do
      @behaviour Contender
      @compile {:inline, pick: 1}

      @impl true
      def loop(_state, 0, last), do: last
      def loop(state, count, _last), do: loop(state, count - 1, pick(state))

      # Times each pick by itself, in native time units.
      @impl true
      def sample(_state, 0, _histogram, last), do: last

      def sample(state, count, histogram, _last) do
        before = :erlang.monotonic_time()
        picked = pick(state)
        Histogram.add(histogram, :erlang.monotonic_time() - before)
        sample(state, count - 1, histogram, picked)
      end
    end
  end

  @doc "A contender, as data: a peer or a scale says so with `side:`."
  def new(key, title, module, order, fields \\ []) do
    struct!(%Contender{key: key, title: title, module: module, order: order}, fields)
  end

  @doc "Raises unless the contender, freshly set up, picks what it claims to pick."
  def check!(%Contender{order: :none}, _state, _values), do: :ok

  def check!(%Contender{order: :counter} = contender, state, _values) do
    first = contender.module.pick(state)
    assert!(contender, contender.module.pick(state) == first + 1)
  end

  def check!(contender, state, values) do
    size = length(values)

    picked =
      for _ <- 1..(3 * size) do
        {:ok, value} = contender.module.pick(state)
        value
      end

    assert!(contender, ordered?(contender.order, picked, values, size))
  end

  defp ordered?(:rotation, picked, values, size) do
    [turn | turns] = Enum.chunk_every(picked, size)
    Enum.sort(turn) == Enum.sort(values) and Enum.all?(turns, &(&1 == turn))
  end

  defp ordered?(:near_rotation, picked, values, _size) do
    counts = Map.merge(Map.new(values, &{&1, 0}), Enum.frequencies(picked))
    {least, most} = counts |> Map.values() |> Enum.min_max()
    map_size(counts) == length(values) and most - least <= System.schedulers_online()
  end

  defp ordered?(:any, picked, values, size) do
    distinct = Enum.uniq(picked)
    distinct -- values == [] and (size < 5 or length(distinct) > 1)
  end

  defp assert!(_contender, true), do: :ok
  defp assert!(contender, false), do: raise("#{contender.title} picks wrongly")
end
