defmodule GrpcLb.Connection.Known do
  @moduledoc false
  # The addresses that a connection knows, and how a resolution changes them. Pure; times are
  # milliseconds.
  #
  # What an answer has is wanted. What it has not is kept if it is of a part of which the answer knows
  # nothing; and held for a while, as long as its transport is healthy, because many name servers answer
  # with a part of what there is, and with another part the next time.

  alias GrpcLb.{Address, Resolver, Shares}
  alias GrpcLb.Connection.Plan

  defstruct addresses: [], held: %{}, until: nil

  @typedoc """
  The addresses, in order, and until when those are held that the last answer did not have; and until when
  those are that it was the first to leave out.
  """
  @type t :: %__MODULE__{
          addresses: [Address.t()],
          held: %{Plan.endpoint() => until :: integer()},
          until: integer() | nil
        }

  @type result ::
          :ok
          | {:kept, reason :: term()}
          | {:dropped, reason :: term()}
          | {:failed, reason :: term()}

  @doc """
  What is known after a result of the resolver, and what that did, as telemetry tells it.

    * `:ok` - the answer has addresses, or leaves some that are known
    * `{:kept, reason}` - it has failed, or was empty, and nothing changes
    * `{:dropped, reason}` - it was empty, and by the option `:on_empty` nothing is known now
    * `{:failed, reason}` - it has failed or was empty, and nothing was known

  An answer is empty that knows everything and has no addresses, and so is a failure that says so.
  `until` and `healthy` are as in `merge/4`; of an empty answer nothing is held.

      iex> alias GrpcLb.Connection.Known
      iex> known = %Known{addresses: [%GrpcLb.Address{ip: {10, 0, 0, 1}, port: 1}]}
      iex> {{:kept, :timeout}, ^known} = Known.update(known, {:error, :timeout}, nil, MapSet.new(), :drop)
      iex> Known.update(known, {:error, :nxdomain}, nil, MapSet.new(), :drop)
      {{:dropped, :nxdomain}, %Known{}}
  """
  @spec update(
          t(),
          Resolver.result(),
          until :: integer() | nil,
          healthy :: MapSet.t(Plan.endpoint()),
          on_empty :: :keep | :drop
        ) :: {result(), t()}
  def update(known, {:ok, answer}, until, healthy, on_empty) do
    merged = if empty?(answer), do: %__MODULE__{}, else: merge(known, answer, until, healthy)

    case merged.addresses do
      [] -> update(known, {:error, :no_addresses}, until, healthy, on_empty)
      _some -> {:ok, merged}
    end
  end

  def update(%{addresses: []} = known, {:error, reason}, _until, _healthy, _on_empty),
    do: {{:failed, reason}, known}

  def update(_known, {:error, reason}, _until, _healthy, :drop)
      when reason in [:no_addresses, :nxdomain],
      do: {{:dropped, reason}, %__MODULE__{}}

  # It leaves nothing out.
  def update(known, {:error, reason}, _until, _healthy, _on_empty),
    do: {{:kept, reason}, %{known | until: nil}}

  @doc """
  What is known after a fuller result of the last resolution: as with `update/5`, and what the last answer was
  the first to leave out is held as by this one. An answer with unknown parts has a short TTL.

      iex> alias GrpcLb.Connection.{Known, Plan}
      iex> [a, b] = for n <- 1..2, do: %GrpcLb.Address{ip: {10, 0, 0, n}, port: 1}
      iex> healthy = MapSet.new([a, b], &Plan.endpoint/1)
      iex> partial = {:ok, %{addresses: [a], ttl: 5, unknown: [%{family: :inet6}]}}
      iex> {:ok, known} = Known.update(%Known{addresses: [a, b]}, partial, 10_000, healthy, :keep)
      iex> full = {:ok, %{addresses: [a], ttl: 60}}
      iex> {:ok, known} = Known.complete(known, full, 120_000, healthy, :keep)
      iex> Known.due(known)
      120000
  """
  @spec complete(
          t(),
          Resolver.result(),
          until :: integer() | nil,
          healthy :: MapSet.t(Plan.endpoint()),
          on_empty :: :keep | :drop
        ) :: {result(), t()}
  def complete(known, result, until, healthy, on_empty) do
    before = Map.reject(known.held, fn {_endpoint, until} -> until == known.until end)

    with {{:kept, _reason} = kept, _known} <-
           update(%{known | held: before}, result, until, healthy, on_empty),
         do: {kept, known}
  end

  defp empty?(answer), do: answer.addresses == [] and Map.get(answer, :unknown, []) == []

  @doc """
  Merges an answer into what is known. What it has comes first, in its order, and what is kept or held
  after that, as it was.

  `until` is until when what vanishes now is held, or `nil` if it is not, and `healthy` are the endpoints that can be. An
  endpoint of which the answer knows another name is not held: it has been renamed.

      iex> [a, b, c] = for n <- 1..3, do: %GrpcLb.Address{ip: {10, 0, 0, n}, port: 1, host: "h\#{n}"}
      iex> known = %GrpcLb.Connection.Known{addresses: [a, b, c]}
      iex> answer = %{addresses: [c], ttl: 5, unknown: [%{host: "h2"}]}
      iex> GrpcLb.Connection.Known.merge(known, answer, nil, MapSet.new()).addresses
      [c, b]
  """
  @spec merge(
          t(),
          Resolver.resolution(),
          until :: integer(),
          healthy :: MapSet.t(Plan.endpoint())
        ) ::
          t()
  def merge(known, %{addresses: addresses} = answer, until, healthy) do
    unknown = Map.get(answer, :unknown, [])
    here = MapSet.new(addresses, &Plan.endpoint/1)
    renamed = MapSet.new(addresses, &Address.id/1)

    others =
      for address <- known.addresses,
          endpoint = Plan.endpoint(address),
          endpoint not in here,
          why = stays(address, endpoint, unknown, known.held, renamed, until, healthy),
          do: {address, endpoint, why}

    %__MODULE__{
      addresses: share(addresses ++ for({address, _, _} <- others, do: address), unknown),
      held: for({_, endpoint, {:held, until}} <- others, into: %{}, do: {endpoint, until}),
      until: until
    }
  end

  # Why an address stays that the answer has not, or nil.
  defp stays(address, endpoint, unknown, held, renamed, until, healthy) do
    holdable? = endpoint in healthy and Address.id(address) not in renamed

    cond do
      # An answer that knows nothing of it does not put off its end.
      holdable? and is_map_key(held, endpoint) -> {:held, held[endpoint]}
      Enum.any?(unknown, &of_part?(address, &1)) -> :kept
      holdable? and until != nil -> {:held, until}
      true -> nil
    end
  end

  defp of_part?(address, part) do
    Enum.all?(part, fn
      {:host, host} -> Plan.same_host?(address.host, host)
      {:port, port} -> address.port == port
      {:family, family} -> family(address.ip) == family
      {:weight, _weight} -> true
    end)
  end

  defp family({:local, _path}), do: :local
  defp family(ip) when tuple_size(ip) == 4, do: :inet
  defp family(_ip), do: :inet6

  # The weight of a part is shared by all addresses of its host and port.
  defp share(addresses, unknown) do
    case for %{weight: _weight} = part <- unknown, do: Map.delete(part, :family) do
      [] -> addresses
      parts -> share_weights(addresses, parts)
    end
  end

  defp share_weights(addresses, parts) do
    sharing =
      Enum.map(addresses, fn address -> Enum.find(parts, address, &of_part?(address, &1)) end)

    counts = Enum.frequencies(sharing)
    weights = counts |> Enum.map(fn {one, n} -> {one.weight, n} end) |> Shares.split()
    weights = counts |> Map.keys() |> Enum.zip(weights) |> Map.new()

    for {address, one} <- Enum.zip(addresses, sharing), do: %{address | weight: weights[one]}
  end

  @doc "Lets go of what is held until now or is not healthy any more."
  @spec release(t(), now :: integer(), healthy :: MapSet.t(Plan.endpoint())) :: t()
  def release(known, now, healthy) do
    {held, over} =
      Enum.split_with(known.held, fn {endpoint, until} -> until > now and endpoint in healthy end)

    over = MapSet.new(over, &elem(&1, 0))
    addresses = Enum.reject(known.addresses, &(Plan.endpoint(&1) in over))
    %{known | addresses: addresses, held: Map.new(held)}
  end

  @doc "When the next one is let go of, if one is held."
  @spec due(t()) :: integer() | nil
  def due(%{held: held}), do: held |> Map.values() |> Enum.min(fn -> nil end)
end
