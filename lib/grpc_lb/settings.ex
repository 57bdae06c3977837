defmodule GrpcLb.Settings do
  # What a balancer is made with beside its policy and its backends: the options of GrpcLb.new/3, as
  # data.
  @moduledoc false

  alias GrpcLb.{Native, Options, Policy}

  @percent {:integer, 0..100}
  @count {:integer, 0..0xFFFFFFFF}

  @gates [
    minimum_hosts: [
      type: @count,
      default: 5,
      doc: "of fewer backends with enough calls none is ejected."
    ],
    request_volume: [
      type: @count,
      doc: "how many calls a backend must have had in the interval to be judged."
    ]
  ]

  @enforcement_percentage [
    type: @percent,
    default: 100,
    doc: "how likely a backend that is to be ejected really is."
  ]

  @success_rate [
    stdev_factor: [
      type: @count,
      default: 1_900,
      doc: """
      how far below the mean of all is too far, in thousandths of the standard deviation.
      """
    ],
    enforcement_percentage: @enforcement_percentage,
    minimum_hosts: @gates[:minimum_hosts],
    request_volume: [{:default, 100} | @gates[:request_volume]]
  ]

  @failure_percentage [
    threshold: [
      type: @percent,
      default: 85,
      doc: "a backend is ejected when more than this share of its calls fail, in percent."
    ],
    enforcement_percentage: @enforcement_percentage,
    minimum_hosts: @gates[:minimum_hosts],
    request_volume: [{:default, 50} | @gates[:request_volume]]
  ]

  @outlier_detection [
    interval: [
      type: {:ms, 1},
      default: 10_000,
      doc: "how often backends are judged, by the calls that ended since the last time."
    ],
    base_ejection_time: [
      type: {:ms, 0},
      default: 30_000,
      doc: "how long the first ejection lasts. Each that follows soon lasts this much longer."
    ],
    max_ejection_time: [
      type: {:nil_or, {:ms, 0}},
      default: nil,
      doc: "how long an ejection lasts at most. By default 300,000, or the base time if longer."
    ],
    max_ejection_percent: [
      type: @percent,
      default: 10,
      doc: """
      no more are ejected once this share of all backends is. One more than that can be: the share is
      looked at before each ejection. 0 ejects none.
      """
    ],
    success_rate: [
      type: {:nil_or, {:options, @success_rate}},
      default: nil,
      doc: """
      ejects backends that succeed much less often than the others do. Needs no idea of how many
      failures are normal, but many calls. `[]` for the defaults.
      """
    ],
    failure_percentage: [
      type: {:nil_or, {:options, @failure_percentage}},
      default: nil,
      doc: "ejects backends that fail too often. `[]` for the defaults."
    ],
    consecutive_failures: [
      type: {:nil_or, {:integer, 1..0xFFFFFFFF}},
      default: nil,
      doc: """
      ejects a backend after so many failures in a row, without waiting for the end of an interval.
      """
    ]
  ]

  @detections [:success_rate, :failure_percentage, :consecutive_failures]

  @slow_start [
    window: [
      type: {:ms, 1},
      doc: "how long a backend that is new, or ready again, takes to get its full share."
    ],
    aggression: [
      type: {:number, above: 0},
      default: 1.0,
      doc: "1.0 grows the share evenly over the window, more grows it faster at first."
    ],
    min_weight_percent: [
      type: {:number, from: 0, to: 100},
      default: 10.0,
      doc: "the share to begin with, in percent of the full one."
    ]
  ]

  # With which policies an option makes sense. pick_first has one backend for all calls: none to
  # compare it with (gRFC A50 leaves it out, too), and no share to grow or to spread.
  @policies [
    outlier_detection: Policy.names() -- [:pick_first],
    slow_start: [:weighted_round_robin, :least_request, :peak_ewma, :random],
    panic_threshold: Policy.names() -- [:pick_first]
  ]

  # In the order of the documentation.
  @options [
    owner: [
      type: {:nil_or, :local_pid},
      default: nil,
      doc: """
      a pid of this node. When it dies the balancer closes, see `close/1`. Without an owner a balancer
      lives as long as its reference is held. One that holds its own reference, in the value of a
      backend, lives until it is closed.
      """
    ],
    on_owner_death: [
      type: {:one_of, [:keep, :remove]},
      default: :keep,
      doc: """
      what becomes of a backend whose own owner dies: `:keep`, and it stays listed as `:down`; or
      `:remove`, and it is listed no longer. With `:remove` a backend that is given with a dead owner
      is not listed either.
      """
    ],
    outlier_detection: [
      type: {:nil_or, {:options, @outlier_detection}},
      default: nil,
      doc: """
      takes backends out of the rotation for a while whose calls fail (gRFC A50). One of
      `:success_rate`, `:failure_percentage` and `:consecutive_failures` is needed, and several can
      be had. It goes by the outcomes that `complete/3` and `run/3` are told. With all policies but
      `:pick_first`. By default off. For example `[failure_percentage: [threshold: 20]]`. Its options,
      with times in milliseconds:
      """
    ],
    slow_start: [
      type: {:nil_or, {:options, @slow_start}},
      default: nil,
      doc: """
      lets the share of a backend that is new, or ready again, grow from little to full, as Envoy does:
      for servers with caches to fill or code to warm up. With
      #{Enum.map_join(@policies[:slow_start], ", ", &"`#{inspect(&1)}`")}, which weigh. By default off.
      Its options:
      """
    ],
    panic_threshold: [
      type: @percent,
      default: 0,
      doc: """
      when fewer than this share of the backends are healthy, in percent, those that are ejected or in
      `:transient_failure` are picked, too, as Envoy does: the few that are left would be overrun, and
      that so many are bad may be a mistake. Those that are connecting or draining, or whose owner is
      dead, stay out and are not counted. 0 is off. With all policies but `:pick_first`.
      """
    ],
    max_requests: [
      type: {:nil_or, @count},
      default: nil,
      doc: """
      how many calls may be in flight over all backends (gRFC A32): the next `checkout/1` says
      `{:error, :overloaded}`. 0 lets none pass. `pick/1` is not limited. By default no limit.
      """
    ],
    max_requests_per_backend: [
      type: {:nil_or, @count},
      default: nil,
      doc: """
      how many calls may be in flight to one backend. When the chosen one is full the next ones in the
      list are tried, 16 at most. By default no limit.
      """
    ]
  ]

  # What is made with a balancer has these from its user, and those on owners from its own needs.
  @of_users Keyword.keys(@options) -- [:owner, :on_owner_death]

  @doc "The options that connections and pools take for their balancers."
  @spec of_users() :: [atom()]
  def of_users, do: @of_users

  @doc "The options that connections and pools take for their balancers, as a list in Markdown."
  @spec docs_of_users() :: String.t()
  def docs_of_users do
    Enum.map_join(@of_users, "\n", &"  * `#{inspect(&1)}` - the balancer's, see `GrpcLb.new/3`.")
  end

  @doc "The options as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@options)

  @doc """
  Validates the options of a balancer with this policy, and spells all of them out.

  Raises `ArgumentError` that names the option, what was given and what is allowed.

      iex> GrpcLb.Settings.to_native([slow_start: [window: 5_000]], :random).slow_start
      {5_000, 1.0, 10.0}

      iex> GrpcLb.Settings.to_native([slow_start: [window: 5_000]], {:pick_first, false})
      ** (ArgumentError) option :slow_start goes with :weighted_round_robin or :least_request or :peak_ewma or :random only, got it with :pick_first
  """
  @spec to_native(keyword(), Native.policy()) :: Native.settings()
  def to_native(opts, policy) do
    settings = Options.validate!(opts, @options)
    name = if is_tuple(policy), do: elem(policy, 0), else: policy

    for {option, policies} <- @policies,
        settings[option] != @options[option][:default],
        name not in policies do
      raise ArgumentError,
            "option #{inspect(option)} goes with #{Options.one_of(policies)} only, " <>
              "got it with #{inspect(name)}"
    end

    %{
      settings
      | outlier_detection: outlier_detection(settings.outlier_detection),
        slow_start: slow_start(settings.slow_start)
    }
  end

  defp outlier_detection(nil), do: nil

  defp outlier_detection(opts) do
    if Enum.all?(@detections, &is_nil(opts[&1])) do
      raise ArgumentError,
            "option :outlier_detection must have #{Options.one_of(@detections)}, " <>
              "or nothing is detected"
    end

    {opts.interval, opts.base_ejection_time, max_ejection_time(opts), opts.max_ejection_percent,
     success_rate(opts.success_rate), failure_percentage(opts.failure_percentage),
     opts.consecutive_failures}
  end

  # What it is when it is left out, gRFC A50 says.
  defp max_ejection_time(%{max_ejection_time: nil, base_ejection_time: base}),
    do: max(300_000, base)

  defp max_ejection_time(%{max_ejection_time: most}), do: most

  defp success_rate(nil), do: nil

  defp success_rate(opts) do
    {opts.stdev_factor, opts.enforcement_percentage, opts.minimum_hosts, opts.request_volume}
  end

  defp failure_percentage(nil), do: nil

  defp failure_percentage(opts) do
    {opts.threshold, opts.enforcement_percentage, opts.minimum_hosts, opts.request_volume}
  end

  defp slow_start(nil), do: nil
  defp slow_start(opts), do: {opts.window, opts.aggression, opts.min_weight_percent}
end
