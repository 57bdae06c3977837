defmodule GrpcLb.Connection.Entry do
  @moduledoc false
  # What the server of a connection knows of one address: its state, its subchannel, and its timer, which
  # sends `{:timeout, timer, {:backend, key, what}}`.

  alias GrpcLb.Address
  alias GrpcLb.Connection.{Backoff, Options, Plan}

  @enforce_keys [:key, :address, :backoff]
  defstruct @enforce_keys ++
              [
                state: :idle,
                pid: nil,
                timer: nil,
                # How long it waits before it is opened again, when it is closed.
                wait: 0,
                # When it began to open, or was open, and how many calls had ended well then.
                since: 0,
                successes: 0,
                value: nil,
                owner: nil,
                # What its subchannel says of what is open.
                health: :healthy,
                # Why a subchannel was killed, if it was; and what happened last.
                killed: nil,
                error: nil
              ]

  @type t :: %__MODULE__{
          key: Plan.key(),
          address: Address.t(),
          backoff: Backoff.t(),
          state: Plan.state(),
          pid: pid() | nil,
          timer: reference() | nil,
          wait: non_neg_integer(),
          since: integer(),
          successes: non_neg_integer(),
          value: term(),
          owner: pid() | nil,
          health: :healthy | {:unhealthy, reason :: term()},
          killed: term(),
          error: term()
        }

  @doc "The same in another state, without the timer of the one before."
  @spec in_state(t(), Plan.state(), keyword()) :: t()
  def in_state(entry, state, fields \\ []),
    do: struct!(stop_timer(entry), [{:state, state} | fields])

  @doc "Its subchannel opens it."
  @spec opening(t(), Options.t()) :: t()
  def opening(entry, options) do
    entry
    |> in_state(:opening, since: now(), health: :healthy)
    |> timer(options.connect_timeout, :deadline)
  end

  @doc "It is open, when so many calls had ended well."
  @spec up(t(), value :: term(), owner :: pid(), successes :: non_neg_integer(), Options.t()) ::
          t()
  def up(entry, value, owner, successes, options) do
    fields = [value: value, owner: owner, successes: successes, error: nil, since: now()]
    entry |> in_state(:up, fields) |> check_later(options)
  end

  @doc "It is wanted again."
  @spec restored(t(), Options.t()) :: t()
  def restored(entry, options), do: entry |> in_state(:up) |> check_later(options)

  @doc "Its transport is checked when it is due, if it can be."
  @spec check_later(t(), Options.t()) :: t()
  def check_later(entry, %{transport: {module, _opts}, check_interval: interval}) do
    if interval != :infinity and function_exported?(module, :check, 1),
      do: timer(entry, interval, :check),
      else: entry
  end

  @doc "Its transport is being checked."
  @spec checking(t(), Options.t()) :: t()
  def checking(entry, options),
    do: timer(entry, Options.check_timeout(options), :deadline)

  @doc "It could not be opened. How long it waits is known from now on."
  @spec failed(t(), reason :: term()) :: t()
  def failed(entry, reason) do
    {wait, backoff} = Backoff.next(entry.backoff)
    %{entry | wait: wait, backoff: backoff, error: reason}
  end

  @doc "Its backoff begins anew if it has worked: served, or been open for as long as the next wait."
  @spec settle(t(), successes :: non_neg_integer()) :: t()
  def settle(entry, successes) do
    ms = System.convert_time_unit(now() - entry.since, :native, :millisecond)
    worked? = successes > entry.successes or Backoff.outlasted?(entry.backoff, ms)
    if worked?, do: %{entry | backoff: Backoff.reset(entry.backoff)}, else: entry
  end

  @doc """
  It was open and is lost, when so many calls have ended well. Who accepts and hangs up at once has not
  worked, so that the waits grow.
  """
  @spec lost(t(), reason :: term(), successes :: non_neg_integer()) :: t()
  def lost(entry, reason, successes) do
    entry = settle(entry, successes)
    {wait, backoff} = Backoff.lost(entry.backoff)
    %{entry | wait: wait, backoff: backoff, error: reason}
  end

  @doc "It has no subchannel any more, and waits if it has to."
  @spec rest(t()) :: t()
  def rest(%{wait: wait} = entry) do
    entry = in_state(entry, :idle, pid: nil, value: nil, owner: nil, killed: nil)
    if wait == 0, do: entry, else: timer(%{entry | state: :backoff}, wait, :rested)
  end

  @doc "It waits for nothing, or for its subchannel to end only, and its backoff begins anew."
  @spec reset(t()) :: t()
  def reset(entry) do
    entry = %{entry | backoff: Backoff.reset(entry.backoff), wait: 0}
    if entry.state == :backoff, do: in_state(entry, :idle), else: entry
  end

  @doc "How many milliseconds of its wait are left."
  @spec left(t()) :: non_neg_integer()
  def left(%{state: :backoff, timer: timer}), do: :erlang.read_timer(timer) || 0
  def left(_entry), do: 0

  @doc "Starts its timer, in the place of the one it has."
  @spec timer(t(), ms :: non_neg_integer(), what :: atom()) :: t()
  def timer(entry, ms, what) do
    timer = :erlang.start_timer(ms, self(), {:backend, entry.key, what})
    %{stop_timer(entry) | timer: timer}
  end

  defp stop_timer(%{timer: nil} = entry), do: entry

  defp stop_timer(entry) do
    :erlang.cancel_timer(entry.timer)
    %{entry | timer: nil}
  end

  defp now, do: System.monotonic_time()
end
