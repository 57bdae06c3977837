defmodule GrpcLb.ElixirGrpc do
  @moduledoc """
  Load-balancing policies for elixir-grpc.

  A connection of elixir-grpc 1.0 (`GRPC.Client.Connection`) asks a module with the behaviour
  `GRPC.Client.LoadBalancing` for a channel, once a call. `GrpcLb.ElixirGrpc.RoundRobin`,
  `GrpcLb.ElixirGrpc.PickFirst` and `GrpcLb.ElixirGrpc.Random` are such modules, and any other
  policy of `GrpcLb.Policy` is made into one by `use`:

      defmodule MyApp.PerSchedulerRoundRobin do
        use GrpcLb.ElixirGrpc, policy: {:round_robin, cursor: :per_scheduler}
      end

  `guides/elixir_grpc.md` shows how a connection comes to use them. elixir-grpc need not be there
  to compile this module, which takes its channels for what they are: maps.

  ## The balancer

  The connection's process calls `init/2`, and the balancer closes when that process ends, as an
  ETS table of its own would be deleted. `state.balancer` is its reference, for `GrpcLb.info/1`.

  The backend of a channel has `{host, port}` as its id. A list may name the same host and port
  several times: each of them has its turn, and the ids of all but the first are
  `{host, port, 2}`, `{host, port, 3}` and so on.

  The owner of a channel is the process `channel.adapter_payload.conn_pid`, when that is a pid of
  this node. A channel whose connection is dead is therefore not picked, even before `update/2`
  hears of it.

  ## The channel

  A pick returns a channel that is equal to the one that was given. By default it is not copied:
  channels are interned, see `GrpcLb.Backend`, because they change as slowly as the addresses of a service
  do. `values: :copied` has them copied, for connections whose list changes all the time.
  """

  alias GrpcLb.ElixirGrpc.AdapterOptions
  alias GrpcLb.{Native, Options, Policy, Text}

  @typedoc "What elixir-grpc publishes. It is made by `init/2` and never changes."
  @type state :: %{balancer: GrpcLb.balancer()}

  @typedoc "A `GRPC.Channel`, or any other map."
  @type channel :: map()

  @options [
    policy: [type: :any, doc: "the policy, see `GrpcLb.Policy`."],
    values: [
      type: {:one_of, [:interned, :copied]},
      default: :interned,
      doc: "whether channels are interned or copied, see `GrpcLb.new/3`."
    ]
  ]

  @doc """
  Defines the callbacks of `GRPC.Client.LoadBalancing` for a policy.

  ## Options

  #{Options.docs(@options)}

  There are no others, and the policy cannot be one that goes by calls (`:least_request`, `:peak_ewma`,
  or weights that are reported) or by their keys (`:ring_hash`, `:maglev`): elixir-grpc
  shows a policy module no calls.
  `GrpcLb.ElixirGrpc.Adapter` sees them.

  Raises `ArgumentError` at compile time when an option is missing, unknown or malformed, or cannot work
  here.
  """
  defmacro __using__(opts) do
    quote do
      @balancer GrpcLb.ElixirGrpc.options!(unquote(opts))

      @doc "Makes the balancer of a connection, see `GrpcLb.ElixirGrpc.init/2`."
      @spec init(keyword()) :: {:ok, GrpcLb.ElixirGrpc.state()} | {:error, :no_addresses}
      def init(opts),
        do: GrpcLb.ElixirGrpc.init(@balancer.policy, opts, @balancer.values)

      @doc "Picks a channel, see `GrpcLb.ElixirGrpc.pick/1`."
      @spec pick(GrpcLb.ElixirGrpc.state()) ::
              {:ok, GrpcLb.ElixirGrpc.channel(), GrpcLb.ElixirGrpc.state()}
              | {:error, :no_addresses}
      defdelegate pick(state), to: GrpcLb.ElixirGrpc

      @doc "Replaces the channels, see `GrpcLb.ElixirGrpc.update/2`."
      @spec update(GrpcLb.ElixirGrpc.state(), [GrpcLb.ElixirGrpc.channel()]) ::
              {:ok, GrpcLb.ElixirGrpc.state()} | {:error, :closed}
      defdelegate update(state, channels), to: GrpcLb.ElixirGrpc
    end
  end

  @doc false
  @spec options!(keyword()) :: %{policy: Policy.t(), values: :interned | :copied}
  def options!(opts) do
    if Keyword.keyword?(opts), do: refuse_those_of_the_adapter!(Keyword.keys(opts))
    %{policy: policy} = options = Options.validate!(opts, @options, "use GrpcLb.ElixirGrpc")
    Policy.to_native(policy)

    if Policy.sticky?(policy) or of_calls?(policy),
      do: needs_calls!("policy #{Text.show(policy)}")

    options
  end

  defp of_calls?(name) when name in [:least_request, :peak_ewma], do: true
  defp of_calls?({:weighted_round_robin, opts}), do: opts[:weights] == :reported
  defp of_calls?({name, _opts}), do: of_calls?(name)
  defp of_calls?(_other), do: false

  defp refuse_those_of_the_adapter!(options) do
    option =
      Enum.find(
        options,
        &(&1 not in [:name | Keyword.keys(@options)] and &1 in AdapterOptions.names())
      )

    if option, do: needs_calls!("option #{inspect(option)}")
  end

  @spec needs_calls!(String.t()) :: no_return()
  defp needs_calls!(what) do
    raise ArgumentError,
          "#{what} of use GrpcLb.ElixirGrpc needs to see calls, of which elixir-grpc shows a policy " <>
            "module none, please take GrpcLb.ElixirGrpc.Adapter"
  end

  @doc """
  Makes a balancer over the option `:channels`, which the calling process owns. The option `:values` is
  `:interned` by default, or `:copied`; a policy module has the default that it was given.

    * `{:ok, state}`
    * `{:error, :no_addresses}` - there are no channels

  Raises `ArgumentError` when the policy is malformed, or `:channels` is no list of maps.

      iex> channels = [%{host: "10.0.0.1", port: 50051}, %{host: "10.0.0.2", port: 50051}]
      iex> {:ok, state} = GrpcLb.ElixirGrpc.init(:round_robin, channels: channels)
      iex> for backend <- GrpcLb.info(state.balancer).backends, do: backend.id
      [{"10.0.0.1", 50051}, {"10.0.0.2", 50051}]

      iex> GrpcLb.ElixirGrpc.init(:round_robin, channels: [])
      {:error, :no_addresses}

      iex> GrpcLb.ElixirGrpc.init(:round_robin, channels: ["10.0.0.1"])
      ** (ArgumentError) channels must be a list of structs, got: ["10.0.0.1"]
  """
  @spec init(Policy.t(), keyword()) :: {:ok, state()} | {:error, :no_addresses}
  def init(policy, opts), do: init(policy, opts, :interned)

  @doc false
  def init(policy, opts, values) do
    case "options" |> GrpcLb.Options.argument!(:keyword, opts) |> Keyword.get(:channels, []) do
      [] ->
        {:error, :no_addresses}

      channels ->
        settings = [owner: self(), values: Keyword.get(opts, :values, values)]
        {:ok, balancer} = GrpcLb.new(policy, backends(channels), settings)
        {:ok, %{balancer: balancer}}
    end
  end

  @doc """
  Picks a channel. The state that is returned is the one that was given.

    * `{:ok, channel, state}`
    * `{:error, :no_addresses}` - there are no channels, or none whose connection is alive, or the
      process that made the balancer is gone

      iex> channels = [%{host: "10.0.0.1", port: 50051}, %{host: "10.0.0.2", port: 50051}]
      iex> {:ok, state} = GrpcLb.ElixirGrpc.init(:round_robin, channels: channels)
      iex> {:ok, channel, ^state} = GrpcLb.ElixirGrpc.pick(state)
      iex> channel
      %{host: "10.0.0.1", port: 50051}
  """
  @spec pick(state()) :: {:ok, channel(), state()} | {:error, :no_addresses}
  def pick(%{balancer: balancer} = state) do
    case Native.pick(balancer) do
      {:ok, channel} -> {:ok, channel, state}
      {:error, _no_backends_or_closed} -> {:error, :no_addresses}
    end
  end

  @doc """
  Replaces the channels. The list may be empty.

  Every pick that starts after this returns sees the new list, with the state that `init/2`
  returned, which is also what this returns.

    * `{:ok, state}`
    * `{:error, :closed}` - the process that made the balancer is gone

  Raises `ArgumentError`, and has changed nothing then, when `channels` is no list of maps.

      iex> {:ok, state} = GrpcLb.ElixirGrpc.init(:round_robin, channels: [%{host: "10.0.0.1"}])
      iex> {:ok, ^state} = GrpcLb.ElixirGrpc.update(state, [])
      iex> GrpcLb.ElixirGrpc.pick(state)
      {:error, :no_addresses}
  """
  @spec update(state(), [channel()]) :: {:ok, state()} | {:error, :closed}
  def update(%{balancer: balancer} = state, channels) do
    with {:ok, _changes} <- GrpcLb.reconcile(balancer, backends(channels)) do
      {:ok, state}
    end
  end

  defp backends(channels) do
    unless is_list(channels) and not List.improper?(channels) and Enum.all?(channels, &is_map/1) do
      raise ArgumentError, "channels must be a list of structs, got: #{Text.show(channels)}"
    end

    {backends, _seen} =
      Enum.map_reduce(channels, %{}, fn channel, seen ->
        address = {Map.get(channel, :host), Map.get(channel, :port)}
        seen = Map.update(seen, address, 1, &(&1 + 1))
        {{id(address, seen[address]), channel, owner: owner(channel)}, seen}
      end)

    backends
  end

  defp id(address, 1), do: address
  defp id({host, port}, occurrence), do: {host, port, occurrence}

  defp owner(%{adapter_payload: %{conn_pid: pid}}) when is_pid(pid) and node(pid) == node(),
    do: pid

  defp owner(_channel), do: nil
end
