defmodule GrpcLb.Clock do
  @moduledoc """
  A clock for tests, which stands still until the test moves it.

  A balancer that is made with `clock: clock`, see `GrpcLb.new/3`, goes by it: ejections, slow start,
  weights from load reports, and the latencies of its calls. Several balancers can share one, those of
  connections and pools too. `guides/testing.md` shows tests.

  Nothing is done behind the test's back. What falls due is done by `advance/2`, before it returns.
  What does not wait for a time, such as the ejection of a backend that failed too many times in a row,
  is done by the `GrpcLb.complete/3` that gives cause for it, before that returns.

  What a balancer decides meanwhile, see `GrpcLb.Telemetry`, is emitted as always by a process of the
  library: a test that attaches a handler awaits what it sends.

  What a balancer tells of times, such as `:ejected_until` in `GrpcLb.info/1`, is in milliseconds of its
  clock. What waits in processes, such as the timeout of a connection, goes by real time.
  """

  alias GrpcLb.Native

  @typedoc """
  A clock. A bare reference of this node, which lives as long as it, or a balancer that goes by it, is
  held.
  """
  @type t :: Native.clock()

  @doc """
  Makes a clock. Its time is 0.

      iex> clock = GrpcLb.Clock.manual()
      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a], clock: clock)
      iex> {:ok, :a, ticket} = GrpcLb.checkout(lb)
      iex> GrpcLb.Clock.advance(clock, 5)
      iex> GrpcLb.complete(ticket, :ok)
      iex> hd(GrpcLb.info(lb).backends).latency_ns
      5_000_000
  """
  @spec manual() :: t()
  defdelegate manual(), to: Native, as: :manual_clock

  @doc """
  Moves a clock on by `ms` milliseconds, from 0 to 4,294,967,295.

  Work of its balancers that falls due is done in the order of the times at which it does, and the clock
  shows each of these while it is done: so a long step has the same effects as many short ones. All of
  it is done when this returns. A step takes as long as its work does: a month over a balancer with an
  `interval` of a millisecond is three billion sweeps.

  Processes that move one clock at once take turns, and it goes on by what they have moved it by together. Where
  one is killed meanwhile, the clock stays where it has come to. Returns `:ok`. Raises `ArgumentError` when
  `clock` is not a clock of this node, or `ms` no such number.

      iex> clock = GrpcLb.Clock.manual()
      iex> {:ok, lb} =
      ...>   GrpcLb.new(:round_robin, [:a, :b],
      ...>     clock: clock,
      ...>     outlier_detection: [
      ...>       consecutive_failures: 1,
      ...>       interval: 10_000,
      ...>       base_ejection_time: 30_000,
      ...>       max_ejection_percent: 50
      ...>     ]
      ...>   )
      iex> GrpcLb.run(lb, fn :a -> {:error, :refused} end)
      iex> for _ <- 1..2, do: GrpcLb.pick(lb)
      [{:ok, :b}, {:ok, :b}]
      iex> GrpcLb.Clock.advance(clock, 30_000)
      :ok
      iex> for _ <- 1..2, do: GrpcLb.pick(lb)
      [{:ok, :b}, {:ok, :b}]
      iex> # The first sweep after that.
      iex> GrpcLb.Clock.advance(clock, 10_000)
      iex> Enum.sort(for _ <- 1..2, do: GrpcLb.pick(lb))
      [{:ok, :a}, {:ok, :b}]

      iex> GrpcLb.Clock.advance(GrpcLb.Clock.manual(), -1)
      ** (ArgumentError) argument 2 must be a number of milliseconds from 0 to 4294967295, got an integer

      iex> GrpcLb.Clock.advance(make_ref(), 1)
      ** (ArgumentError) argument 1 is not a clock: expected the reference that GrpcLb.Clock.manual/0 returned on this node, got another reference
  """
  @spec advance(t(), ms :: non_neg_integer()) :: :ok
  defdelegate advance(clock, ms), to: Native
end
