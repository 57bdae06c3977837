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
    * `:ttl` - for how many seconds they hold. A connection resolves again when it is over, though not
      within a second. `nil`: not known, and the connection resolves after its `:resolve_interval`.
      `:infinity`: they never change, and it resolves only on request or when a transport fails
  """
  @type resolution :: %{addresses: [Address.t()], ttl: non_neg_integer() | :infinity | nil}

  @typedoc "What a resolver answers."
  @type result :: {:ok, resolution()} | {:error, reason :: term()}

  @doc "Resolves the target once, now."
  @callback resolve(target :: term(), opts :: keyword()) :: result()

  @doc """
  Starts a process, linked to the caller, that calls `push` with a new result whenever there is one.

  `push` may be called from any process and does not wait.
  """
  @callback watch(target :: term(), opts :: keyword(), push :: (result() -> :ok)) ::
              {:ok, pid()} | {:error, reason :: term()}

  @doc """
  Checks the target and the options, once and in the process that makes the connection.

  Raises `ArgumentError` that says which is wrong and what is allowed.
  """
  @callback validate!(target :: term(), opts :: keyword()) :: :ok

  @optional_callbacks watch: 3, validate!: 2

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
  def check({:ok, %{addresses: addresses, ttl: ttl}} = result)
      when is_list(addresses) and
             (ttl in [nil, :infinity] or (is_integer(ttl) and ttl >= 0)) do
    if not List.improper?(addresses) and Enum.all?(addresses, &Address.valid?/1),
      do: result,
      else: {:error, {:bad_resolution, result}}
  end

  def check({:error, _reason} = error), do: error
  def check(other), do: {:error, {:bad_resolution, other}}
end
