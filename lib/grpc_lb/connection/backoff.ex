defmodule GrpcLb.Connection.Backoff do
  @moduledoc false
  # How long to wait before the next attempt, as gRPC's [connection
  # backoff](https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md) has it: exponential,
  # with jitter.

  @defaults [initial: 1_000, multiplier: 1.6, jitter: 0.2, max: 120_000]
  @max_ms 0xFFFFFFFF

  @enforce_keys [:initial, :multiplier, :jitter, :max, :base]
  defstruct [:initial, :multiplier, :jitter, :max, :base]

  @type t :: %__MODULE__{
          initial: pos_integer(),
          multiplier: number(),
          jitter: number(),
          max: pos_integer(),
          base: number()
        }

  @doc """
  Makes a backoff of its options.

    * `:initial` - milliseconds before the second attempt, 1 to 4294967295, by default 1,000
    * `:multiplier` - by what that grows with every failure, 1 to 100, by default 1.6
    * `:jitter` - by what share of it each wait is randomly longer or shorter, 0 to 1, by default
      0.2
    * `:max` - the milliseconds that it grows to, jitter apart, by default 120,000

  Raises `ArgumentError` that names the option that is wrong.

      iex> GrpcLb.Connection.Backoff.new!(initial: 50).max
      120000

      iex> GrpcLb.Connection.Backoff.new!(jitter: 3)
      ** (ArgumentError) option :jitter of :backoff must be a number from 0 to 1, got: 3
  """
  @spec new!(keyword()) :: t()
  def new!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "option :backoff must be a keyword list, got: #{inspect(opts)}"
    end

    # Of an option that is given twice the first one counts.
    given = opts |> Enum.map(&checked!/1) |> Enum.uniq_by(&elem(&1, 0))
    settings = Keyword.merge(@defaults, given)
    reset(struct!(__MODULE__, [base: nil] ++ settings))
  end

  defp checked!({option, setting}) do
    {right?, allowed} =
      case option do
        option when option in [:initial, :max] ->
          {is_integer(setting) and setting in 1..@max_ms,
           "a number of milliseconds from 1 to #{@max_ms}"}

        :multiplier ->
          {is_number(setting) and setting >= 1 and setting <= 100, "a number from 1 to 100"}

        :jitter ->
          {is_number(setting) and setting >= 0 and setting <= 1, "a number from 0 to 1"}

        _unknown ->
          raise ArgumentError,
                "unknown option #{inspect(option)} of :backoff, " <>
                  "expected :initial or :multiplier or :jitter or :max"
      end

    unless right? do
      raise ArgumentError,
            "option #{inspect(option)} of :backoff must be #{allowed}, got: #{inspect(setting)}"
    end

    {option, setting}
  end

  @doc """
  The wait after a failure, in milliseconds, and the backoff for the failure after it.

  `random` is a number from 0 to 1.

      iex> backoff = GrpcLb.Connection.Backoff.new!([])
      iex> {wait, backoff} = GrpcLb.Connection.Backoff.next(backoff, 0.5)
      iex> {wait, elem(GrpcLb.Connection.Backoff.next(backoff, 0.5), 0)}
      {1000, 1600}
  """
  @spec next(t(), random :: float()) :: {non_neg_integer(), t()}
  def next(%__MODULE__{} = backoff, random \\ :rand.uniform()) do
    wait = round(backoff.base * (1 + backoff.jitter * (2 * random - 1)))
    {wait, %{backoff | base: min(backoff.base * backoff.multiplier, backoff.max)}}
  end

  @doc "The backoff as it is after a success."
  @spec reset(t()) :: t()
  def reset(%__MODULE__{} = backoff), do: %{backoff | base: min(backoff.initial, backoff.max)}
end
