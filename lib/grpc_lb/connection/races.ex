defmodule GrpcLb.Connection.Races do
  @moduledoc false
  # Who races with whom: the addresses of one backend and, with pick_first, those of all, for it has one
  # connection (gRFC A62). Pure, as `Race`.

  alias GrpcLb.{Address, Policy}
  alias GrpcLb.Connection.{Plan, Race}

  @enforce_keys [:one?, :shuffle?]
  defstruct @enforce_keys ++ [races: %{}, names: [], draws: %{}]

  @typep name :: Plan.id() | :all

  @type t :: %__MODULE__{
          one?: boolean(),
          shuffle?: boolean(),
          races: %{name() => Race.t()},
          names: [name()],
          draws: %{Plan.id() => float()}
        }

  @doc "Those of a connection with this policy."
  @spec new(Policy.t()) :: t()
  def new({:pick_first, opts}),
    do: %__MODULE__{one?: true, shuffle?: Keyword.get(opts, :shuffle, false)}

  def new(policy), do: %__MODULE__{one?: policy == :pick_first, shuffle?: false}

  @doc "The races over these backends. Those that go on do so as they are."
  @spec update(t(), [Plan.id()], %{Plan.id() => Address.t()}) :: t()
  def update(races, ids, addresses) do
    races = draw(races, ids)

    orders =
      if races.one?,
        do: [{:all, races |> places(ids, addresses) |> order(addresses)}],
        else: for(id <- ids, do: {id, order([id], addresses)})

    updated =
      Map.new(orders, fn {name, order} ->
        case races.races do
          %{^name => race} -> {name, Race.reorder(race, order)}
          _new -> {name, Race.new(order)}
        end
      end)

    %{races | races: updated, names: Enum.map(orders, &elem(&1, 0))}
  end

  # A backend that stays keeps what it has drawn.
  defp draw(%{shuffle?: false} = races, _ids), do: races

  defp draw(%{draws: draws} = races, ids) do
    %{races | draws: Map.new(ids, &{&1, Map.get_lazy(draws, &1, fn -> :rand.uniform_real() end)})}
  end

  defp places(%{shuffle?: false}, ids, _addresses), do: ids

  # The heavier one is, the likelier it is the first: u^(1/weight), from the largest (gRFC A113), as its
  # logarithm.
  defp places(%{draws: draws}, ids, addresses),
    do: Enum.sort_by(ids, &(-:math.log(draws[&1]) / addresses[&1].weight))

  defp order(ids, addresses) do
    case for id <- ids, key <- Plan.keys(id, addresses[id]), do: key do
      [_one] = alone ->
        alone

      keys ->
        Race.interleave(keys, &family(Plan.address(&1, addresses[Plan.id(&1)]).ip))
    end
  end

  # An IPv4 address in IPv6 is one of IPv4 (gRFC A61).
  defp family({0, 0, 0, 0, 0, 0xFFFF, _, _}), do: 4
  defp family(ip), do: tuple_size(ip)

  @doc "The names of all, in order."
  @spec names(t()) :: [name()]
  def names(races), do: races.names

  @doc "The name of the one in which an address races, if it is still wanted."
  @spec name(t(), Plan.key()) :: name()
  def name(races, key), do: if(races.one?, do: :all, else: Plan.id(key))

  @doc "All with which an address races, and itself."
  @spec rivals(t(), Plan.key()) :: [Plan.key()]
  def rivals(races, key), do: races.races[name(races, key)].order

  @doc """
  What a race makes of the states, as `Race.step/2`; and whose turn it is since now, if others come after
  a delay.
  """
  @spec step(t(), name(), (Plan.key() -> Plan.state())) ::
          {dial :: [Plan.key()], stop :: [Plan.key()], turn :: {Plan.key(), integer()} | nil, t()}
  def step(races, name, state) do
    case races.races do
      %{^name => race} ->
        {dial, stop, next} = Race.step(race, state)
        turn = if next.turn != race.turn and next.newest, do: {next.newest, next.turn}
        {dial, stop, turn, put(races, name, next)}

      _none ->
        {[], [], nil, races}
    end
  end

  @doc "All have another turn, in order."
  @spec restart(t()) :: t()
  def restart(races),
    do: %{races | races: Map.new(races.races, fn {name, race} -> {name, Race.restart(race)} end)}

  @doc "The delay of a turn is over."
  @spec delay_over(t(), name(), turn :: integer()) :: t()
  def delay_over(races, name, turn) do
    case races.races do
      %{^name => race} -> put(races, name, Race.hurry(race, turn))
      _none -> races
    end
  end

  defp put(races, name, race), do: put_in(races.races[name], race)
end
