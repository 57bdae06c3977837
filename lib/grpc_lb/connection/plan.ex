defmodule GrpcLb.Connection.Plan do
  @moduledoc false
  # What a connection has to do so that its transports become those of a resolution. Pure: it starts
  # nothing and knows no process.
  #
  # A backend that has been resolved once has one of these states:
  #
  #   * `:opening` - its transport is being opened
  #   * `:up` - it is open
  #   * `:backoff` - it could not be opened, or is gone, and is tried again later
  #   * `:draining` - it is open and has left the rotation, for calls in flight
  #   * `:closing` - it is being closed

  alias GrpcLb.Address

  @max_weight 0xFFFFFFFF

  @type id :: String.t()
  @type state :: :opening | :up | :backoff | :draining | :closing

  @typedoc """
  What to do.

    * `:open` - ids that are new
    * `:restore` - ids that were draining and are wanted again
    * `:drain` - ids that are open and not wanted any more
    * `:abort` - ids that are being opened and not wanted any more
    * `:forget` - ids that wait for another attempt and are not wanted any more

  All others stay as they are. One that is being closed cannot be kept: if it is still wanted when
  that is done, it is opened anew.
  """
  @type t :: %{open: [id()], restore: [id()], drain: [id()], abort: [id()], forget: [id()]}

  @doc """
  The addresses of a resolution by id, and the ids in order.

  An address that is given more than once stands where it was given first, and with the sum of its
  weights, 4294967295 at most.

      iex> [a, b] = for port <- 1..2, do: %GrpcLb.Address{ip: {10, 0, 0, 1}, port: port}
      iex> {ids, addresses} = GrpcLb.Connection.Plan.by_id([a, b, %{a | weight: 5}])
      iex> ids
      ["10.0.0.1:1", "10.0.0.1:2"]
      iex> addresses["10.0.0.1:1"].weight
      6
  """
  @spec by_id([Address.t()]) :: {[id()], %{id() => Address.t()}}
  def by_id(addresses) do
    {ids, by_id} =
      Enum.reduce(addresses, {[], %{}}, fn address, {ids, by_id} ->
        id = Address.id(address)

        case by_id do
          %{^id => %{weight: weight} = first} ->
            weight = min(weight + address.weight, @max_weight)
            {ids, %{by_id | id => %{first | weight: weight}}}

          _new ->
            {[id | ids], Map.put(by_id, id, address)}
        end
      end)

    {Enum.reverse(ids), by_id}
  end

  @doc """
  Compares the ids that are wanted with those that are there.

      iex> states = %{"a" => :up, "b" => :up, "c" => :draining, "d" => :opening}
      iex> GrpcLb.Connection.Plan.diff(["e", "c", "b"], states)
      %{open: ["e"], restore: ["c"], drain: ["a"], abort: ["d"], forget: []}
  """
  @spec diff([id()], %{id() => state()}) :: t()
  def diff(wanted, states) do
    gone = states |> Map.drop(wanted) |> Enum.sort() |> Enum.group_by(&elem(&1, 1), &elem(&1, 0))

    %{
      open: Enum.reject(wanted, &is_map_key(states, &1)),
      restore: Enum.filter(wanted, &(states[&1] == :draining)),
      drain: Map.get(gone, :up, []),
      abort: Map.get(gone, :opening, []),
      forget: Map.get(gone, :backoff, [])
    }
  end
end
