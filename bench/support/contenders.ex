defmodule GrpcLb.Bench.Contenders do
  @moduledoc false
  # The contenders, in the order of the tables.

  alias GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.{
    AtomicsUnit,
    ElixirGrpc,
    EmptyLoop,
    EtsCopy,
    Native,
    OneProcess,
    PersistentTuple,
    PublicPick,
    RegistryCounter,
    RegistryRandom
  }

  @shared {:round_robin, cursor: :shared}
  @per_scheduler {:round_robin, cursor: :per_scheduler}

  @doc "The loop around nothing, which is taken off every other figure."
  def empty, do: contender(:empty_loop, "(empty loop)", EmptyLoop, :none)

  @doc "The unit: the cheapest thing that any rotation over shared state has to do."
  def unit, do: contender(:atomics, ":atomics.add_get/3", AtomicsUnit, :counter)

  def native_shared do
    contender(:native_shared, "Native.pick, shared cursor", Native, :rotation, policy: @shared)
  end

  def native_per_scheduler do
    title = "Native.pick, per-scheduler cursor"
    contender(:native_per_scheduler, title, Native, :near_rotation, policy: @per_scheduler)
  end

  def elixir_grpc do
    contender(:ets_copy, "ETS + atomics + persistent_term", EtsCopy, :rotation)
  end

  @doc "The policy module for elixir-grpc, with the channels that `init/1` was given."
  def policy do
    contender(:policy, "ElixirGrpc.RoundRobin", ElixirGrpc, :rotation, init: :same)
  end

  @doc "The same, with channels that came later, so that none is in the state."
  def policy_updated do
    title = "ElixirGrpc.RoundRobin, all updated"
    contender(:policy_updated, title, ElixirGrpc, :rotation, init: :others)
  end

  def persistent_tuple do
    contender(:persistent_tuple, "persistent_term tuple + atomics", PersistentTuple, :rotation)
  end

  def public do
    contender(:public, "GrpcLb.pick, shared cursor", PublicPick, :rotation, policy: @shared)
  end

  def registry_random do
    contender(:registry_random, "Registry + Enum.random", RegistryRandom, :any)
  end

  def registry_counter do
    contender(:registry_counter, "Registry + ETS counter", RegistryCounter, :rotation)
  end

  @doc "What the ratios of the others are to."
  def bases, do: [:atomics, :ets_copy, :persistent_tuple]

  @doc "Those that can pick this kind of value."
  def all(:channel), do: all(:pid) ++ [policy(), policy_updated()]

  def all(:pid) do
    [
      unit(),
      native_shared(),
      native_per_scheduler(),
      contender(:native_random, "Native.pick, random", Native, :any, policy: :random),
      public(),
      elixir_grpc(),
      persistent_tuple(),
      registry_random(),
      registry_counter(),
      contender(:one_process, "one GenServer", OneProcess, :rotation)
    ]
  end

  defp contender(key, title, module, order, opts \\ []) do
    %Contender{key: key, title: title, module: module, order: order, opts: opts}
  end
end

defmodule GrpcLb.Bench.Contenders.EmptyLoop do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(_backends, _opts), do: nil

  @impl true
  def teardown(_state), do: :ok

  @impl true
  def pick(state), do: state
end

defmodule GrpcLb.Bench.Contenders.AtomicsUnit do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(_backends, _opts), do: :atomics.new(1, signed: false)

  @impl true
  def teardown(_cursor), do: :ok

  @impl true
  def pick(cursor), do: :atomics.add_get(cursor, 1, 1)
end

defmodule GrpcLb.Bench.Contenders.Native do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(backends, opts) do
    {:ok, balancer} = GrpcLb.new(opts[:policy], backends)
    balancer
  end

  @impl true
  def teardown(balancer), do: GrpcLb.close(balancer)

  @impl true
  def update(balancer, backends), do: {:ok, _changes} = GrpcLb.reconcile(balancer, backends)

  @impl true
  def pick(balancer), do: GrpcLb.Native.pick(balancer)
end

defmodule GrpcLb.Bench.Contenders.PublicPick do
  @moduledoc false
  # As `Native`, through the public module.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.pick(balancer)
end

defmodule GrpcLb.Bench.Contenders.EtsCopy do
  @moduledoc false
  # How elixir-grpc 1.0 picks: the balancer's state is found in a persistent_term under a module
  # and a reference, all channels are one ETS row that each pick copies, an atomic is the cursor.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Backends

  @impl true
  def setup(backends, _opts) do
    ref = make_ref()
    table = :ets.new(:channels, [:set, :public, read_concurrency: true])
    cursor = :atomics.new(1, signed: false)
    :ets.insert(table, {:channels, List.to_tuple(Backends.values(backends))})
    :persistent_term.put({__MODULE__, ref}, %{table: table, cursor: cursor})
    ref
  end

  @impl true
  def teardown(ref) do
    %{table: table} = :persistent_term.get({__MODULE__, ref})
    :persistent_term.erase({__MODULE__, ref})
    :ets.delete(table)
  end

  @impl true
  def update(ref, backends) do
    %{table: table} = :persistent_term.get({__MODULE__, ref})
    :ets.insert(table, {:channels, List.to_tuple(Backends.values(backends))})
  end

  @impl true
  def pick(ref) do
    %{table: table, cursor: cursor} = :persistent_term.get({__MODULE__, ref})
    [{:channels, channels}] = :ets.lookup(table, :channels)
    turn = :atomics.add_get(cursor, 1, 1)
    {:ok, elem(channels, rem(turn, tuple_size(channels)))}
  end
end

defmodule GrpcLb.Bench.Contenders.PersistentTuple do
  @moduledoc false
  # The fastest that the BEAM has by itself: cursor and values are one persistent_term under an
  # atom, so a pick copies nothing. Each change of the list costs a global garbage collection.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Backends

  @impl true
  def setup(backends, _opts), do: put(:atomics.new(1, signed: false), backends)

  @impl true
  def teardown(_state), do: :persistent_term.erase(__MODULE__)

  @impl true
  def update(_state, backends) do
    {cursor, _values} = :persistent_term.get(__MODULE__)
    put(cursor, backends)
  end

  @impl true
  def pick(_state) do
    {cursor, values} = :persistent_term.get(__MODULE__)
    turn = :atomics.add_get(cursor, 1, 1)
    {:ok, elem(values, rem(turn, tuple_size(values)))}
  end

  defp put(cursor, backends) do
    :persistent_term.put(__MODULE__, {cursor, List.to_tuple(Backends.values(backends))})
  end
end

defmodule GrpcLb.Bench.Contenders.Registration do
  @moduledoc false
  # What the two Registry contenders share: each backend's process registers itself.

  def start(name, backends) do
    {:ok, registry} = Registry.start_link(keys: :duplicate, name: name)

    for {pid, value} <- backends do
      {:ok, _owner} = Agent.get(pid, fn _ -> Registry.register(name, :backends, value) end)
    end

    {registry, backends}
  end

  # A process that is still registered would go down with the registry.
  def stop(name, {registry, backends}) do
    for {pid, _value} <- backends do
      :ok = Agent.get(pid, fn _ -> Registry.unregister(name, :backends) end)
    end

    Supervisor.stop(registry)
  end
end

defmodule GrpcLb.Bench.Contenders.RegistryRandom do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Registration

  @impl true
  def setup(backends, _opts), do: Registration.start(__MODULE__, backends)

  @impl true
  def teardown(registration), do: Registration.stop(__MODULE__, registration)

  @impl true
  def pick(_registration) do
    {_pid, value} = Enum.random(Registry.lookup(__MODULE__, :backends))
    {:ok, value}
  end
end

defmodule GrpcLb.Bench.Contenders.RegistryCounter do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Registration

  @impl true
  def setup(backends, _opts) do
    counter = :ets.new(:counter, [:set, :public, write_concurrency: true])
    :ets.insert(counter, {:turn, 0})
    {counter, Registration.start(__MODULE__, backends)}
  end

  @impl true
  def teardown({counter, registration}) do
    Registration.stop(__MODULE__, registration)
    :ets.delete(counter)
  end

  @impl true
  def pick({counter, _registration}) do
    entries = Registry.lookup(__MODULE__, :backends)
    turn = :ets.update_counter(counter, :turn, 1)
    {_pid, value} = Enum.at(entries, rem(turn, length(entries)))
    {:ok, value}
  end
end

defmodule GrpcLb.Bench.Contenders.OneProcess do
  @moduledoc false

  use GrpcLb.Bench.Contender
  use GenServer

  alias GrpcLb.Bench.Backends

  @impl GrpcLb.Bench.Contender
  def setup(backends, _opts) do
    {:ok, server} = GenServer.start_link(__MODULE__, List.to_tuple(Backends.values(backends)))
    server
  end

  @impl GrpcLb.Bench.Contender
  def teardown(server), do: GenServer.stop(server)

  @impl GrpcLb.Bench.Contender
  def pick(server), do: GenServer.call(server, :pick)

  @impl GenServer
  def init(values), do: {:ok, {0, values}}

  @impl GenServer
  def handle_call(:pick, _from, {turn, values}) do
    {:reply, {:ok, elem(values, turn)}, {rem(turn + 1, tuple_size(values)), values}}
  end
end
