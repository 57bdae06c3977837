defmodule GrpcLb.Resolver do
  @moduledoc """
  A resolver turns a target into the addresses of its backends.

  `GrpcLb.Resolver.DNS` and `GrpcLb.Resolver.Static` serve the targets of `GrpcLb.Target`. A
  resolver of your own is a module with `c:resolve/2`. It is given to a connection as `resolver:
  MyApp.Shards` or `resolver: {MyApp.Shards, opts}`, and gets the connection's target as it was
  written, whatever term that is:

      defmodule MyApp.Shards do
        @behaviour GrpcLb.Resolver

        @impl true
        def resolve({:shard, n}, _opts) do
          case MyApp.Cluster.members(n) do
            [] -> {:error, :unknown_shard}
            ips -> {:ok, %{addresses: Enum.map(ips, &GrpcLb.Address.new!({&1, 50051})), ttl: 10}}
          end
        end
      end

  A connection calls `c:resolve/2` in a process of its own, one call at a time.
  """

  alias GrpcLb.{Address, Options, Target}
  alias GrpcLb.Resolver.{DNS, Static}

  @typedoc """
  What a target is resolved to.

    * `:addresses` - in the order in which the backends will be listed
    * `:ttl` - for how many seconds they hold. A connection resolves again when it is over, give or take
      a tenth of it, though not within a second. `nil`: not known, and the connection resolves after its
      `:resolve_interval`. `:infinity`: they never change, and it resolves only on request or when a
      transport fails
    * `:unknown` - the parts of the answer of which nothing could be found out, if there are any: a
      connection keeps the addresses that it knows of them. Without it, or with `[]`, what is not among
      the addresses is gone
  """
  @type resolution :: %{
          required(:addresses) => [Address.t()],
          required(:ttl) => non_neg_integer() | :infinity | nil,
          optional(:unknown) => [part()]
        }

  @typedoc """
  A part of an answer: all addresses that have what it says. `%{host: "b.example"}` is those of a host,
  `%{family: :inet6}` all of IPv6, `%{}` all there are.

  With a `:weight` this is what all addresses of its host and port weigh together, in the measure of
  the answer's other weights: those that are known and those that are kept share it. By default each
  keeps the weight that it had.
  """
  @type part :: %{
          optional(:host) => String.t(),
          optional(:port) => :inet.port_number(),
          optional(:family) => :inet | :inet6 | :local,
          optional(:weight) => pos_integer()
        }

  @typedoc "What a resolver answers."
  @type result :: {:ok, resolution()} | {:error, reason :: term()}

  @doc "Resolves the target once, now."
  @callback resolve(target :: term(), opts :: keyword()) :: result()

  @doc """
  Resolves the target once, now, and has more to come.

  It takes the place of `c:resolve/2` in connections, for a resolver some of whose answers come late: it
  returns what it has, the rest as `:unknown`, and processes of its own call `push` with a fuller result
  when they have one. `push` may be called from any process and does not wait; after another resolution
  has begun it does nothing.
  """
  @callback resolve(target :: term(), opts :: keyword(), push :: (result() -> :ok)) :: result()

  @doc """
  Starts a process, linked to the caller, that calls `push` with a new result whenever there is one.

  `push` may be called from any process and does not wait. When the process ends, the connection calls
  `c:watch/3` again after a backoff, and `c:resolve/2` too, for what has changed meanwhile. An end with
  the reason `:normal` is not taken for a failure: streams do end.
  """
  @callback watch(target :: term(), opts :: keyword(), push :: (result() -> :ok)) ::
              {:ok, pid()} | {:error, reason :: term()}

  @doc """
  Checks the target and the options, once and in the process that makes the connection.

  Raises `ArgumentError` that says which is wrong and what is allowed.
  """
  @callback validate!(target :: term(), opts :: keyword()) :: :ok

  @optional_callbacks resolve: 3, watch: 3, validate!: 2

  @doc """
  Finds the resolver of a target: a module and the options to call it with.

  `resolver` is the option of that name of a connection: a module, `{module, opts}`, or `nil`, the
  default, for the resolver of the target's scheme. Whatever it is, the module is called with the
  target as it was written.

  Raises `ArgumentError` when the resolver is no such module, when `c:validate!/2` refuses target or
  options, and without a resolver when `GrpcLb.Target.parse!/1` does.

      iex> GrpcLb.Resolver.for_target("dns:///example.com:50051")
      {GrpcLb.Resolver.DNS, []}

      iex> GrpcLb.Resolver.for_target("ipv4:10.0.0.1:50051,10.0.0.2:50051")
      {GrpcLb.Resolver.Static, []}

      iex> GrpcLb.Resolver.for_target("dns:///example.com", {GrpcLb.Resolver.DNS, max_ttl: 60})
      {GrpcLb.Resolver.DNS, [max_ttl: 60]}

      iex> GrpcLb.Resolver.for_target("dns:///example.com", {GrpcLb.Resolver.DNS, max_ttl: :day})
      ** (ArgumentError) option :max_ttl of GrpcLb.Resolver.DNS must be a number of seconds from 1, got: :day
  """
  @spec for_target(target :: term(), resolver :: nil | module() | {module(), keyword()}) ::
          {module(), keyword()}
  def for_target(target, resolver \\ nil)

  def for_target(target, nil) do
    case Target.parse!(target) do
      %Target{scheme: :dns} -> {DNS, []}
      %Target{} -> {Static, []}
    end
  end

  def for_target(target, resolver) do
    type = {:module_with_opts, resolve: 2}
    {module, opts} = Options.argument!("option :resolver", type, resolver, secret: true)
    Options.argument!("options of #{inspect(module)}", :keyword, opts, secret: true)

    if function_exported?(module, :validate!, 2), do: module.validate!(target, opts)
    {module, opts}
  end

  @doc """
  Checks what a resolver returned or pushed.

  Returns a `t:result/0` as it is, and `{:error, {:bad_resolution, term}}` for anything else.

      iex> GrpcLb.Resolver.check({:ok, %{addresses: [GrpcLb.Address.new!("[::1]:1")], ttl: nil}})
      {:ok, %{addresses: [%GrpcLb.Address{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: 1}], ttl: nil}}

      iex> GrpcLb.Resolver.check({:error, :down_for_lunch})
      {:error, :down_for_lunch}

      iex> GrpcLb.Resolver.check({:ok, ["10.0.0.1"]})
      {:error, {:bad_resolution, {:ok, ["10.0.0.1"]}}}
  """
  @spec check(term()) :: result()
  def check({:ok, %{addresses: addresses, ttl: ttl} = resolution} = result)
      when is_list(addresses) and
             (ttl in [nil, :infinity] or (is_integer(ttl) and ttl >= 0)) do
    unknown = Map.get(resolution, :unknown, [])

    if all?(addresses, &Address.valid?/1) and all?(unknown, &part?/1),
      do: result,
      else: {:error, {:bad_resolution, result}}
  end

  def check({:error, _reason} = error), do: error
  def check(other), do: {:error, {:bad_resolution, other}}

  defp all?(list, valid?),
    do: is_list(list) and not List.improper?(list) and Enum.all?(list, valid?)

  defp part?(part), do: is_map(part) and part |> Map.to_list() |> Enum.all?(&of_part?/1)

  defp of_part?({:host, host}), do: is_binary(host)
  defp of_part?({:port, port}), do: is_integer(port)
  defp of_part?({:family, family}), do: family in [:inet, :inet6, :local]
  defp of_part?({:weight, weight}), do: is_integer(weight) and weight > 0
  defp of_part?(_other), do: false
end
