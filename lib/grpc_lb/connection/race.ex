defmodule GrpcLb.Connection.Race do
  @moduledoc false
  # Happy eyeballs (gRFC A61): of addresses one of which is enough, they are dialled in order, the next
  # one 250 ms after the one before it or when that has failed, and the first that opens wins. When all
  # have been dialled each is dialled again after its own backoff. After the loss of the winner it all
  # begins with the first (gRFC A62). Pure: it is told the states, and dials nothing.
  #
  # In the spec the first round is over when all have failed, and none is dialled again before; here when
  # all have been dialled. That makes a difference to one only whose backoff is shorter than the dials of
  # those after it.

  alias GrpcLb.Connection.Plan

  @delay_ms 250

  @enforce_keys [:order, :left]
  defstruct @enforce_keys ++ [newest: nil, turn: 0]

  @typedoc """
  Those that race, in order; who has not had a turn in this round; and whose turn it is, when others come
  after it, and how many turns that makes.
  """
  @type t :: %__MODULE__{
          order: [Plan.key()],
          left: [Plan.key()],
          newest: Plan.key() | nil,
          turn: non_neg_integer()
        }

  @doc "How long after a dial the next one begins."
  @spec delay_ms() :: pos_integer()
  def delay_ms, do: @delay_ms

  @doc "A race that begins."
  @spec new([Plan.key()]) :: t()
  def new(order), do: %__MODULE__{order: order, left: order}

  @doc "A race among others, or in another order. What is being dialled has had its turn."
  @spec reorder(t(), [Plan.key()]) :: t()
  def reorder(%{order: order} = race, order), do: race

  def reorder(%{newest: newest} = race, order),
    do: %{race | order: order, left: order, newest: if(newest in order, do: newest)}

  @doc """
  Who is to be dialled, and who is not needed, because another is up.

      iex> alias GrpcLb.Connection.Race
      iex> race = Race.new(["a", "b", "c"])
      iex> {["a"], [], race} = Race.step(race, fn _ -> :idle end)
      iex> states = %{"a" => :opening, "b" => :idle, "c" => :idle}
      iex> {[], [], ^race} = Race.step(race, &states[&1])
      iex> {["b"], [], race} = Race.step(Race.hurry(race, race.turn), &states[&1])
      iex> states = %{states | "b" => :up}
      iex> {[], ["a"], _race} = Race.step(race, &states[&1])
  """
  @spec step(t(), (Plan.key() -> Plan.state())) ::
          {dial :: [Plan.key()], stop :: [Plan.key()], t()}
  def step(%{order: order} = race, state) do
    case Enum.find(order, &(state.(&1) == :up)) do
      nil ->
        {dial, race} = take_turns(race, state)
        {dial, [], race}

      winner ->
        stop = for key <- order, key != winner, state.(key) in [:queued, :opening, :up], do: key
        {[], stop, begin(race)}
    end
  end

  defp begin(race), do: %{race | left: race.order, newest: nil}

  @doc "A race in which all have another turn."
  @spec restart(t()) :: t()
  def restart(race), do: %{race | left: race.order}

  @doc "The delay of a turn is over."
  @spec hurry(t(), turn :: integer()) :: t()
  def hurry(%{turn: turn} = race, turn), do: %{race | newest: nil}
  def hurry(race, _over_before), do: race

  defp take_turns(%{newest: nil, left: []} = race, state) do
    {Enum.filter(race.order, &(state.(&1) == :idle)), race}
  end

  defp take_turns(%{newest: nil, left: [key | left]} = race, state) do
    case state.(key) do
      turn when turn in [:idle, :closing] ->
        take_turns(%{race | left: left, newest: key, turn: race.turn + 1}, state)

      # Being dialled already, or not before its backoff is over.
      _another ->
        take_turns(%{race | left: left}, state)
    end
  end

  defp take_turns(%{newest: newest} = race, state) do
    case state.(newest) do
      :idle -> {[newest], if(race.left == [], do: %{race | newest: nil}, else: race)}
      under_way when under_way in [:queued, :opening, :closing] -> {[], race}
      _failed_or_gone -> take_turns(%{race | newest: nil}, state)
    end
  end

  @doc """
  Takes one of each family in turn, the families in the order in which they are first seen.

      iex> GrpcLb.Connection.Race.interleave([1, 3, 5, 2, 4], &rem(&1, 2))
      [1, 2, 3, 4, 5]
  """
  @spec interleave([item], (item -> family :: term())) :: [item] when item: term()
  def interleave(items, family) do
    families = items |> Enum.map(family) |> Enum.uniq()
    by_family = Enum.group_by(items, family)
    families |> Enum.map(&by_family[&1]) |> round_by_round()
  end

  defp round_by_round([]), do: []

  defp round_by_round(lists) do
    Enum.map(lists, &hd/1) ++ round_by_round(for [_ | [_ | _] = rest] <- lists, do: rest)
  end
end
