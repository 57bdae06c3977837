defmodule GrpcLb.Connection.Leaving do
  @moduledoc false
  # The subchannels of a connection that are on their way out, by their processes: an address can have
  # several beside the one that is its own now. One drains until the calls that are counted for its
  # transport have ended, at most for the drain timeout, and then closes, for which it has what is left
  # of that. `Backends` reconciles the list, and says what that told of the calls of those that left it.

  alias GrpcLb.{Address, Native, Secret}
  alias GrpcLb.Connection.{Options, Plan, Rotation, Subchannel}

  @enforce_keys [:drain_timeout, :check_timeout, :module]
  defstruct @enforce_keys ++ [ones: %{}, restored: %{}]

  @typep one :: %{
           key: Plan.key(),
           address: Address.t(),
           value: Secret.t() | nil,
           owner: pid() | nil,
           since: integer(),
           successes: non_neg_integer(),
           # Why it leaves: the address is gone; it takes no new calls; its owner has ended.
           why: :unwanted | :asked | :owner_ended | :down,
           state: :draining | :closing,
           # Whether it can be picked: it has not left the list since it began to leave.
           listed?: boolean(),
           # The drains that are not over: one for each time that it left the list with calls in flight.
           # `nil` while none is known to have been counted.
           drains: [pos_integer()] | nil,
           # When it is to be closed, in milliseconds.
           until: integer() | :infinity,
           timer: reference() | nil,
           error: term()
         }

  @typedoc "With the drains of those that were brought back, which go on."
  @type t :: %__MODULE__{
          drain_timeout: timeout(),
          # How long a subchannel may be busy with a check that has begun before it is to close.
          check_timeout: pos_integer(),
          module: module(),
          ones: %{pid() => one()},
          restored: %{pid() => [pos_integer()]}
        }

  @typedoc "A transport that is open, since when, and how many calls had ended well then."
  @type transport :: %{
          key: Plan.key(),
          address: Address.t(),
          pid: pid(),
          value: Secret.t() | nil,
          owner: pid() | nil,
          since: integer(),
          successes: non_neg_integer()
        }

  @of_transport [:key, :address, :value, :owner, :since, :successes]

  @spec new(Options.t()) :: t()
  def new(%{transport: {module, _opts}} = options) do
    %__MODULE__{
      drain_timeout: options.drain_timeout,
      check_timeout: Options.check_timeout(options),
      module: module
    }
  end

  @doc """
  Has a transport drain, since its address is gone, or it says that it takes no new calls, or its owner
  has ended.
  """
  @spec drain(t(), transport(), :unwanted | :asked | :owner_ended) :: t()
  def drain(leaving, %{pid: pid} = transport, why) do
    {drains, restored} = Map.pop(leaving.restored, pid)
    one = %{one(leaving, transport, why, :draining) | drains: drains}
    put(%{leaving | restored: restored}, pid, timer(one, pid, leaving.drain_timeout))
  end

  @doc "A transport is down, and its subchannel closes it."
  @spec closing(t(), transport(), error :: term()) :: t()
  def closing(leaving, %{pid: pid} = transport, error) do
    one = %{one(leaving, transport, :down, :closing) | error: error}
    put(leaving, pid, await_end(leaving, one, pid))
  end

  defp one(leaving, transport, why, state) do
    transport
    |> Map.take(@of_transport)
    |> Map.merge(%{
      why: why,
      state: state,
      listed?: true,
      drains: nil,
      until: until(leaving.drain_timeout),
      timer: nil,
      error: nil
    })
  end

  defp until(:infinity), do: :infinity
  defp until(ms), do: now() + ms

  @doc "One that left before its server was started again: it has left the list."
  @spec adopt(t(), transport(), :draining | :closing) :: t()
  def adopt(leaving, %{pid: pid} = transport, state) do
    leaving =
      case state do
        :draining -> drain(leaving, transport, :asked)
        :closing -> closing(leaving, transport, nil)
      end

    put_in(leaving.ones[pid].listed?, false)
  end

  @doc "One that drains must not be brought back, for another reason than that its address is gone."
  @spec refuse(t(), pid(), :asked | :owner_ended) :: t()
  def refuse(leaving, pid, why) do
    case leaving.ones do
      %{^pid => %{why: :unwanted} = one} -> put(leaving, pid, %{one | why: why})
      _other -> leaving
    end
  end

  @doc "Brings one back to this address, if there is one that was only not wanted."
  @spec restore(t(), Plan.key()) :: {:ok, transport(), t()} | :none
  def restore(leaving, key) do
    case Enum.find(leaving.ones, fn {_pid, one} -> one.key == key and restorable?(one) end) do
      nil ->
        :none

      {pid, one} ->
        transport = one |> Map.take(@of_transport) |> Map.put(:pid, pid)
        leaving = delete(leaving, pid)
        # What has not left the list yet has no drain.
        leaving = if one.drains, do: put_in(leaving.restored[pid], one.drains), else: leaving
        {:ok, transport, leaving}
    end
  end

  defp restorable?(one), do: one.why == :unwanted and one.state == :draining

  @doc """
  The transport of a backend that takes no new calls, and is better than none: it is still listed, and can
  be picked until there is another.
  """
  @spec last_resort(t(), Plan.id()) :: {:up, value :: Secret.t(), owner :: pid()} | nil
  def last_resort(%{ones: ones}, id) do
    Enum.find_value(ones, fn {_pid, one} ->
      if Plan.id(one.key) == id and last_resort?(one), do: {:up, one.value, one.owner}
    end)
  end

  defp last_resort?(one), do: one.why == :asked and one.state == :draining and one.listed?

  @doc "The backends whose listed transport goes, when these are wanted."
  @spec unlisted(t(), [Rotation.wanted()]) :: [Plan.id()]
  def unlisted(%{ones: ones}, wanted) do
    # With the owner: two transports to one address can have the same value.
    stay = for {id, {_up_or_unhealthy, value, owner}, _options} <- wanted, do: {id, value, owner}

    listed =
      for {_pid, %{listed?: true} = one} <- ones, do: {Plan.id(one.key), one.value, one.owner}

    Enum.uniq(for {id, _value, _owner} = one <- listed, one not in stay, do: id)
  end

  @doc "What a reconcile has told of the calls of those."
  @spec left(t(), [{Plan.id(), Native.drained() | nil}]) :: t()
  def left(leaving, drained) do
    for {id, calls} <- drained,
        {pid, %{listed?: true, key: key} = one} <- leaving.ones,
        Plan.id(key) == id,
        reduce: leaving do
      leaving -> left(leaving, pid, %{one | listed?: false}, calls)
    end
  end

  defp left(leaving, pid, one, number) when is_integer(number),
    do: put(leaving, pid, %{one | drains: [number | one.drains || []]})

  defp left(leaving, pid, one, :drained),
    do: put(leaving, pid, close_if_drained(leaving, %{one | drains: one.drains || []}, pid))

  # None was counted, or it was never listed, as far as is known: it has all the time there is, unless
  # some were before it was brought back.
  defp left(leaving, pid, one, _unknown),
    do: put(leaving, pid, close_if_drained(leaving, one, pid))

  @doc "The calls of a drain have ended."
  @spec drained(t(), pos_integer()) :: t()
  def drained(leaving, number) do
    restored =
      Map.new(leaving.restored, fn {pid, drains} -> {pid, List.delete(drains, number)} end)

    for {pid, %{drains: [_ | _] = drains} = one} <- leaving.ones,
        number in drains,
        reduce: %{leaving | restored: restored} do
      leaving ->
        one = %{one | drains: List.delete(drains, number)}
        put(leaving, pid, close_if_drained(leaving, one, pid))
    end
  end

  defp close_if_drained(leaving, %{drains: [], state: :draining, listed?: false} = one, pid),
    do: close(leaving, one, pid)

  defp close_if_drained(_leaving, one, _pid), do: one

  @doc "The subchannel of one says that its transport is down. It is closing it."
  @spec down(t(), pid()) :: t()
  def down(leaving, pid) do
    case leaving.ones do
      %{^pid => %{state: :draining} = one} -> put(leaving, pid, await_end(leaving, one, pid))
      _other -> leaving
    end
  end

  @doc "A timer has run out."
  @spec timeout(t(), pid(), reference()) :: t()
  def timeout(leaving, pid, timer) do
    case leaving.ones do
      %{^pid => %{timer: ^timer, state: :draining} = one} ->
        put(leaving, pid, close(leaving, one, pid))

      %{^pid => %{timer: ^timer, until: until}} ->
        # Who waits for calls in its close has all the time there is.
        if until != :infinity or not Subchannel.waits_for_calls?(pid, leaving.module),
          do: Process.exit(pid, :kill)

        leaving

      _stopped_too_late ->
        leaving
    end
  end

  @doc "Whether this subchannel is one of those that leave."
  @spec member?(t(), pid()) :: boolean()
  def member?(leaving, pid), do: is_map_key(leaving.ones, pid)

  @doc "A subchannel has ended, whether it was one of those or not."
  @spec ended(t(), pid()) :: t()
  def ended(leaving, pid) do
    leaving = %{leaving | restored: Map.delete(leaving.restored, pid)}
    if member?(leaving, pid), do: delete(leaving, pid), else: leaving
  end

  @doc "Those that leave as `GrpcLb.Connection.info/1` shows them."
  @spec describe(t()) :: [map()]
  def describe(%{ones: ones}) do
    for one <- ones |> Map.values() |> Enum.sort_by(& &1.key) do
      one |> Map.take([:address, :state, :error]) |> Map.put(:id, Plan.id(one.key))
    end
  end

  defp close(leaving, one, pid) do
    Subchannel.close(pid, ms_left(one))
    await_end(leaving, one, pid)
  end

  # It may take what is left for its calls, and then as long as any other to close. Where that is all the
  # time there is, it is looked after when a check is over that may have begun before.
  defp await_end(leaving, one, pid) do
    ms = with :infinity <- ms_left(one), do: leaving.check_timeout
    timer(stop_timer(%{one | state: :closing}), pid, ms + Subchannel.close_ms())
  end

  defp ms_left(%{until: :infinity}), do: :infinity
  defp ms_left(%{until: until}), do: max(until - now(), 0)

  defp put(leaving, pid, one), do: put_in(leaving.ones[pid], one)

  defp delete(leaving, pid) do
    {one, ones} = Map.pop!(leaving.ones, pid)
    stop_timer(one)
    %{leaving | ones: ones}
  end

  defp timer(one, _pid, :infinity), do: one

  defp timer(one, pid, ms) do
    %{one | timer: :erlang.start_timer(ms, self(), {:leaving, pid})}
  end

  defp stop_timer(%{timer: nil} = one), do: one

  defp stop_timer(one) do
    :erlang.cancel_timer(one.timer)
    %{one | timer: nil}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
