defmodule GrpcLb.Connection.Options do
  @moduledoc false

  alias GrpcLb.Connection.{Backoff, Subset}
  alias GrpcLb.{Name, Options, Policy, Resolver, Secret, Settings}

  # In the order of the documentation. The module that knows a value best reads those of type `:any`.
  @options [
    target: [
      type: :any,
      doc: "what to connect to, see `GrpcLb.Target`. The first argument of `connect/2`."
    ],
    transport: [
      type: {:module_with_opts, open: 2, close: [1, 2]},
      secret: true,
      doc: "how to reach an address: a module, or `{module, opts}`, see `GrpcLb.Transport`."
    ],
    name: [
      type: Name.type(),
      default: nil,
      doc: """
      any term that takes #{Name.bytes()} bytes at most when it is written. No two connections of a node have the same name at the same time. By default a new
      reference.
      """
    ],
    policy: [
      type: :any,
      default: :round_robin,
      doc: "the balancer's, see `GrpcLb.Policy`."
    ],
    resolver: [
      type: :any,
      default: nil,
      doc: """
      who knows the addresses of the target: a module, or `{module, opts}`, see `GrpcLb.Resolver`.
      By default the resolver of the target's scheme.
      """
    ],
    connect_timeout: [
      type: {:ms, 1},
      default: 20_000,
      doc: """
      how long the transport's `open` and `check`, see `:check_timeout`, and the resolver's `resolve`, may
      take before they are ended and count as failed.
      """
    ],
    max_dials: [
      type: {:integer, from: 1, to: 0xFFFFFFFF},
      default: 32,
      doc: """
      how many transports are being opened at the same time. The others wait in the order of the
      resolution. One that hangs is in the way of those for `:connect_timeout`.
      """
    ],
    ready_timeout: [
      type: {:ms, 1},
      default: 30_000,
      doc: "how long `connect/2` waits in all; `start_link/1` does not wait."
    ],
    drain_timeout: [
      type: {:or, {:ms, 0}, :infinity},
      default: 5_000,
      doc: """
      how long a transport that has left the rotation may stay open for the calls in flight: because its
      address is gone, because it [takes no new calls](`GrpcLb.Transport.draining/1`), or because the
      connection ends. It is closed when the last call that is counted for it has ended: of those made
      with `run/3` or `checkout/1`. Nobody knows when a call ends whose transport came from `pick/1`. So
      where the connection has made none that are counted, it stays open for all of that time; and only
      the end of the connection does not wait.
      """
    ],
    check_interval: [
      type: {:or, {:ms, 1}, :infinity},
      default: 10_000,
      doc: "between two checks of a transport that has `check/1`; `:infinity` for no checks."
    ],
    check_timeout: [
      type: {:or, {:ms, 1}, nil},
      default: nil,
      doc: """
      how long a check may take. A transport whose check takes longer is down, whatever the thresholds,
      because nothing else can run in its process. By default `:connect_timeout`.
      """
    ],
    unhealthy_threshold: [
      type: {:integer, from: 1, to: 0xFFFFFFFF},
      default: 1,
      doc: "how many checks in a row must fail to count, see `c:GrpcLb.Transport.check/1`."
    ],
    healthy_threshold: [
      type: {:integer, from: 1, to: 0xFFFFFFFF},
      default: 1,
      doc: "how many checks in a row must succeed for one that is unhealthy to be picked again."
    ],
    resolve_interval: [
      type: {:or, {:ms, 1}, :infinity},
      default: 30_000,
      doc: """
      between two resolutions when the resolver gives no TTL; with a TTL the next one comes when
      that is over, give or take a tenth. `:infinity` for none.
      """
    ],
    min_resolve_interval: [
      type: {:ms, 0},
      default: 5_000,
      doc: """
      the least time between two resolutions that a failed transport, `resolve_now/1` or a TTL asks
      for. What is asked for earlier is done when it is over.
      """
    ],
    hold_obsolete: [
      type: {:or, {:ms, 0}, :auto},
      default: :auto,
      doc: """
      how long a backend stays in the rotation that an answer has left out, while its transport is
      open, so that name servers which answer with another part of their list each time do not have
      transports closed and opened. `:auto` is two TTLs of the answer that has left it out, no shorter
      than two `:min_resolve_interval`, for an answer of the resolver that has a TTL in seconds, as
      those of DNS. One without a TTL, or with `:infinity`, and one that is pushed, are taken at their
      word: what they leave out is gone. A number goes for every answer; with 0 all are taken so.
      """
    ],
    on_empty: [
      type: {:one_of, [:keep, :drop]},
      default: :keep,
      doc: """
      what an answer does that there are no addresses: an empty list, or the error `:no_addresses` or
      `:nxdomain`. `:keep`: nothing, as with any failure, and the last known backends stay. `:drop`:
      all backends leave at once, as is right for a service that is scaled to zero. `:resolved` of
      `GrpcLb.Telemetry` says which.
      """
    ],
    failover_timeout: [
      type: {:ms, 0},
      default: 10_000,
      doc: """
      where the addresses have priorities: how long those of one have, from when it is connected to, to get
      a transport open before the next one is connected to, too, as in gRFC A56. When all of them have
      failed or are lost it is connected to at once. With 0, and with an `:overprovisioning_factor`, all
      priorities are. One that is needed no more is drained after 15 minutes. Calls go to the first
      priority that has a transport open, in any case.
      """
    ],
    backoff: [
      type: {:options, Backoff.options()},
      default: [],
      doc: """
      the waits between attempts to open a transport or to resolve, with gRPC's defaults. What was open
      and is lost is opened again without a wait, see above for when that holds:
      """
    ]
  ]

  # Those of the balancer. Only here has a user a say where backends are.
  @settings [
              locality_weights: [
                type: :any,
                default: nil,
                doc: "how the localities of addresses share the calls, see `GrpcLb.new/3`."
              ]
            ] ++
              Keyword.put(Settings.balancer_options(), :subset,
                type: :any,
                default: nil,
                doc: """
                uses some of the addresses only, see `GrpcLb.new/3`: no others are connected to. The choice
                stays the same as long as the connection lives.
                """
              )

  # The modules' options may be secret, and supervisors and crashes log this struct: they are hidden.
  @derive {Inspect, except: [:transport, :resolver, :caller]}
  @enforce_keys Keyword.keys(@options)
  defstruct [:caller, :settings, :subset | @enforce_keys]

  @typedoc """
  Options that were validated. `settings` are those of the balancer, beside its policy, and but for the
  subset, which is taken of the addresses. `caller` waits
  in `GrpcLb.Connection.connect/2`: who it is, how to tell it, and whether it has heard (the one element
  is 1 then).
  """
  @type t :: %__MODULE__{
          target: term(),
          transport: {module(), Secret.t()},
          name: term(),
          policy: Policy.t(),
          settings: keyword(),
          subset: Subset.t() | nil,
          resolver: {module(), Secret.t()},
          connect_timeout: pos_integer(),
          max_dials: pos_integer(),
          ready_timeout: pos_integer(),
          drain_timeout: timeout(),
          check_interval: pos_integer() | :infinity,
          check_timeout: pos_integer() | nil,
          unhealthy_threshold: pos_integer(),
          healthy_threshold: pos_integer(),
          resolve_interval: pos_integer() | :infinity,
          min_resolve_interval: non_neg_integer(),
          hold_obsolete: non_neg_integer() | :auto,
          on_empty: :keep | :drop,
          failover_timeout: non_neg_integer(),
          backoff: Backoff.t(),
          caller: %{pid: pid(), reply_to: reference(), told: :atomics.atomics_ref()} | nil
        }

  @doc "The options as a list, for documentation."
  @spec docs() :: String.t()
  def docs, do: "All times are in milliseconds.\n\n" <> Options.docs(specs())

  defp specs, do: @options ++ @settings

  @doc """
  Validates the options of a connection and fills in the defaults.

  Raises `ArgumentError` that names the option that is wrong, and what is allowed.

      iex> GrpcLb.Connection.Options.new!("ipv4:10.0.0.1:50051", transport: MyApp.Transport).drain_timeout
      5000

      iex> GrpcLb.Connection.Options.new!("ipv4:10.0.0.1:50051", transport: MyApp.Transport, drain_timeout: 0.5)
      ** (ArgumentError) option :drain_timeout must be a number of milliseconds from 0 to 4294967295, or :infinity, got: 0.5
  """
  @spec new!(target :: term(), keyword()) :: t()
  def new!(target, opts) do
    keyword!(opts)

    if Keyword.has_key?(opts, :target) do
      raise ArgumentError,
            "option :target is unknown beside the target, which is the first argument"
    end

    new!([{:target, target} | opts])
  end

  @doc "Validates options that have the target among them, see `new!/2`."
  @spec new!(keyword()) :: t()
  def new!(opts) do
    opts = put_name(opts)
    options = Options.validate!(opts, specs())
    settings = Keyword.take(opts, Keyword.keys(@settings))
    # To raise early. The balancer is made later, by another process.
    %{subset: subset} = Settings.to_native(settings, Policy.to_native(options.policy))

    struct(
      __MODULE__,
      Map.merge(options, %{
        policy: Policy.of_many(options.policy),
        settings: Keyword.delete(settings, :subset),
        subset: subset,
        transport: hide(options.transport),
        resolver: options.target |> Resolver.for_target(options.resolver) |> hide(),
        backoff: Backoff.new(options.backoff)
      })
    )
  end

  @doc "How long a check may take, in milliseconds."
  @spec check_timeout(t()) :: pos_integer()
  def check_timeout(options), do: options.check_timeout || options.connect_timeout

  defp hide({module, opts}), do: {module, Secret.hide(opts)}

  @doc "Gives options a name if they have none."
  @spec put_name(keyword()) :: keyword()
  def put_name(opts) do
    opts = opts |> keyword!() |> Keyword.put_new_lazy(:name, &make_ref/0)
    # Supervisors have it in their children's ids.
    Options.argument!("option :name", Name.type(), opts[:name])
    opts
  end

  defp keyword!(opts), do: Options.argument!("options", :keyword, opts, secret: true)
end
