defmodule GrpcLb.Connection.Backends do
  @moduledoc false
  # The backends of a connection and their subchannels, for its server: what `Plan`, `Races` and `Dialer`
  # decide is started and stopped here, what subchannels tell is noted, and what failed is tried again.
  # A backend has an entry for each of its addresses, with the subchannel that it has now, if it has one;
  # those that it has had are in `Leaving`.

  alias GrpcLb.{Address, Native, Telemetry}

  alias GrpcLb.Connection.{
    Absent,
    Dialer,
    Entry,
    Leaving,
    Options,
    Plan,
    Race,
    Races,
    Rotation,
    Subchannel
  }

  @nearness Map.new(Enum.with_index([:up, :opening, :queued, :closing, :backoff, :idle]))

  @enforce_keys [:options, :balancer, :supervisor, :dialer, :races, :leaving]
  defstruct [
    :options,
    :balancer,
    :supervisor,
    :dialer,
    :races,
    :leaving,
    :first_error,
    ids: [],
    addresses: %{},
    entries: %{},
    absent: Absent.new()
  ]

  @type t :: %__MODULE__{
          options: Options.t(),
          balancer: GrpcLb.balancer(),
          supervisor: pid() | nil,
          dialer: Dialer.t(),
          races: Races.t(),
          leaving: Leaving.t(),
          first_error: {:open, Plan.id(), reason :: term()} | nil,
          ids: [Plan.id()],
          addresses: %{Plan.id() => Address.t()},
          entries: %{Plan.key() => Entry.t()},
          absent: Absent.t()
        }

  @doc "No backends yet. The supervisor of the balancer's subchannels runs."
  @spec new(Options.t(), GrpcLb.balancer()) :: t()
  def new(options, balancer) do
    %__MODULE__{
      options: options,
      balancer: balancer,
      supervisor: Subchannel.whereis_supervisor(balancer),
      dialer: Dialer.new(options.max_dials),
      races: Races.new(options.policy),
      leaving: Leaving.new(options)
    }
  end

  @doc "Whether the supervisor of the subchannels is alive."
  @spec supervised?(t()) :: boolean()
  def supervised?(%{supervisor: pid}), do: pid != nil and Process.alive?(pid)

  @doc "Takes over the subchannels that live, with the addresses that were known."
  @spec adopt(t(), [Address.t()]) :: t()
  def adopt(backends, addresses) do
    backends.balancer
    |> Subchannel.all()
    |> Enum.reduce(backends, fn {pid, key, address, state}, backends ->
      monitor(key, pid)
      adopted(backends, %{new_entry(backends, key, address) | pid: pid}, state)
    end)
    |> update(addresses)
  end

  defp adopted(backends, entry, :opening) do
    Subchannel.open(entry.pid)
    put(backends, Entry.opening(entry, backends.options))
  end

  defp adopted(backends, entry, {:up, value, owner}) do
    successes = successes(backends, entry)
    put(backends, Entry.up(entry, value, owner, successes, backends.options))
  end

  defp adopted(backends, entry, {{:unhealthy, _reason} = unhealthy, value, owner}) do
    backends = adopted(backends, entry, {:up, value, owner})
    put(backends, %{backends.entries[entry.key] | health: unhealthy})
  end

  defp adopted(backends, entry, {:draining, value, owner}) do
    transport = transport(%{entry | value: value, owner: owner})
    %{backends | leaving: Leaving.adopt(backends.leaving, transport, :draining)}
  end

  defp adopted(backends, entry, :closing) do
    %{backends | leaving: Leaving.adopt(backends.leaving, transport(entry), :closing)}
  end

  @doc "Makes these the addresses that are wanted."
  @spec update(t(), [Address.t()]) :: t()
  def update(backends, addresses) do
    known = Map.new(backends.entries, fn {key, entry} -> {Plan.id(key), entry.address.host} end)
    {ids, addresses} = Plan.by_id(addresses, known)
    backends = %{backends | ids: ids, addresses: addresses}
    keys = for id <- ids, key <- Plan.keys(id, addresses[id]), do: key
    plan = Plan.diff(keys, Map.new(backends.entries, fn {key, entry} -> {key, entry.state} end))

    backends
    |> Map.update!(:absent, &Absent.prune(&1, now_ms()))
    |> each(plan.open, &enter/2)
    |> each(plan.drain, &(&1 |> drain(&2) |> forget(&2)))
    |> each(plan.abort, &abort/2)
    |> each(plan.forget, &forget/2)
    |> Map.update!(:races, &Races.update(&1, ids, addresses))
    |> step_all()
  end

  defp each(backends, keys, fun), do: Enum.reduce(keys, backends, &fun.(&2, &1))

  @doc "Has no wait go on: what waits is opened now, and the next failure is as the first."
  @spec reconnect(t()) :: t()
  def reconnect(backends) do
    entries = Map.new(backends.entries, fn {key, entry} -> {key, Entry.reset(entry)} end)
    races = Races.restart(backends.races)
    step_all(%{backends | entries: entries, races: races, absent: Absent.new()})
  end

  @doc "Ends those that are being opened, which nobody will wait for."
  @spec abort_all(t()) :: :ok
  def abort_all(backends) do
    for {_key, %{state: :opening, pid: pid}} <- backends.entries, do: Process.exit(pid, :kill)
    :ok
  end

  @doc "The backends that are wanted, in order, for the rotation."
  @spec wanted(t()) :: [Rotation.wanted()]
  def wanted(backends) do
    last_resort? = last_resort?(backends)

    for id <- backends.ids do
      transport = transport(backends, id, last_resort?) || :not_up
      %{locality: locality, priority: priority, weight: weight} = backends.addresses[id]
      {id, transport, [locality: locality, priority: priority, weight: weight]}
    end
  end

  defp transport(backends, id, last_resort?) do
    case furthest(backends, id) do
      %{state: :up, health: :healthy, value: value, owner: owner} -> {:up, value, owner}
      %{state: :up, value: value, owner: owner} -> {:unhealthy, value, owner}
      _not_up -> if last_resort?, do: Leaving.last_resort(backends.leaving, id)
    end
  end

  # One that takes no new calls is picked while no other can be.
  defp last_resort?(%{entries: entries}),
    do: not Enum.any?(entries, &match?({_key, %{state: :up, health: :healthy}}, &1))

  @doc """
  The backends whose transport leaves the rotation, when these are wanted. To be asked before they are listed:
  what has ended well up to then was the calls of who leaves, and none of those of the next one.
  """
  @spec unlisted(t(), [Rotation.wanted()]) :: {[Plan.id()], t()}
  def unlisted(backends, wanted) do
    case Leaving.unlisted(backends.leaving, wanted) do
      [] -> {[], backends}
      ids -> {ids, count_successes(backends, MapSet.new(ids))}
    end
  end

  defp count_successes(backends, ids) do
    entries =
      for {key, %{state: :up} = entry} <- backends.entries, Plan.id(key) in ids, into: %{} do
        {key, %{entry | successes: successes(backends, entry)}}
      end

    %{backends | entries: Map.merge(backends.entries, entries)}
  end

  @doc "What became of their calls."
  @spec left(t(), [{Plan.id(), Native.drained() | nil}]) :: t()
  def left(backends, drained),
    do: %{backends | leaving: Leaving.left(backends.leaving, drained)}

  @doc "The calls of one of them have ended."
  @spec drained(t(), number :: pos_integer()) :: t()
  def drained(backends, number),
    do: %{backends | leaving: Leaving.drained(backends.leaving, number)}

  @doc "A timer of one of them has run out."
  @spec leaving_timeout(t(), pid(), reference()) :: t()
  def leaving_timeout(backends, pid, timer),
    do: %{backends | leaving: Leaving.timeout(backends.leaving, pid, timer)}

  @doc "The backends that are wanted, and the states that they are in."
  @spec states(t()) :: [{Plan.id(), Plan.state()}]
  def states(backends) do
    last_resort? = last_resort?(backends)

    for id <- backends.ids do
      case transport(backends, id, last_resort?) do
        {:up, _value, _owner} -> {id, :up}
        _unhealthy_or_none -> {id, state(furthest(backends, id))}
      end
    end
  end

  # One that a check has found to be down has failed, though it is opened again at once.
  defp state(%{state: state, error: {:check, _reason}}) when state != :up, do: :backoff
  defp state(%{state: :up, health: {:unhealthy, _reason}}), do: :backoff
  defp state(%{state: state}), do: state

  @doc "The endpoints of the backends with a transport that is open and is not to be closed."
  @spec healthy(t()) :: MapSet.t(Plan.endpoint())
  def healthy(%{addresses: addresses, entries: entries}) do
    for {key, %{state: :up, health: :healthy}} <- entries,
        address = addresses[Plan.id(key)],
        into: MapSet.new(),
        do: Plan.endpoint(address)
  end

  @doc "Why a backend's transport failed last."
  @spec error(t(), Plan.id()) :: reason :: term()
  def error(backends, id) do
    case furthest(backends, id) do
      %{state: :up, health: {:unhealthy, _reason} = unhealthy} -> unhealthy
      %{error: error} -> error
    end
  end

  @doc "The first error, when no transport is open and none is on its way."
  @spec failure(t()) :: {:open, Plan.id(), reason :: term()} | nil
  def failure(backends) do
    trying? = Enum.any?(backends.entries, fn {_, it} -> it.state in [:queued, :opening, :up] end)
    unless trying?, do: backends.first_error
  end

  @doc "The backends as `GrpcLb.Connection.info/1` shows them, without transports that have left."
  @spec describe(t()) :: [map()]
  def describe(backends) do
    wanted = for id <- backends.ids, do: {id, backends.addresses[id], furthest(backends, id)}

    gone =
      for {key, entry} <- Enum.sort(backends.entries), not wanted?(backends, key) do
        {Plan.id(key), entry.address, entry}
      end

    for {id, address, entry} <- wanted ++ gone do
      {state, error} = shown(entry)
      %{id: id, address: address, state: state, error: error}
    end
  end

  @doc "Those transports, in the same way."
  @spec describe_leaving(t()) :: [map()]
  def describe_leaving(backends), do: Leaving.describe(backends.leaving)

  defp shown(%{state: :up, health: {:unhealthy, reason}}), do: {:unhealthy, reason}
  defp shown(%{state: state, error: error}), do: {state, error}

  # Of the addresses of a backend, the one that is the nearest to being up.
  defp furthest(%{entries: entries, addresses: addresses}, id) do
    id |> Plan.keys(addresses[id]) |> Enum.map(&entries[&1]) |> Enum.min_by(&@nearness[&1.state])
  end

  @doc "A subchannel says that its transport is open."
  @spec up(t(), Plan.key(), pid(), value :: term(), owner :: pid()) :: t()
  def up(backends, key, pid, value, owner) do
    case backends.entries do
      %{^key => %{state: :opening, pid: ^pid} = entry} ->
        emit(backends, entry, :up, %{})
        entry = Entry.up(entry, value, owner, successes(backends, entry), backends.options)
        backends |> put(entry) |> step(key)

      # Not wanted any more, or known already.
      _other ->
        backends
    end
  end

  @doc "A subchannel says that its transport has become healthy or unhealthy."
  @spec health(t(), Plan.key(), pid(), :healthy | {:unhealthy, reason :: term()}) :: t()
  def health(backends, key, pid, health) do
    case backends.entries do
      # It can say so before it is open.
      %{^key => %{pid: ^pid} = entry} ->
        if entry.state == :up and entry.health != health,
          do: emit_health(backends, entry, health)

        put(backends, %{entry | health: health})

      _other ->
        backends
    end
  end

  defp emit_health(backends, entry, :healthy), do: emit(backends, entry, :healthy, %{})

  defp emit_health(backends, entry, {:unhealthy, reason}),
    do: emit(backends, entry, :unhealthy, %{reason: reason})

  @doc "A subchannel has checked its transport, which is up still."
  @spec checked(t(), Plan.key(), pid()) :: t()
  def checked(backends, key, pid) do
    case backends.entries do
      %{^key => %{state: :up, pid: ^pid} = entry} ->
        put(backends, Entry.check_later(entry, backends.options))

      _other ->
        backends
    end
  end

  @doc """
  Has another transport take the place of one that was lost, if it is wanted still: who has lost it looks at
  that first.
  """
  @spec replace(t(), Plan.key()) :: t()
  def replace(backends, key) do
    if is_map_key(backends.entries, key), do: step(backends, key), else: backends
  end

  @doc "A subchannel says that its transport is down. It is closing it."
  @spec down(t(), Plan.key(), pid(), reason :: term()) :: {:lost | :expected, t()}
  def down(backends, key, pid, reason) do
    case backends.entries do
      %{^key => %{state: :up, pid: ^pid} = entry} ->
        {entry, backends} = lost(backends, entry, reason)
        leaving = Leaving.closing(backends.leaving, transport(entry), reason)
        {:lost, put(%{backends | leaving: leaving}, Entry.rest(entry))}

      _other ->
        {:expected, %{backends | leaving: Leaving.down(backends.leaving, pid)}}
    end
  end

  @doc """
  A subchannel says that its transport takes no new calls, or that its owner has ended, without which it
  cannot be picked any more.
  """
  @spec draining(t(), Plan.key(), pid(), :asked | :owner_ended) :: {:lost | :expected, t()}
  def draining(backends, key, pid, why) do
    case backends.entries do
      %{^key => %{state: :up, pid: ^pid} = entry} ->
        emit(backends, entry, :down, %{reason: :draining})
        entry = Entry.lost(entry, nil, successes(backends, entry))
        # One that has worked has not failed; one that goes away as soon as it is there has.
        entry = if entry.wait > 0, do: %{entry | error: :draining}, else: entry
        {:lost, leave(backends, entry, why)}

      _other ->
        {:expected, %{backends | leaving: Leaving.refuse(backends.leaving, pid, why)}}
    end
  end

  @doc "A subchannel has ended. Says whether a transport that is wanted was lost."
  @spec ended(t(), Plan.key(), pid(), reason :: term()) :: {:lost | :expected, t()}
  def ended(backends, key, pid, reason) do
    left? = Leaving.member?(backends.leaving, pid)
    backends = %{backends | leaving: Leaving.ended(backends.leaving, pid)}

    case backends.entries do
      %{^key => %{pid: ^pid} = entry} when not left? -> ended(backends, entry, reason)
      # Another has its place.
      _left_or_unknown -> {:expected, backends}
    end
  end

  defp ended(backends, %{state: :opening} = entry, reason) do
    {entry, backends} = failed(backends, entry, entry.killed || plain(reason))
    {:lost, gone(backends, entry)}
  end

  defp ended(backends, %{state: :up} = entry, reason) do
    {entry, backends} = lost(backends, entry, entry.killed || plain(reason))
    {:lost, gone(backends, entry)}
  end

  defp ended(backends, %{state: :closing} = entry, _aborted),
    do: {:expected, backends |> gone(entry) |> replace(entry.key)}

  # Its subchannel is. It may be wanted: because it went down, or came back too late to be kept.
  defp gone(backends, %{key: key} = entry) do
    if wanted?(backends, key),
      do: put(backends, Entry.rest(entry)),
      else: forget(backends, key)
  end

  defp wanted?(backends, key) do
    case backends.addresses[Plan.id(key)] do
      nil -> false
      address -> key in Plan.keys(Plan.id(key), address)
    end
  end

  defp failed(backends, entry, reason) do
    error = {:open, Plan.id(entry.key), reason}
    execute(backends, [:grpc_lb, :connection, :connect_error], entry, %{reason: error})
    {Entry.failed(entry, reason), remember(backends, error)}
  end

  defp lost(backends, entry, reason) do
    emit(backends, entry, :down, %{reason: reason})
    entry = Entry.lost(entry, reason, successes(backends, entry))
    {entry, remember(backends, {:open, Plan.id(entry.key), reason})}
  end

  defp remember(%{first_error: nil} = backends, error), do: %{backends | first_error: error}
  defp remember(backends, _later), do: backends

  defp plain({:shutdown, reason}), do: reason
  defp plain(reason), do: reason

  @doc "A timer of a backend has run out."
  @spec timeout(t(), Plan.key(), reference(), what :: atom() | {:delay, integer()}) :: t()
  def timeout(backends, key, _timer, {:delay, turn}) do
    name = Races.name(backends.races, key)
    step_race(%{backends | races: Races.delay_over(backends.races, name, turn)}, name) |> dial()
  end

  def timeout(backends, key, timer, what) do
    case backends.entries do
      %{^key => %{timer: ^timer} = entry} -> due(what, backends, entry)
      _stopped_too_late -> backends
    end
  end

  defp due(:rested, backends, entry) do
    backends |> put(Entry.in_state(entry, :idle)) |> step(entry.key)
  end

  defp due(:check, backends, entry) do
    Subchannel.check(entry.pid)
    put(backends, Entry.checking(entry, backends.options))
  end

  defp due(:deadline, backends, entry) do
    Process.exit(entry.pid, :kill)
    killed = if entry.state == :up, do: {:check, :timeout}, else: :timeout
    put(backends, %{entry | killed: killed})
  end

  # Who is dialled.

  defp step_all(backends) do
    backends.races |> Races.names() |> Enum.reduce(backends, &step_race(&2, &1)) |> dial()
  end

  # The state of this one has changed: what its race makes of that.
  defp step(backends, key), do: backends |> step_race(Races.name(backends.races, key)) |> dial()

  defp step_race(backends, name) do
    {dial, stop, turn, races} = Races.step(backends.races, name, &backends.entries[&1].state)
    if turn, do: start_delay(turn)
    %{backends | races: races} |> each(stop, &stop/2) |> each(dial, &queue/2)
  end

  defp start_delay({key, turn}),
    do: :erlang.start_timer(Race.delay_ms(), self(), {:backend, key, {:delay, turn}})

  # One that drains, and only was not wanted, needs not be opened anew.
  defp queue(backends, key) do
    entry = backends.entries[key]

    case Leaving.restore(backends.leaving, key) do
      {:ok, transport, leaving} ->
        # What it has said meanwhile is not known here.
        Subchannel.say_health(transport.pid)
        restored = entry |> struct!(transport) |> Entry.restored(backends.options)
        backends = put(%{backends | leaving: leaving}, restored)
        step_race(backends, Races.name(backends.races, key))

      :none ->
        put(backends, Entry.in_state(entry, :queued))
    end
  end

  # Those whose turn it is.
  defp dial(backends) do
    with key when key != nil <- Dialer.next(backends.dialer),
         address = backends.addresses[Plan.id(key)],
         options = backends.options,
         pid when pid != nil <- Subchannel.start(backends.balancer, options, key, address) do
      backends |> open(key, pid, address) |> dial()
    else
      nil -> backends
    end
  end

  defp open(backends, key, pid, address) do
    monitor(key, pid)
    Subchannel.open(pid)
    entry = %{backends.entries[key] | pid: pid, address: address}
    put(backends, Entry.opening(entry, backends.options))
  end

  # What a plan or a race asks for, one entry each.

  defp stop(backends, key) do
    case backends.entries[key] do
      %{state: :queued} = entry -> put(backends, Entry.in_state(entry, :idle))
      %{state: :opening} -> abort(backends, key)
      %{state: :up} -> drain(backends, key)
    end
  end

  defp drain(backends, key) do
    entry = backends.entries[key]
    leave(backends, %{Entry.settle(entry, successes(backends, entry)) | wait: 0}, :unwanted)
  end

  defp leave(backends, entry, why) do
    leaving = Leaving.drain(backends.leaving, transport(entry), why)
    put(%{backends | leaving: leaving}, Entry.rest(entry))
  end

  defp transport(entry),
    do: Map.take(entry, [:key, :address, :pid, :value, :owner, :since, :successes])

  # It may be anywhere in `open/2`. What it has opened already, the janitor closes.
  defp abort(backends, key) do
    entry = Entry.in_state(backends.entries[key], :closing, wait: 0)
    Process.exit(entry.pid, :kill)
    put(backends, entry)
  end

  defp forget(backends, key) do
    {entry, entries} = Map.pop!(backends.entries, key)
    absent = Absent.put(backends.absent, key, entry.backoff, now_ms() + Entry.left(entry))
    # Its timer is stopped.
    Entry.in_state(entry, :idle)
    dialer = Dialer.note(backends.dialer, key, :gone)
    %{backends | entries: entries, absent: absent, dialer: dialer}
  end

  # Entries.

  # If it was there before, with what is left of its wait.
  defp enter(backends, key) do
    entry = new_entry(backends, key, backends.addresses[Plan.id(key)])
    {remembered, absent} = Absent.pop(backends.absent, key)

    entry =
      case remembered do
        nil -> entry
        {backoff, due} -> Entry.rest(%{entry | backoff: backoff, wait: max(due - now_ms(), 0)})
      end

    put(%{backends | absent: absent}, entry)
  end

  defp new_entry(backends, key, address) do
    %Entry{key: key, address: address, backoff: backends.options.backoff}
  end

  defp put(backends, %{key: key} = entry) do
    dialer = Dialer.note(backends.dialer, key, entry.state)
    %{backends | entries: Map.put(backends.entries, key, entry), dialer: dialer}
  end

  defp successes(backends, entry), do: Native.successes(backends.balancer, Plan.id(entry.key))

  # The key comes back with the message.
  defp monitor(key, pid), do: :erlang.monitor(:process, pid, tag: {:backend_ended, key})

  # Telemetry.

  defp emit(backends, entry, event, metadata) do
    address = Plan.address(entry.key, entry.address)
    metadata = Map.merge(metadata, %{id: Plan.id(entry.key), address: address})
    execute(backends, [:grpc_lb, :backend, event], entry, metadata)
  end

  defp execute(%{options: options}, event, entry, metadata) do
    measurements = %{duration: now() - entry.since}
    about = %{name: options.name, target: options.target}
    Telemetry.execute(event, measurements, Map.merge(about, metadata))
  end

  defp now, do: System.monotonic_time()
  defp now_ms, do: System.monotonic_time(:millisecond)
end
