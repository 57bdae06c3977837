defmodule GrpcLb.Connection.Backoff do
  @moduledoc false
  # The wait before the next attempt, as in gRPC's [connection
  # backoff](https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md): exponential, with
  # jitter. After the loss of what was open there is no wait, once: it is as if that was the first
  # attempt.

  alias GrpcLb.Options

  @options [
    initial: [type: {:ms, 1}, default: 1_000, doc: "before the second attempt."],
    multiplier: [
      type: {:number, from: 1, to: 100},
      default: 1.6,
      doc: "by what the wait grows with every failure."
    ],
    jitter: [
      type: {:number, from: 0, to: 1},
      default: 0.2,
      doc: "by what share of it each wait is randomly longer or shorter."
    ],
    max: [type: {:ms, 1}, default: 120_000, doc: "what the wait grows to, jitter apart."]
  ]

  # `fresh?` until something fails or is lost.
  @enforce_keys [:initial, :multiplier, :jitter, :max, :base]
  defstruct @enforce_keys ++ [fresh?: true]

  @type t :: %__MODULE__{
          initial: pos_integer(),
          multiplier: float(),
          jitter: float(),
          max: pos_integer(),
          base: number(),
          fresh?: boolean()
        }

  @doc "What the options can be."
  @spec options() :: Options.specs()
  def options, do: @options

  @doc "Makes a backoff of validated options, all of them given."
  @spec new(%{atom() => term()}) :: t()
  def new(options), do: reset(struct(__MODULE__, options))

  @doc """
  The wait after a failure, in milliseconds, and the backoff for the failure after it.

  `random` is a number from 0 to 1.

      iex> options = %{initial: 1_000, multiplier: 1.6, jitter: 0.2, max: 120_000}
      iex> backoff = GrpcLb.Connection.Backoff.new(options)
      iex> {wait, backoff} = GrpcLb.Connection.Backoff.next(backoff, 0.5)
      iex> {wait, elem(GrpcLb.Connection.Backoff.next(backoff, 0.5), 0)}
      {1000, 1600}
  """
  @spec next(t(), random :: float()) :: {non_neg_integer(), t()}
  def next(%__MODULE__{} = backoff, random \\ :rand.uniform()) do
    wait = round(backoff.base * (1 + backoff.jitter * (2 * random - 1)))
    base = min(backoff.base * backoff.multiplier, backoff.max)
    {wait, %{backoff | base: base, fresh?: false}}
  end

  @doc """
  The wait after what was open is lost: none, and as after a failure when one was lost or failed
  before and nothing has worked since.

      iex> options = %{initial: 1_000, multiplier: 1.6, jitter: 0, max: 120_000}
      iex> backoff = GrpcLb.Connection.Backoff.new(options)
      iex> {0, backoff} = GrpcLb.Connection.Backoff.lost(backoff)
      iex> {1_000, backoff} = GrpcLb.Connection.Backoff.lost(backoff)
      iex> {1_600, _backoff} = GrpcLb.Connection.Backoff.lost(backoff)
  """
  @spec lost(t(), random :: float()) :: {non_neg_integer(), t()}
  def lost(backoff, random \\ :rand.uniform())
  def lost(%__MODULE__{fresh?: true} = backoff, _random), do: {0, %{backoff | fresh?: false}}
  def lost(backoff, random), do: next(backoff, random)

  @doc "Whether what was open for so many milliseconds has worked, whatever it did."
  @spec outlasted?(t(), ms :: integer()) :: boolean()
  def outlasted?(%__MODULE__{base: base}, ms), do: ms >= base

  @doc "The backoff as it is after what has worked."
  @spec reset(t()) :: t()
  def reset(%__MODULE__{} = backoff),
    do: %{backoff | base: min(backoff.initial, backoff.max), fresh?: true}
end
