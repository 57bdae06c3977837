defmodule GrpcLb.Connection.Discovery do
  @moduledoc false
  # When a connection resolves its target: at first, when a TTL or the interval is over, on request
  # but not too often, and after a backoff when it failed. A `ResolverWorker` does the work.

  alias GrpcLb.Connection.{Backoff, Options, ResolverWorker}
  alias GrpcLb.Resolver

  # A TTL is any number; a timer is not. And some TTL are 0, as if nothing else was to be done.
  @longest_ms 0xFFFFFFFF
  @shortest_ttl_ms 1_000

  @enforce_keys [:options, :backoff, :last]
  defstruct [
    :options,
    :backoff,
    # When the last resolution ended.
    :last,
    worker: nil,
    # :resolving or :idle with a worker, :restarting without.
    phase: :restarting,
    timer: nil,
    # When the timer is due, but for :resolving.
    due: nil,
    # When the resolution began, in native time units.
    since: nil,
    # Whether somebody has asked for the next one: :no, :if_resolved or :anyway.
    again: :no,
    # Whether it has failed last.
    failing?: false,
    killed: nil
  ]

  @type t :: %__MODULE__{options: Options.t(), phase: :resolving | :idle | :restarting}

  @doc "Starts to resolve."
  @spec start(Options.t()) :: t()
  def start(options) do
    begin(%__MODULE__{options: options, backoff: options.backoff, last: nil})
  end

  @doc "Ends whatever the resolver does."
  @spec stop(t()) :: true
  def stop(%{worker: nil}), do: true
  def stop(%{worker: worker}), do: Process.exit(worker, :kill)

  @doc "Asks for a resolution as soon as `:min_resolve_interval` allows."
  @spec request(t()) :: t()
  # What is being found out now may be older than the reason to ask.
  def request(%{phase: :resolving} = discovery), do: %{discovery | again: :anyway}
  def request(discovery), do: soon(%{discovery | again: :anyway})

  defp soon(discovery) do
    if discovery.due == nil or soonest(discovery) < discovery.due - now(),
      do: wait(discovery, soonest(discovery)),
      else: discovery
  end

  # In how many milliseconds there may be another one.
  defp soonest(%{options: options, last: last}),
    do: max(last + options.min_resolve_interval - now(), 0)

  @doc """
  Says that a backend has failed: asks for a resolution, but for one whose backoff goes on. Backends
  that fail must not have a name server that fails be asked all the time.
  """
  @spec suggest(t()) :: t()
  def suggest(%{phase: :resolving, again: :no} = discovery),
    do: %{discovery | again: :if_resolved}

  def suggest(%{phase: :resolving} = discovery), do: discovery
  def suggest(%{phase: :restarting} = discovery), do: discovery
  def suggest(%{failing?: true} = discovery), do: discovery
  def suggest(%{again: :anyway} = discovery), do: discovery
  def suggest(discovery), do: soon(%{discovery | again: :if_resolved})

  @doc "Has the waits after failures begin anew."
  @spec reset_backoff(t()) :: t()
  def reset_backoff(discovery), do: %{discovery | backoff: Backoff.reset(discovery.backoff)}

  @doc "The worker has a result. Says how long it took, in native time units."
  @spec resolved(t(), pid(), Resolver.result()) :: {:ok, duration :: integer(), t()} | :stale
  def resolved(%{worker: worker, phase: :resolving} = discovery, worker, result) do
    duration = System.monotonic_time() - discovery.since
    {:ok, duration, after_result(%{discovery | phase: :idle, last: now()}, result)}
  end

  def resolved(_discovery, _worker_of_before, _result), do: :stale

  @doc "The worker has a fuller result of the last resolution."
  @spec completed(t(), pid(), Resolver.result()) :: {:ok, t()} | :stale
  def completed(%{worker: worker, phase: :idle} = discovery, worker, result),
    do: {:ok, after_result(discovery, result)}

  # Another one has begun, which says when the next one is due.
  def completed(%{worker: worker} = discovery, worker, _result), do: {:ok, discovery}
  def completed(_discovery, _worker_of_before, _result), do: :stale

  @doc """
  A linked process has ended. If it was the worker, says why, and how long it had resolved, or `:again`
  if it has only stopped to watch.
  """
  @spec ended(t(), pid(), reason :: term()) ::
          {:ok, reason :: term(), duration :: integer(), t()} | {:again, t()} | :other
  def ended(%{worker: worker, killed: nil} = discovery, worker, reason)
      when reason in [:shutdown, {:shutdown, :watch_ended}] do
    # Each new one resolves at once, which makes the backoff short again.
    {wait, backoff} = Backoff.next(discovery.backoff)
    wait = max(wait, discovery.options.min_resolve_interval)
    discovery = %{discovery | last: now(), worker: nil, phase: :restarting}
    {:again, wait(%{discovery | backoff: backoff, again: :no}, wait)}
  end

  def ended(%{worker: worker} = discovery, worker, reason) do
    duration =
      if discovery.phase == :resolving, do: System.monotonic_time() - discovery.since, else: 0

    discovery = %{discovery | last: now(), worker: nil, phase: :restarting, failing?: true}
    {:ok, discovery.killed || plain(reason), duration, back_off(discovery)}
  end

  def ended(_discovery, _pid, _reason), do: :other

  defp plain({:shutdown, reason}), do: reason
  defp plain(reason), do: reason

  @doc "A timer has run out."
  @spec timeout(t(), reference()) :: t()
  def timeout(%{timer: timer} = discovery, timer) do
    case discovery.phase do
      :restarting ->
        begin(discovery)

      :idle ->
        ResolverWorker.resolve(discovery.worker)
        resolving(discovery)

      :resolving ->
        Process.exit(discovery.worker, :kill)
        %{discovery | killed: :timeout}
    end
  end

  def timeout(discovery, _stopped_too_late), do: discovery

  defp begin(%{options: options} = discovery) do
    worker = ResolverWorker.start_link(options.resolver, options.target)
    resolving(%{discovery | worker: worker, killed: nil})
  end

  defp resolving(discovery) do
    %{discovery | phase: :resolving, since: System.monotonic_time(), again: :no, due: nil}
    |> timer(discovery.options.connect_timeout)
  end

  defp after_result(discovery, {:ok, %{addresses: [_ | _], ttl: ttl}}) do
    discovery = %{discovery | backoff: Backoff.reset(discovery.backoff), failing?: false}
    wait = regular(discovery.options, ttl)
    # A number is less than an atom.
    wait = if discovery.again == :no, do: wait, else: min(wait, soonest(discovery))
    wait(discovery, wait)
  end

  defp after_result(discovery, _failed_or_empty), do: back_off(%{discovery | failing?: true})

  defp regular(_options, :infinity), do: :infinity
  defp regular(options, nil), do: options.resolve_interval
  defp regular(options, ttl), do: ttl_ms(options, jitter(ttl * 1_000))

  @doc """
  Until when what a result leaves out is held, in milliseconds of monotonic time, by the option
  `:hold_obsolete`; `nil` if it is not.
  """
  @spec hold_until(Options.t(), Resolver.result(), :resolved | :completed | :pushed) ::
          integer() | nil
  def hold_until(options, result, source) do
    case hold_ms(options, result, source) do
      0 -> nil
      ms -> now() + ms
    end
  end

  defp hold_ms(%{hold_obsolete: ms}, _result, _source) when is_integer(ms), do: ms

  defp hold_ms(options, {:ok, %{ttl: ttl}}, source) when is_integer(ttl) and source != :pushed,
    do: 2 * ttl_ms(options, ttl * 1_000)

  defp hold_ms(_options, _result, _source), do: 0

  # A time after which to ask again, as long as it may be asked for.
  defp ttl_ms(options, ms),
    do: min(Enum.max([round(ms), options.min_resolve_interval, @shortest_ttl_ms]), @longest_ms)

  @doc """
  A time that is longer or shorter by up to a tenth, so that many clients which have got an answer
  together do not ask for the next one together. `random` is a number from 0 to 1.

      iex> GrpcLb.Connection.Discovery.jitter(1_000, 0.0)
      900.0

      iex> GrpcLb.Connection.Discovery.jitter(1_000, 1.0)
      1100.0
  """
  @spec jitter(number(), random :: float()) :: float()
  def jitter(ms, random \\ :rand.uniform()), do: ms * (0.9 + 0.2 * random)

  defp back_off(discovery) do
    {wait, backoff} = Backoff.next(discovery.backoff)
    discovery = %{discovery | backoff: backoff}

    # Whoever asked is not forgotten: a fuller result may come before the next resolution.
    if discovery.again == :anyway,
      do: wait(discovery, min(wait, soonest(discovery))),
      else: wait(%{discovery | again: :no}, wait)
  end

  defp wait(discovery, :infinity), do: %{stop_timer(discovery) | due: nil}

  defp wait(discovery, wait) do
    wait = min(wait, @longest_ms)
    timer(%{discovery | due: now() + wait}, wait)
  end

  defp timer(discovery, ms) do
    timer = :erlang.start_timer(ms, self(), :discovery)
    %{stop_timer(discovery) | timer: timer}
  end

  defp stop_timer(%{timer: nil} = discovery), do: discovery

  defp stop_timer(discovery) do
    :erlang.cancel_timer(discovery.timer)
    %{discovery | timer: nil}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
