defmodule GrpcLb.Connection.Plan do
  @moduledoc false
  # What a connection has to do so that its transports become those of a resolution. Pure: it starts
  # nothing and knows no process.
  #
  # An address of a backend that has been resolved once has one of these states:
  #
  #   * `:up` - it is open
  #   * `:opening` - its transport is being opened
  #   * `:queued` - it is to be opened, when others have been
  #   * `:backoff` - it could not be opened, or is gone, and is tried again later
  #   * `:closing` - what opened it ends, for it was given up
  #   * `:idle` - it is not needed: another is up, or has its turn first

  alias GrpcLb.Address

  @max_weight 0xFFFFFFFF

  @type id :: String.t()
  @opaque endpoint :: {tuple(), :inet.port_number(), String.t() | nil, String.t() | nil}
  @type state :: :up | :opening | :queued | :backoff | :closing | :idle

  @typedoc "An address of a backend: the id for the first, and with it what the others are."
  @type key :: id() | {id(), {Address.ip(), :inet.port_number()}}

  @typedoc """
  What to do.

    * `:open` - addresses that are new
    * `:drain` - those that are open and not wanted any more
    * `:abort` - those that are being opened and not wanted any more
    * `:forget` - those that have no transport and are not wanted any more

  All others stay as they are. One that was given up cannot be kept: if it is wanted when that is done, it
  is opened anew.
  """
  @type t :: %{open: [key()], drain: [key()], abort: [key()], forget: [key()]}

  @doc """
  The addresses of a backend, by which it can be reached.

      iex> address = %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 1, alternatives: [{{10, 0, 0, 2}, 1}]}
      iex> [_first, other] = GrpcLb.Connection.Plan.keys("10.0.0.1:1", address)
      ["10.0.0.1:1", {"10.0.0.1:1", {{10, 0, 0, 2}, 1}}]
      iex> GrpcLb.Connection.Plan.id(other)
      "10.0.0.1:1"
      iex> GrpcLb.Connection.Plan.address(other, address)
      %GrpcLb.Address{ip: {10, 0, 0, 2}, port: 1}
  """
  @spec keys(id(), Address.t()) :: [key()]
  def keys(id, %{alternatives: []}), do: [id]

  def keys(id, %{ip: ip, port: port, alternatives: alternatives}),
    do: [id | for(other <- Enum.uniq(alternatives), other != {ip, port}, do: {id, other})]

  @doc "Whose address it is."
  @spec id(key()) :: id()
  def id({id, _other}), do: id
  def id(id), do: id

  @doc "What is dialled."
  @spec address(key(), Address.t()) :: Address.t()
  def address({_id, {ip, port}}, address),
    do: %{address | ip: ip, port: port, zone: nil, alternatives: []}

  def address(_id, address), do: %{address | alternatives: []}

  @doc """
  What makes an address the one that it is: where it is, and the host name, which TLS verifies.

      iex> a = %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 1, host: "A.example"}
      iex> GrpcLb.Connection.Plan.endpoint(a) == GrpcLb.Connection.Plan.endpoint(%{a | weight: 5})
      true
      iex> GrpcLb.Connection.Plan.endpoint(a) == GrpcLb.Connection.Plan.endpoint(%{a | host: nil})
      false
  """
  @spec endpoint(Address.t()) :: endpoint()
  def endpoint(%Address{} = address),
    do: {address.ip, address.port, address.zone, host(address.host)}

  @doc """
  Whether two host names are one: those of DNS know no case.

      iex> GrpcLb.Connection.Plan.same_host?("a.example", "A.Example")
      true
  """
  @spec same_host?(String.t() | nil, String.t() | nil) :: boolean()
  def same_host?(one, other), do: host(one) == host(other)

  defp host(nil), do: nil
  defp host(name), do: String.downcase(name, :ascii)

  @doc """
  The addresses of a resolution by id, and the ids in order.

  An endpoint that is given more than once stands where it was given first, and with the sum of its
  weights, 4294967295 at most. Its id is that of its address, or, if an endpoint with another host name
  has this one, that with the host name behind it. `known` are the ids that there are, with their host
  names: an endpoint keeps its id, and no other gets it.

      iex> [a, b] = for port <- 1..2, do: %GrpcLb.Address{ip: {10, 0, 0, 1}, port: port}
      iex> {ids, addresses} = GrpcLb.Connection.Plan.by_id([a, b, %{a | weight: 5}, %{a | host: "h"}])
      iex> ids
      ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:1/h"]
      iex> addresses["10.0.0.1:1"].weight
      6

      iex> b = %GrpcLb.Address{ip: {10, 0, 0, 1}, port: 1, host: "b"}
      iex> {ids, _addresses} = GrpcLb.Connection.Plan.by_id([b], %{"10.0.0.1:1" => "a"})
      iex> ids
      ["10.0.0.1:1/b"]
  """
  @spec by_id([Address.t()], known :: %{id() => String.t() | nil}) ::
          {[id()], %{id() => Address.t()}}
  def by_id(addresses, known \\ %{}) do
    {ids, by_id, _hosts} = Enum.reduce(addresses, {[], %{}, known}, &add/2)
    {Enum.reverse(ids), by_id}
  end

  defp add(%{host: host, weight: weight} = address, {ids, by_id, hosts}) do
    id = id_among(address, hosts)

    if is_map_key(by_id, id) do
      {ids, update_in(by_id[id].weight, &min(&1 + weight, @max_weight)), hosts}
    else
      {[id | ids], Map.put(by_id, id, address), Map.put(hosts, id, host)}
    end
  end

  defp id_among(%{host: host} = address, hosts) do
    id = Address.id(address)
    with_host = id <> "/#{host}"

    cond do
      its?(id, host, hosts) -> id
      its?(with_host, host, hosts) -> with_host
      not is_map_key(hosts, id) -> id
      true -> free(with_host, host, hosts)
    end
  end

  # Only a path that looks like another one and its host can have it already.
  defp free(id, host, hosts) do
    if its?(id, host, hosts) or not is_map_key(hosts, id),
      do: id,
      else: free(id <> "/", host, hosts)
  end

  defp its?(id, host, hosts), do: is_map_key(hosts, id) and same_host?(hosts[id], host)

  @doc """
  Compares the addresses that are wanted with those that are there.

      iex> states = %{"a" => :up, "b" => :up, "c" => :backoff, "d" => :opening}
      iex> GrpcLb.Connection.Plan.diff(["e", "b"], states)
      %{open: ["e"], drain: ["a"], abort: ["d"], forget: ["c"]}
  """
  @spec diff([key()], %{key() => state()}) :: t()
  def diff(wanted, states) do
    gone = states |> Map.drop(wanted) |> Enum.sort() |> Enum.group_by(&elem(&1, 1), &elem(&1, 0))

    %{
      open: Enum.reject(wanted, &is_map_key(states, &1)),
      drain: Map.get(gone, :up, []),
      abort: Map.get(gone, :opening, []),
      forget: Enum.flat_map([:backoff, :idle, :queued], &Map.get(gone, &1, []))
    }
  end
end
