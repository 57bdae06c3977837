defmodule GrpcLb.Connection.Options do
  @max_ms 0xFFFFFFFF

  # In the order of the documentation.
  @options [
    transport: [
      kind: :transport,
      doc:
        "how to reach an address: a module, or `{module, opts}`, see `GrpcLb.Transport`. Required"
    ],
    name: [
      kind: :any,
      doc: """
      any term. No two connections of a node have the same name at the same time. By default a new
      reference
      """
    ],
    policy: [
      kind: :any,
      default: :round_robin,
      doc: "the balancer's, see `GrpcLb.Policy`"
    ],
    resolver: [
      kind: :any,
      default: nil,
      doc: """
      who knows the addresses of the target: a module, or `{module, opts}`, see `GrpcLb.Resolver`.
      By default the resolver of the target's scheme
      """
    ],
    connect_timeout: [
      kind: :ms,
      default: 20_000,
      doc: """
      how long the transport's `open` and `check`, and the resolver's `resolve`, may take before
      they are ended and count as failed
      """
    ],
    ready_timeout: [
      kind: :ms,
      default: 30_000,
      doc: "how long `connect/2` waits in all; `start_link/1` does not wait"
    ],
    drain_timeout: [
      kind: :ms_or_none,
      default: 5_000,
      doc: """
      how long a transport whose address is gone stays open for the calls in flight, after it has
      left the rotation. It stays open for all of that time: when a call ends whose transport came from
      `pick/1` is not known. A disconnect does not wait for it
      """
    ],
    check_interval: [
      kind: :ms_or_infinity,
      default: 10_000,
      doc: "between two checks of a transport that has `check/1`; `:infinity` for no checks"
    ],
    resolve_interval: [
      kind: :ms_or_infinity,
      default: 30_000,
      doc: """
      between two resolutions when the resolver gives no TTL; with a TTL the next one comes when
      that is over. `:infinity` for none
      """
    ],
    min_resolve_interval: [
      kind: :ms_or_none,
      default: 5_000,
      doc: """
      the least time between two resolutions that a failed transport, `resolve_now/1` or a TTL asks
      for. What is asked for earlier is done when it is over
      """
    ],
    backoff: [
      kind: :backoff,
      default: [],
      doc: """
      the waits between attempts to open a transport or to resolve: `[initial: 1_000, multiplier:
      1.6, jitter: 0.2, max: 120_000]` are gRPC's, and the defaults
      """
    ]
  ]

  @moduledoc false

  alias GrpcLb.Connection.Backoff
  alias GrpcLb.{Policy, Resolver, Settings}

  # What the modules are given may be secret, and a crash is logged with these.
  @derive {Inspect, except: [:transport, :resolver, :caller]}
  @enforce_keys [:target | Keyword.keys(@options)]
  defstruct [:caller, :settings | @enforce_keys]

  @typedoc """
  Options that were checked. `settings` are those of the balancer, beside its policy. `caller` is who
  waits in `GrpcLb.Connection.connect/2`, how to tell it, and whether it has heard that: the one element
  is 1 then.
  """
  @type t :: %__MODULE__{
          target: term(),
          transport: {module(), term()},
          name: term(),
          policy: Policy.t(),
          settings: keyword(),
          resolver: {module(), keyword()},
          connect_timeout: pos_integer(),
          ready_timeout: pos_integer(),
          drain_timeout: non_neg_integer(),
          check_interval: pos_integer() | :infinity,
          resolve_interval: pos_integer() | :infinity,
          min_resolve_interval: non_neg_integer(),
          backoff: Backoff.t(),
          caller: %{pid: pid(), reply_to: reference(), told: :atomics.atomics_ref()} | nil
        }

  @doc "The options as a list, for documentation."
  @spec docs() :: String.t()
  def docs do
    "All times are in milliseconds.\n\n" <>
      Enum.map_join(@options, "\n", fn {option, spec} ->
        doc = spec[:doc] |> String.trim() |> String.replace("\n", "\n    ")

        default =
          if spec[:default] not in [nil, []], do: " (default `#{inspect(spec[:default])}`)"

        "  * `#{inspect(option)}`#{default} - #{doc}"
      end) <> "\n" <> Settings.docs_of_users()
  end

  @doc """
  Checks the options of a connection, and spells out those that are left out.

  Raises `ArgumentError` that names the option that is wrong, and what is allowed.

      iex> GrpcLb.Connection.Options.new!("ipv4:10.0.0.1:50051", transport: MyApp.Transport).drain_timeout
      5000

      iex> GrpcLb.Connection.Options.new!("ipv4:10.0.0.1:50051", transport: MyApp.Transport, drain_timeout: 0.5)
      ** (ArgumentError) option :drain_timeout must be a number of milliseconds from 0 to 4294967295, got: 0.5
  """
  @spec new!(target :: term(), keyword()) :: t()
  def new!(target, opts) do
    keyword!(opts)

    if Keyword.has_key?(opts, :target) do
      raise ArgumentError,
            "option :target is unknown beside the target, which is the first argument"
    end

    {settings, opts} = Keyword.split(opts, Settings.of_users())

    # Of an option that is given twice the first one counts, as everywhere with keyword lists.
    given =
      for {option, setting} <- Enum.reverse(opts), into: %{} do
        {option, setting!(option, @options[option][:kind], setting)}
      end

    unless Map.has_key?(given, :transport) do
      raise ArgumentError, "option :transport is required: #{allowed(:transport)}"
    end

    options = Map.merge(defaults(), given)
    # They raise by themselves, and know more. What they make is made again with the balancer.
    Settings.to_native(settings, Policy.to_native(options.policy))
    resolver = Resolver.for_target(target, options.resolver)
    known = %{target: target, resolver: resolver, settings: settings}
    struct!(__MODULE__, Map.merge(options, known))
  end

  @doc "Checks options that have the target among them, see `new!/2`."
  @spec new!(keyword()) :: t()
  def new!(opts) do
    keyword!(opts)

    case Keyword.pop(opts, :target, :none) do
      {:none, _opts} -> raise ArgumentError, "option :target is required"
      {target, opts} -> new!(target, opts)
    end
  end

  @doc "Gives options a name if they have none."
  @spec put_name(keyword()) :: keyword()
  def put_name(opts) do
    keyword!(opts)
    Keyword.put_new_lazy(opts, :name, &make_ref/0)
  end

  defp keyword!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "options must be a keyword list, got: #{inspect(opts)}"
    end
  end

  defp defaults do
    for {option, spec} <- Keyword.drop(@options, [:name, :transport]),
        into: %{name: make_ref()} do
      {option, setting!(option, spec[:kind], spec[:default])}
    end
  end

  defp setting!(option, nil, _setting) do
    raise ArgumentError,
          "unknown option #{inspect(option)}, expected " <>
            GrpcLb.Options.one_of([:target | Keyword.keys(@options)] ++ Settings.of_users())
  end

  defp setting!(_option, :any, setting), do: setting
  defp setting!(:backoff, :backoff, setting), do: Backoff.new!(setting)

  # The error does not show the module's options, which may be secret.
  defp setting!(_option, :transport, {module, _opts} = setting) do
    if transport?(module), do: setting, else: refuse!(:transport, :transport, module)
  end

  defp setting!(_option, :transport, module) do
    if transport?(module), do: {module, []}, else: refuse!(:transport, :transport, module)
  end

  defp setting!(option, kind, setting) do
    right? =
      case kind do
        :ms -> is_integer(setting) and setting in 1..@max_ms
        :ms_or_none -> is_integer(setting) and setting in 0..@max_ms
        :ms_or_infinity -> setting == :infinity or (is_integer(setting) and setting in 1..@max_ms)
      end

    if right?, do: setting, else: refuse!(option, kind, setting)
  end

  defp transport?(module) do
    is_atom(module) and Code.ensure_loaded?(module) and
      function_exported?(module, :open, 2) and function_exported?(module, :close, 1)
  end

  defp refuse!(option, kind, setting) do
    raise ArgumentError,
          "option #{inspect(option)} must be #{allowed(kind)}, got: #{inspect(setting)}"
  end

  defp allowed(:transport), do: "a module that exports open/2 and close/1, or {module, opts}"
  defp allowed(:ms), do: "a number of milliseconds from 1 to #{@max_ms}"
  defp allowed(:ms_or_none), do: "a number of milliseconds from 0 to #{@max_ms}"
  defp allowed(:ms_or_infinity), do: "#{allowed(:ms)}, or :infinity"
end
