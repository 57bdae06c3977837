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

  alias GrpcLb.{Address, Target}
  alias GrpcLb.Resolver.{DNS, Static}

  @typedoc """
  What a target is resolved to.

    * `:addresses` - in the order in which the backends will be listed
    * `:ttl` - for how many seconds they hold; `nil` when that is not known, and `:infinity` when
      they never change. A connection resolves again when it is over, though not within a second;
      after its `:resolve_interval` when it is not known; and only when it is asked to, or a
      transport fails, when they never change
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
  Finds who resolves a target: a module and the options to call it with.

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
      ** (ArgumentError) option :max_ttl of GrpcLb.Resolver.DNS must be a number of seconds, :min_ttl at least, got: :day
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

  def for_target(target, {module, opts}) do
    unless is_atom(module) and Code.ensure_loaded?(module) and
             function_exported?(module, :resolve, 2) do
      raise ArgumentError,
            "option :resolver must be a module that exports resolve/2, or {module, opts}, " <>
              "got: #{inspect(module)}"
    end

    unless Keyword.keyword?(opts) do
      raise ArgumentError,
            "options of #{inspect(module)} must be a keyword list, got: #{inspect(opts)}"
    end

    if function_exported?(module, :validate!, 2), do: module.validate!(target, opts)
    {module, opts}
  end

  def for_target(target, module), do: for_target(target, {module, []})

  @doc """
  Takes what a resolver returned or pushed for what it is.

  Returns it when it is a `t:result/0`, and `{:error, {:bad_resolution, term}}` otherwise.

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
