defmodule GrpcLb.ElixirGrpc.AdapterOptions do
  @moduledoc false

  alias GrpcLb.Connection.Backoff
  alias GrpcLb.ElixirGrpc.Outcome
  alias GrpcLb.{Name, Options, Policy, Settings, Text}

  # gRPC waits up to two minutes, and finds what is back that much later.
  @backoff_defaults [initial: 200, max: 1_000]
  @backoff for {option, spec} <- Backoff.options(),
               do:
                 {option,
                  Keyword.merge(
                    spec,
                    List.wrap(default: @backoff_defaults[option] || spec[:default])
                  )}

  # In the order of the documentation. The module that knows a value best reads those of type `:any`.
  @options [
    adapter: [
      type: :any,
      default: GRPC.Client.Adapters.Gun,
      doc: "the adapter that connects and calls."
    ],
    policy: [type: :any, default: :round_robin, doc: "the balancer's, see `GrpcLb.Policy`."],
    name: [
      type: Name.type(),
      default: nil,
      doc:
        "what people are to know the balancer by, see `GrpcLb.new/3`. By default the channel's `ref`."
    ],
    classify: [
      type: {:function, 1},
      default: &Outcome.of/1,
      doc: """
      a function that is given the error of a call, a `GRPC.RPCError` or what the adapter returned in its
      place, and returns the outcome, see `GrpcLb.complete/3`.
      """
    ],
    hash_key: [
      type: {:or, {:reader, "{:header, name}", &__MODULE__.header/1}, nil},
      default: nil,
      doc: """
      `{:header, name}`: the values of this request header are the key of a call (gRFC A76), which a
      policy that is sticky goes by, see `GrpcLb.Policy.sticky?/1`. They are looked for in the option
      `:metadata` of the call, in the headers that interceptors add and in those of the channel.
      elixir-grpc lets no option of others through, so that the key cannot be one.
      """
    ],
    retry_unsent: [
      type: {:integer, from: 0, to: 100},
      default: 1,
      doc: """
      how often a call that no server has begun to serve is tried again, on the backend that is picked
      then (gRPC's transparent retry, gRFC A6).
      """
    ],
    drain_timeout: [
      type: {:ms, 0},
      default: 5_000,
      doc: """
      how many milliseconds a connection whose address is gone stays open for the calls in flight. A
      disconnect of the whole does not wait for it.
      """
    ],
    backoff: [
      type: {:options, @backoff},
      default: [],
      doc: "the waits between attempts to connect again, in milliseconds:"
    ]
  ]

  # A list of addresses changes slowly, and what is known of each is a map.
  @values [
    type: :any,
    default: :interned,
    doc:
      "whether what calls have to know of a connection is interned or copied, see `GrpcLb.new/3`."
  ]

  @specs @options ++ Keyword.put(Settings.balancer_options(), :values, @values)

  @doc "The options as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@specs)

  @doc "The names of the options."
  @spec names() :: [atom()]
  def names, do: Keyword.keys(@specs)

  @doc """
  Validates the options of the adapter, and fills in the defaults. `settings` are those of the balancer.

  Raises `ArgumentError` that names the option that is wrong, and what is allowed.
  """
  @spec new!(keyword()) :: map()
  def new!(opts) do
    options = Options.validate!(opts, @specs, :grpc_lb)

    settings =
      opts
      |> Keyword.take(Keyword.keys(Settings.balancer_options()))
      |> Keyword.put_new(:values, options.values)

    # To raise early. The balancer is made later, by another process.
    Settings.to_native(settings, Policy.to_native(options.policy))

    Map.merge(options, %{
      settings: settings,
      adapter: adapter!(options.adapter),
      backoff: Backoff.new(options.backoff),
      reports?: reports?(options.policy),
      sticky?: Policy.sticky?(options.policy)
    })
  end

  @doc false
  def header({:header, name}) when is_binary(name), do: {:ok, {:header, String.downcase(name)}}
  def header(_other), do: :error

  # Without the reports of calls, headers need not be asked for.
  defp reports?({:weighted_round_robin, opts}),
    do: opts[:weights] == :reported and opts[:reports] != :out_of_band

  defp reports?(_other), do: false

  defp adapter!(adapter) do
    if is_atom(adapter) and Code.ensure_loaded?(adapter) and
         function_exported?(adapter, :send_request, 3) do
      adapter
    else
      raise ArgumentError,
            "option :adapter of :grpc_lb must be an adapter of elixir-grpc, " <>
              "with the behaviour GRPC.Client.Adapter, got: #{Text.show(adapter)}"
    end
  end
end
