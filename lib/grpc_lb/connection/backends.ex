defmodule GrpcLb.Connection.Backends do
  @moduledoc false
  # The backends of a connection and their subchannels, for its server: what `Plan` decides is
  # started and stopped here, what subchannels tell is noted, and what failed is tried again.

  alias GrpcLb.{Address, Native, Telemetry}
  alias GrpcLb.Connection.{Backoff, Options, Plan, Rotation, Subchannel}

  @enforce_keys [:options, :balancer, :supervisor]
  defstruct [
    :options,
    :balancer,
    :supervisor,
    :first_error,
    ids: [],
    addresses: %{},
    entries: %{}
  ]

  @typep entry :: %{
           state: Plan.state(),
           address: Address.t(),
           pid: pid() | nil,
           timer: reference() | nil,
           backoff: Backoff.t(),
           # How long it waits before it is opened again, when it is closed.
           wait: non_neg_integer(),
           # When it began to open, or was open, and how many calls had ended well then.
           since: integer(),
           successes: non_neg_integer(),
           value: term(),
           owner: pid() | nil,
           # Why a subchannel was killed, if it was; and what happened last.
           killed: term(),
           error: term()
         }

  @type t :: %__MODULE__{
          options: Options.t(),
          balancer: GrpcLb.balancer(),
          supervisor: pid(),
          first_error: {:open, Plan.id(), reason :: term()} | nil,
          ids: [Plan.id()],
          addresses: %{Plan.id() => Address.t()},
          entries: %{Plan.id() => entry()}
        }

  @doc "No backends yet. The supervisor of the balancer's subchannels runs."
  @spec new(Options.t(), GrpcLb.balancer()) :: t()
  def new(options, balancer) do
    supervisor = Subchannel.whereis_supervisor(balancer)
    %__MODULE__{options: options, balancer: balancer, supervisor: supervisor}
  end

  @doc "Whether the supervisor of the subchannels is alive."
  @spec supervised?(t()) :: boolean()
  def supervised?(backends), do: Process.alive?(backends.supervisor)

  @doc "Takes over the subchannels that live, with the addresses that were known."
  @spec adopt(t(), [Address.t()]) :: t()
  def adopt(backends, addresses) do
    adopted =
      for {pid, id, address, state} <- Subchannel.all(backends.balancer), into: %{} do
        {id, adopted(backends, id, address, pid, state)}
      end

    update(%{backends | entries: adopted}, addresses)
  end

  defp adopted(backends, id, address, pid, state) do
    entry = entry(backends, address)
    monitor(id, pid)

    case state do
      :opening ->
        Subchannel.open(pid)
        in_state(entry, :opening, pid: pid) |> deadline(id, backends.options.connect_timeout)

      {:up, value, owner} ->
        successes = Native.successes(backends.balancer, id)

        in_state(entry, :up, pid: pid, value: value, owner: owner, successes: successes)
        |> check_later(id, backends.options)

      :closing ->
        in_state(entry, :closing, pid: pid) |> deadline(id, Subchannel.close_ms())
    end
  end

  @doc "Makes these the addresses that are wanted."
  @spec update(t(), [Address.t()]) :: t()
  def update(backends, addresses) do
    known = Map.new(backends.entries, fn {id, entry} -> {id, entry.address} end)
    {ids, addresses} = Plan.by_id(addresses, known)
    backends = %{backends | ids: ids, addresses: addresses}
    plan = Plan.diff(ids, Map.new(backends.entries, fn {id, entry} -> {id, entry.state} end))

    backends
    |> each(plan.open, &open/2)
    |> each(plan.restore, &restore/2)
    |> each(plan.drain, &drain/2)
    |> each(plan.abort, &abort/2)
    |> each(plan.forget, &forget/2)
  end

  defp each(backends, ids, fun), do: Enum.reduce(ids, backends, fun)

  @doc "Ends those that are being opened, which nobody will wait for."
  @spec abort_all(t()) :: :ok
  def abort_all(backends) do
    for {_id, %{state: :opening, pid: pid}} <- backends.entries, do: Process.exit(pid, :kill)
    :ok
  end

  @doc "The backends that are wanted, in order, for the rotation."
  @spec wanted(t()) :: [Rotation.wanted()]
  def wanted(%{entries: entries} = backends) do
    for id <- backends.ids do
      transport =
        case entries do
          %{^id => %{state: :up, value: value, owner: owner}} -> {:up, value, owner}
          _none -> :not_up
        end

      {id, transport, backends.addresses[id].weight}
    end
  end

  @doc "The backends that are wanted, and the states that they are in."
  @spec states(t()) :: [{Plan.id(), Plan.state()}]
  def states(backends) do
    for id <- backends.ids, entry = backends.entries[id], do: {id, state(entry)}
  end

  # What was lost is opened again at once: it has not failed.
  defp state(%{state: :backoff, wait: 0}), do: :opening
  defp state(%{state: state}), do: state

  @doc "The endpoints of those whose transport is open and is not to be closed."
  @spec healthy(t()) :: MapSet.t(Plan.endpoint())
  def healthy(%{entries: entries}),
    do:
      for({_id, %{state: :up} = up} <- entries, into: MapSet.new(), do: Plan.endpoint(up.address))

  @doc "The first error, when no transport is open and none is on its way."
  @spec failure(t()) :: {:open, Plan.id(), reason :: term()} | nil
  def failure(backends) do
    trying? =
      Enum.any?(backends.entries, fn {_id, %{state: state}} -> state in [:opening, :up] end)

    unless trying?, do: backends.first_error
  end

  @doc "The backends as `GrpcLb.Connection.info/1` shows them."
  @spec describe(t()) :: [map()]
  def describe(backends) do
    gone = Enum.sort(Map.keys(backends.entries) -- backends.ids)

    for id <- backends.ids ++ gone, entry = backends.entries[id] do
      %{
        id: id,
        address: Map.get(backends.addresses, id, entry.address),
        state: entry.state,
        error: entry.error
      }
    end
  end

  @doc "A subchannel says that its transport is open."
  @spec up(t(), Plan.id(), pid(), value :: term(), owner :: pid()) :: t()
  def up(backends, id, pid, value, owner) do
    case backends.entries do
      %{^id => %{state: :opening, pid: ^pid} = entry} ->
        emit(backends, id, entry, :up, %{})

        entry =
          entry
          |> in_state(:up, value: value, owner: owner, error: nil, since: now())
          |> Map.put(:successes, Native.successes(backends.balancer, id))
          |> check_later(id, backends.options)

        put(backends, id, entry)

      # Not wanted any more, or known already.
      _other ->
        backends
    end
  end

  @doc "A subchannel says that its transport is well."
  @spec checked(t(), Plan.id(), pid()) :: t()
  def checked(backends, id, pid) do
    case backends.entries do
      %{^id => %{state: :up, pid: ^pid} = entry} ->
        put(backends, id, check_later(entry, id, backends.options))

      _other ->
        backends
    end
  end

  @doc "A subchannel says that its transport is down. It is closing it."
  @spec down(t(), Plan.id(), pid(), reason :: term()) :: {:lost | :expected, t()}
  def down(backends, id, pid, reason) do
    case backends.entries do
      %{^id => %{state: :up, pid: ^pid} = entry} ->
        emit(backends, id, entry, :down, %{reason: reason})

        entry =
          entry
          |> lost(id, backends)
          |> in_state(:closing, error: reason)
          |> deadline(id, Subchannel.close_ms())

        {:lost, backends |> put(id, entry) |> remember({:open, id, reason})}

      # It is not wanted, but could be restored if it was left as it is.
      %{^id => %{state: :draining, pid: ^pid} = entry} ->
        entry = in_state(entry, :closing) |> deadline(id, Subchannel.close_ms())
        {:expected, put(backends, id, entry)}

      _other ->
        {:expected, backends}
    end
  end

  @doc "A subchannel has ended. Says whether a transport that is wanted was lost."
  @spec ended(t(), Plan.id(), reason :: term()) :: {:lost | :expected, t()}
  def ended(backends, id, reason) do
    entry = Map.fetch!(backends.entries, id)
    reason = entry.killed || plain(reason)

    case entry.state do
      :opening ->
        error = {:open, id, reason}
        connect_error(backends, entry, error)
        {wait, backoff} = Backoff.next(entry.backoff)
        entry = %{entry | wait: wait, backoff: backoff}
        {:lost, backends |> retry(id, entry, reason) |> remember(error)}

      :up ->
        emit(backends, id, entry, :down, %{reason: reason})
        entry = lost(entry, id, backends)
        {:lost, backends |> retry(id, entry, reason) |> remember({:open, id, reason})}

      :draining ->
        {:expected, forget(id, backends)}

      :closing ->
        {:expected, closed(backends, id, entry)}
    end
  end

  # It may be wanted: because it went down, or because it came back too late to be kept.
  defp closed(backends, id, entry) do
    cond do
      not is_map_key(backends.addresses, id) -> forget(id, backends)
      entry.error -> retry(backends, id, entry, entry.error)
      true -> id |> forget(backends) |> then(&open(id, &1))
    end
  end

  defp remember(%{first_error: nil} = backends, error), do: %{backends | first_error: error}
  defp remember(backends, _later), do: backends

  defp plain({:shutdown, reason}), do: reason
  defp plain(reason), do: reason

  @doc "A timer of a backend has run out."
  @spec timeout(t(), Plan.id(), reference(), what :: atom()) :: t()
  def timeout(backends, id, timer, what) do
    case backends.entries do
      %{^id => %{timer: ^timer} = entry} -> due(what, backends, id, entry)
      _stopped_too_late -> backends
    end
  end

  defp due(:retry, backends, id, _entry), do: open(id, backends)

  defp due(:check, backends, id, entry) do
    Subchannel.check(entry.pid)
    put(backends, id, deadline(entry, id, backends.options.connect_timeout))
  end

  defp due(:drained, backends, id, entry) do
    Subchannel.close(entry.pid)
    entry = in_state(entry, :closing) |> deadline(id, Subchannel.close_ms())
    put(backends, id, entry)
  end

  defp due(:deadline, backends, id, entry) do
    Process.exit(entry.pid, :kill)
    killed = if entry.state == :up, do: {:check, :timeout}, else: :timeout
    put(backends, id, %{entry | killed: killed})
  end

  # What a plan asks for, one backend each.

  defp open(id, backends) do
    %{options: options, addresses: %{^id => address}} = backends
    entry = Map.get_lazy(backends.entries, id, fn -> entry(backends, address) end)
    pid = Subchannel.start(backends.balancer, options.transport, id, address)
    monitor(id, pid)
    Subchannel.open(pid)

    entry =
      %{entry | address: address}
      |> in_state(:opening, pid: pid, since: now())
      |> deadline(id, options.connect_timeout)

    put(backends, id, entry)
  end

  defp restore(id, backends) do
    entry = in_state(backends.entries[id], :up) |> check_later(id, backends.options)
    put(backends, id, entry)
  end

  defp drain(id, backends) do
    entry =
      in_state(backends.entries[id], :draining)
      |> timer(id, backends.options.drain_timeout, :drained)

    put(backends, id, entry)
  end

  # It may be anywhere in `open/2`. What it has opened already, the janitor closes.
  defp abort(id, backends) do
    entry = stop_timer(backends.entries[id])
    Process.exit(entry.pid, :kill)
    put(backends, id, in_state(entry, :closing))
  end

  defp forget(id, backends) do
    {entry, entries} = Map.pop!(backends.entries, id)
    stop_timer(entry)
    %{backends | entries: entries}
  end

  defp retry(backends, id, entry, reason) do
    entry =
      %{entry | error: reason}
      |> in_state(:backoff, pid: nil, value: nil, owner: nil, killed: nil)
      |> timer(id, entry.wait, :retry)

    put(backends, id, entry)
  end

  # Whoever accepts and hangs up at once has not worked, so that the waits grow.
  defp lost(entry, id, backends) do
    ms = System.convert_time_unit(now() - entry.since, :native, :millisecond)

    worked? =
      Backoff.outlasted?(entry.backoff, ms) or
        Native.successes(backends.balancer, id) > entry.successes

    backoff = if worked?, do: Backoff.reset(entry.backoff), else: entry.backoff
    {wait, backoff} = Backoff.lost(backoff)
    %{entry | wait: wait, backoff: backoff}
  end

  # Entries.

  defp entry(backends, address) do
    %{
      state: :opening,
      address: address,
      pid: nil,
      timer: nil,
      backoff: backends.options.backoff,
      wait: 0,
      since: now(),
      successes: 0,
      value: nil,
      owner: nil,
      killed: nil,
      error: nil
    }
  end

  defp put(backends, id, entry), do: put_in(backends.entries[id], entry)

  defp in_state(entry, state, fields \\ []), do: Enum.into(fields, %{entry | state: state})

  # The id comes back with the message.
  defp monitor(id, pid), do: :erlang.monitor(:process, pid, tag: {:backend_ended, id})

  defp deadline(entry, id, ms), do: timer(entry, id, ms, :deadline)

  defp check_later(entry, id, %{transport: {module, _opts}, check_interval: interval}) do
    if interval != :infinity and function_exported?(module, :check, 1) do
      timer(entry, id, interval, :check)
    else
      stop_timer(entry)
    end
  end

  defp timer(entry, id, ms, what) do
    timer = :erlang.start_timer(ms, self(), {:backend, id, what})
    %{stop_timer(entry) | timer: timer}
  end

  defp stop_timer(%{timer: nil} = entry), do: entry

  defp stop_timer(entry) do
    :erlang.cancel_timer(entry.timer)
    %{entry | timer: nil}
  end

  # Telemetry.

  defp emit(backends, id, entry, event, metadata) do
    metadata = Map.merge(metadata, %{id: id, address: entry.address})
    execute(backends, [:grpc_lb, :backend, event], entry, metadata)
  end

  defp connect_error(backends, entry, error) do
    execute(backends, [:grpc_lb, :connection, :connect_error], entry, %{reason: error})
  end

  defp execute(%{options: options}, event, entry, metadata) do
    measurements = %{duration: now() - entry.since}
    about = %{name: options.name, target: options.target}
    Telemetry.execute(event, measurements, Map.merge(about, metadata))
  end

  defp now, do: System.monotonic_time()
end
