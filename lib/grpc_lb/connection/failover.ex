defmodule GrpcLb.Connection.Failover do
  @moduledoc false
  # Which addresses of a resolution are connected to: those in the subset, if there is one, of the
  # priorities that are needed. These are, as gRPC's priority policy (gRFC A56) decides, the first; and the
  # next one once all of those before it have failed, or have had their time. One
  # that is needed no more stays connected for a while. Most resolutions have one priority.

  alias GrpcLb.Address
  alias GrpcLb.Connection.{Backends, Options, Plan, Subset}

  # gRFC A56 keeps a child for so long that is not used.
  @retire_ms 15 * 60_000

  @enforce_keys [:timeout]
  defstruct [:timeout, :timer, :subset, addresses: [], priorities: [], connected: %{}, given: nil]

  @typedoc """
  `connected` has those priorities that are connected to: since when each has had no transport that is
  up, while it may still get one, and since when it is not needed. `given` are their addresses, as the
  backends have them.
  """
  @type t :: %__MODULE__{
          timeout: non_neg_integer(),
          timer: reference() | nil,
          subset: Subset.t() | nil,
          addresses: [Address.t()],
          priorities: [Address.priority()],
          connected: %{
            Address.priority() => %{waits: integer() | nil, idle: integer() | nil}
          },
          given: [Address.t()] | nil
        }

  @typedoc "What is known of a backend, see `GrpcLb.Connection.Backends.describe/1`."
  @type known :: %{id: Plan.id(), address: Address.t(), state: atom(), error: term()}

  @doc "Has no addresses yet."
  @spec new(Options.t()) :: t()
  def new(%{settings: settings, subset: subset, failover_timeout: timeout}) do
    # Shares that go down gradually are shares of all priorities.
    timeout = if settings[:overprovisioning_factor], do: 0, else: timeout
    %__MODULE__{timeout: timeout, subset: subset}
  end

  @doc "Has these addresses from now on, or the subset of them."
  @spec resolved(t(), [Address.t()]) :: t()
  def resolved(failover, addresses) do
    addresses = Subset.take(addresses, failover.subset)
    priorities = addresses |> Enum.map(& &1.priority) |> Enum.uniq() |> Enum.sort()
    connected = Map.take(failover.connected, priorities)
    %{failover | addresses: addresses, priorities: priorities, connected: connected}
  end

  @doc "The same of addresses that the backends are given, all of them."
  @spec adopt(t(), [Address.t()]) :: t()
  def adopt(failover, addresses) do
    failover = resolved(failover, addresses)
    connected = Map.new(failover.priorities, &{&1, %{waits: now(), idle: nil}})
    %{failover | connected: connected, given: failover.addresses}
  end

  @doc """
  Has those priorities connected that are needed now. When that may change with time the calling
  process is sent `{:timeout, timer, :failover}`, to call this again.
  """
  @spec connect(t(), Backends.t()) :: {t(), Backends.t()}
  def connect(%{priorities: [_one], addresses: given, given: given} = failover, backends),
    do: {failover, backends}

  def connect(failover, backends) do
    {addresses, look_in, failover} = look(failover, Backends.describe(backends), now())
    failover = look_again(failover, look_in)

    if addresses == failover.given,
      do: {failover, backends},
      else: {%{failover | given: addresses}, Backends.update(backends, addresses)}
  end

  defp look_again(failover, look_in) do
    if failover.timer, do: :erlang.cancel_timer(failover.timer)
    timer = if look_in != :infinity, do: :erlang.start_timer(look_in, self(), :failover)
    %{failover | timer: timer}
  end

  @doc """
  The addresses to be connected to, in order, and in how many milliseconds to look again, by what is
  known of those that are. Times are in milliseconds.

      iex> alias GrpcLb.Connection.Failover
      iex> [near, far] = for p <- 0..1, do: %GrpcLb.Address{ip: {10, 0, 0, p}, port: 1, priority: p}
      iex> failover = Failover.resolved(%Failover{timeout: 10_000}, [near, far])
      iex> {addresses, 10_000, failover} = Failover.look(failover, [], 0)
      iex> addresses == [near]
      true
      iex> failed = [%{id: "10.0.0.0:1", address: near, state: :backoff, error: :econnrefused}]
      iex> {addresses, 10_000, _failover} = Failover.look(failover, failed, 1_000)
      iex> addresses == [near, far]
      true
  """
  @spec look(t(), [known()], now :: integer()) ::
          {[Address.t()], milliseconds :: non_neg_integer() | :infinity, t()}
  def look(failover, known, now) do
    wanted = MapSet.new(failover.addresses, &Plan.endpoint/1)
    wanted? = &(Plan.endpoint(&1.address) in wanted)
    known = known |> Enum.filter(wanted?) |> Enum.group_by(& &1.address.priority)
    connected = needed(failover.priorities, failover, known, now)
    addresses = Enum.filter(failover.addresses, &is_map_key(connected, &1.priority))
    {addresses, due(connected, failover.timeout, now), %{failover | connected: connected}}
  end

  defp needed([], _failover, _known, _now), do: %{}

  defp needed([priority | rest], failover, known, now) do
    {waits, others} =
      case condition(known[priority]) do
        :up ->
          {nil, not_needed(rest, failover, now)}

        :failed ->
          {nil, needed(rest, failover, known, now)}

        :connecting ->
          since = waits(failover.connected[priority]) || now

          if now < since + failover.timeout,
            do: {since, Map.take(failover.connected, rest)},
            else: {since, needed(rest, failover, known, now)}
      end

    Map.put(others, priority, %{waits: waits, idle: nil})
  end

  defp waits(nil), do: nil
  defp waits(connected), do: connected.waits

  # What was up is as what has failed, until it is up again: the next one is not kept waiting.
  defp condition(nil), do: :connecting

  defp condition(known) do
    cond do
      Enum.any?(known, &(&1.state == :up)) -> :up
      Enum.all?(known, &(&1.error != nil)) -> :failed
      true -> :connecting
    end
  end

  defp not_needed(priorities, failover, now) do
    for {priority, connected} <- Map.take(failover.connected, priorities),
        idle = connected.idle || now,
        now < idle + @retire_ms,
        into: %{},
        do: {priority, %{waits: nil, idle: idle}}
  end

  defp due(connected, timeout, now) do
    times =
      for {_priority, it} <- connected,
          {since, lasts} <- [{it.waits, timeout}, {it.idle, @retire_ms}],
          since != nil and since + lasts > now,
          do: since + lasts - now

    Enum.min(times, fn -> :infinity end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
