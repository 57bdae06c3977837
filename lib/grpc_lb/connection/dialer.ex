defmodule GrpcLb.Connection.Dialer do
  @moduledoc false
  # Paces the dials of a connection, so that a large answer does not open all at once: so many at the
  # same time, and the others in order as those are done. Pure: it dials nothing.

  alias GrpcLb.Connection.Plan

  @enforce_keys [:limit]
  defstruct [:limit, dialling: MapSet.new(), queue: :gb_sets.new(), places: %{}, next_place: 0]

  @type t :: %__MODULE__{limit: pos_integer()}

  @doc "One that lets so many dial at the same time."
  @spec new(limit :: pos_integer()) :: t()
  def new(limit), do: %__MODULE__{limit: limit}

  @doc """
  Notes the state that an address has now: `:queued` queues it, if it is not in the queue, and
  `:opening` takes room.

      iex> alias GrpcLb.Connection.Dialer
      iex> dialer = Dialer.new(1) |> Dialer.note("a", :queued) |> Dialer.note("b", :queued)
      iex> Dialer.next(dialer)
      "a"
      iex> dialer = Dialer.note(dialer, "a", :opening)
      iex> Dialer.next(dialer)
      nil
      iex> Dialer.next(Dialer.note(dialer, "a", :up))
      "b"
  """
  @spec note(t(), Plan.key(), Plan.state() | :gone) :: t()
  def note(%{places: places} = dialer, key, :queued) when is_map_key(places, key), do: dialer

  def note(dialer, key, :queued) do
    %{next_place: place} = dialer = done(dialer, key)
    places = Map.put(dialer.places, key, place)
    queue = :gb_sets.add({place, key}, dialer.queue)
    %{dialer | places: places, queue: queue, next_place: place + 1}
  end

  def note(dialer, key, :opening) do
    dialer = done(dialer, key)
    %{dialer | dialling: MapSet.put(dialer.dialling, key)}
  end

  def note(dialer, key, _other), do: done(dialer, key)

  defp done(dialer, key) do
    {place, places} = Map.pop(dialer.places, key)
    queue = :gb_sets.del_element({place, key}, dialer.queue)
    %{dialer | places: places, queue: queue, dialling: MapSet.delete(dialer.dialling, key)}
  end

  @doc "Whose turn it is to be dialled, or `nil` while there is no room or nobody in the queue."
  @spec next(t()) :: Plan.key() | nil
  def next(dialer) do
    room? = MapSet.size(dialer.dialling) < dialer.limit

    if room? and not :gb_sets.is_empty(dialer.queue) do
      {_place, key} = :gb_sets.smallest(dialer.queue)
      key
    end
  end
end
