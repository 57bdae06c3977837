defmodule Demo.Scenes.Contest do
  @moduledoc false
  # Round robin alone beside a policy with outlier detection: two fleets alike, side by side, and
  # the same calls at the same moments. The scene returns facts; its `Report` judges them.

  @behaviour Demo.Scene

  alias Demo.Callers.{CallLog, Traffic}
  alias Demo.Check
  alias Demo.Scenes.Contest.Report
  alias Demo.Servers.{Fleet, Lineup}
  alias Demo.View.{Live, Text}

  defmodule Contender do
    @moduledoc false

    @enforce_keys [:policy, :options, :detection]
    defstruct @enforce_keys ++ [:members, :balancer, :table, :log, :info]

    # options      the policy's
    # detection    the options of outlier detection; nil for none
    # table        where its calls are written down; log has them all, in the end
    # info         the balancer's, as it was asked last
    @type t :: %__MODULE__{
            policy: GrpcLb.Policy.name(),
            options: keyword(),
            detection: keyword() | nil,
            members: [Fleet.Member.t()] | nil,
            balancer: GrpcLb.balancer() | nil,
            table: :ets.table() | nil,
            log: CallLog.t() | nil,
            info: GrpcLb.info() | nil
          }
  end

  @type options :: %{policy: GrpcLb.Policy.name(), lineup: Lineup.t(), seconds: number()}
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

  @poll_ms 100
  # Shares of fewer calls would say little.
  @window_ms 3_000

  # When the first sweeps have passed.
  @spec settled_ms() :: pos_integer()
  def settled_ms, do: @settled_ms

  @spec contenders(options()) :: [Contender.t()]
  def contenders(options) do
    [
      %Contender{policy: :round_robin, options: [], detection: nil},
      %Contender{
        policy: options.policy,
        options: policy_options(options.policy),
        detection: detection(options)
      }
    ]
  end

  @impl true
  def title, do: "A contest"

  @impl true
  def announcement(options) do
    guard = if detection(options), do: " with outlier detection", else: ""

    [
      "round robin alone, beside #{options.policy}#{guard}: five servers each, the same calls at " <>
        "the same moments"
      | Report.terms(options.lineup, contenders(options))
    ]
  end

  @impl true
  def play(style, options) do
    facts = Live.during(style, &play_on(&1, options))
    checks = Report.checks(facts)

    %{
      sentence: Report.sentence(facts),
      tables: [
        {"What came of #{Text.thousands(length(facts.chosen.log))} calls",
         Report.table(style, facts)},
        {"What must hold", Check.lines(style, checks)}
      ],
      checks: checks
    }
  end

  defp play_on(live, options) do
    contenders = options |> contenders() |> Enum.map(&boot(&1, options.lineup))
    contenders = Enum.map(contenders, &open/1)
    Live.show(live, fn -> sample(contenders, options.lineup) end)

    ms = round(1000 * options.seconds)
    lines = for contender <- contenders, do: {contender.balancer, contender.table}
    traffic = Task.async(fn -> Traffic.run(lines, ms) end)
    :ok = await(traffic, live, contenders, {now(), ms}, Enum.map(contenders, fn _ -> [] end))
    last = sample(contenders, options.lineup)
    :ok = Live.show(live, fn -> last end)
    [round_robin, chosen] = Enum.map(contenders, &close/1)

    %{
      lineup: options.lineup,
      round_robin: round_robin,
      chosen: chosen,
      settled_ms: @settled_ms
    }
  end

  # Three times what a good call takes. With the default of 5 s, a single failure would keep calls
  # from a flaky server for most of a minute, so that outlier detection sees none, and whenever the
  # slow and the flaky one are drawn together, the slow one would get the call.
  defp policy_options(:peak_ewma), do: [penalty: 240]
  defp policy_options(_policy), do: []

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
    %{contender | members: Fleet.start(names, Lineup.work(lineup)), table: CallLog.new()}
  end

  # Not before all servers are up: the sweeps begin now.
  defp open(contender) do
    policy = {contender.policy, contender.options}
    backends = Fleet.backends(contender.members)
    around = if contender.detection, do: [outlier_detection: contender.detection], else: []
    {:ok, balancer} = GrpcLb.new(policy, backends, around)
    %{contender | balancer: balancer}
  end

  # Until all calls have ended, tells of each ejection, and of each end of one.
  defp await(traffic, live, contenders, {began, ms} = clock, ejected) do
    case Task.yield(traffic, @poll_ms) do
      {:ok, :ok} ->
        Live.progress(live, 1.0)

      nil ->
        Live.progress(live, min((now() - began) / ms, 1.0))
        now_ejected = for contender <- contenders, do: ejected(look(contender))

        for {contender, before, now} <- Enum.zip([contenders, ejected, now_ejected]) do
          for name <- now -- before, do: Live.event(live, "#{contender.policy} ejects #{name}")

          for name <- before -- now,
              do: Live.event(live, "#{contender.policy} gives #{name} another chance")
        end

        await(traffic, live, contenders, clock, now_ejected)
    end
  end

  defp ejected(%{info: info}),
    do: for(%{ejected_until: t, id: id} when t != nil <- info.backends, do: id)

  defp look(contender), do: %{contender | info: GrpcLb.info(contender.balancer)}

  defp close(contender) do
    contender = %{look(contender) | log: CallLog.calls(contender.table)}
    :ok = GrpcLb.close(contender.balancer)
    :ets.delete(contender.table)
    %{contender | members: Enum.map(contender.members, &Fleet.stop(&1, :stopped))}
  end

  defp sample(contenders, lineup) do
    panels =
      for contender <- contenders do
        log = CallLog.calls(contender.table)
        away = ejected(look(contender))

        %{
          title: Report.title(contender),
          heads: ["server", "is", "share of the calls", "failed", "calls"],
          numbers: [:failed, :count],
          summary: Report.summary(log, @settled_ms),
          rows: for(member <- contender.members, do: row(member, lineup, log, away))
        }
      end

    %{window_ms: @window_ms, panels: panels}
  end

  defp row(member, lineup, log, away) do
    calls = Enum.filter(log, &(&1.client == member.client))

    %{
      name: member.name,
      note: Atom.to_string(lineup_kind(lineup, member.name)),
      state: if(member.name in away, do: :ejected, else: :serving),
      count: length(calls),
      failed: length(CallLog.failed(calls))
    }
  end

  defp lineup_kind(lineup, name) do
    {^name, kind} = List.keyfind!(lineup, name, 0)
    kind
  end

  defp now, do: System.monotonic_time(:millisecond)
end
