defmodule Mix.Tasks.GrpcLb.Demo.Contest do
  @moduledoc false
  # Round robin alone beside a policy with outlier detection: two fleets alike, side by side, and
  # the same calls at the same moments. It judges nothing, see `ContestReport`.

  alias Mix.Tasks.GrpcLb.Demo.{CallLog, Fleet, Lineup, Traffic}

  defmodule Contender do
    @moduledoc false

    @enforce_keys [:policy, :options, :detection]
    defstruct @enforce_keys ++ [:members, :balancer, :log, :info]

    # options      the policy's
    # detection    the options of outlier detection; nil for none
    # info         the balancer's, as it was asked last
    @type t :: %__MODULE__{
            policy: GrpcLb.Policy.name(),
            options: keyword(),
            detection: keyword() | nil,
            members: [Fleet.Member.t()] | nil,
            balancer: GrpcLb.balancer() | nil,
            log: CallLog.t() | nil,
            info: GrpcLb.info() | nil
          }
  end

  @type setup :: %{policy: GrpcLb.Policy.name(), lineup: Lineup.t(), seconds: number()}
  @type facts :: %{
          lineup: Lineup.t(),
          round_robin: Contender.t(),
          chosen: Contender.t(),
          settled_ms: pos_integer()
        }

  # Who is flaky is found by the first sweep or the second. It comes back after five seconds, until
  # the next sweep finds it again, and after that it stays away for ten.
  @interval_ms 500
  @base_ejection_ms 5_000
  @first_sweeps 3

  @settled_ms @first_sweeps * @interval_ms

  # When the first sweeps have passed.
  @spec settled_ms() :: pos_integer()
  def settled_ms, do: @settled_ms

  @spec contenders(setup()) :: [Contender.t()]
  def contenders(setup) do
    [
      %Contender{policy: :round_robin, options: [], detection: nil},
      %Contender{
        policy: setup.policy,
        options: options(setup.policy),
        detection: detection(setup)
      }
    ]
  end

  # `tick` is called every second, with how many and the contenders as they are.
  @spec play(setup(), (pos_integer(), [Contender.t()] -> term())) :: facts()
  def play(setup, tick) do
    contenders = setup |> contenders() |> Enum.map(&boot(&1, setup.lineup)) |> Enum.map(&open/1)

    traffic =
      Task.async(fn ->
        contenders |> Enum.map(& &1.balancer) |> Traffic.run(round(1000 * setup.seconds))
      end)

    logs = await(traffic, 1, fn second -> tick.(second, Enum.map(contenders, &look/1)) end)

    [round_robin, chosen] =
      for {contender, log} <- Enum.zip(contenders, logs), do: close(%{contender | log: log})

    %{lineup: setup.lineup, round_robin: round_robin, chosen: chosen, settled_ms: @settled_ms}
  end

  # Three times what a good call takes. With the default of 5 s, a single failure would keep calls
  # from a flaky server for most of a minute, so that outlier detection sees none, and whenever the
  # slow and the flaky one are drawn together, the slow one would get the call.
  defp options(:peak_ewma), do: [penalty: 240]
  defp options(_policy), do: []

  # gRFC A50: pick_first is left alone.
  defp detection(%{policy: :pick_first}), do: nil

  # All flaky ones may be ejected, but not all there are.
  defp detection(%{lineup: lineup}) do
    most = lineup |> Lineup.count(:flaky) |> max(1) |> min(Lineup.size() - 1)

    [
      interval: @interval_ms,
      base_ejection_time: @base_ejection_ms,
      max_ejection_percent: ceil(100 * most / Lineup.size()),
      failure_percentage: [threshold: 10, minimum_hosts: 1, request_volume: 1]
    ]
  end

  defp boot(contender, lineup) do
    names = for {name, _kind} <- lineup, do: name
    %{contender | members: Fleet.start(names, Lineup.work(lineup))}
  end

  # Not before all servers are up: the sweeps begin now.
  defp open(contender) do
    policy = {contender.policy, contender.options}
    backends = Fleet.backends(contender.members)
    around = if contender.detection, do: [outlier_detection: contender.detection], else: []
    {:ok, balancer} = GrpcLb.new(policy, backends, around)
    %{contender | balancer: balancer}
  end

  defp await(traffic, second, tick) do
    case Task.yield(traffic, 1_000) do
      {:ok, logs} ->
        logs

      nil ->
        tick.(second)
        await(traffic, second + 1, tick)
    end
  end

  defp look(contender), do: %{contender | info: GrpcLb.info(contender.balancer)}

  defp close(contender) do
    contender = look(contender)
    :ok = GrpcLb.close(contender.balancer)
    %{contender | members: Enum.map(contender.members, &Fleet.stop(&1, :stopped))}
  end
end
