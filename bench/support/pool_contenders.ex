defmodule GrpcLb.Bench.PoolContenders do
  @moduledoc false
  # The ways to share a pool of processes, in the order of the tables. What is picked is a pid.

  alias GrpcLb.Bench.{Contender, Contenders}
  alias GrpcLb.Bench.PoolContenders.{Pg, Pool, Poolboy}

  @shared {:round_robin, cursor: :shared}
  @per_scheduler {:round_robin, cursor: :per_scheduler}

  @doc "What the ratios of the others are to."
  def bases, do: [:registry_random, :registry_counter, :public]

  def all(:pid) do
    shared = "Pool.pick(name), shared cursor"
    per_scheduler = "Pool.pick(name), per-scheduler cursor"

    [
      contender(:pool, shared, Pool, :rotation, name: Pool.Shared, policy: @shared),
      contender(:pool_per_scheduler, per_scheduler, Pool, :near_rotation,
        name: Pool.PerScheduler,
        policy: @per_scheduler
      ),
      Contenders.public(),
      Contenders.registry_random(),
      Contenders.registry_counter(),
      contender(:pg, ":pg + Enum.random", Pg, :any)
    ] ++ poolboy()
  end

  @doc "Whether poolboy is there, which not every machine has: Debian's package is erlang-poolboy."
  def poolboy? do
    # Since Elixir 1.15 Mix takes off the code path what the project does not name.
    unless Code.ensure_loaded?(:poolboy) do
      [:code.lib_dir(), "poolboy-*/ebin"]
      |> Path.join()
      |> Path.wildcard()
      |> Enum.each(&Code.append_path/1)
    end

    Code.ensure_loaded?(:poolboy)
  end

  defp poolboy do
    # Its members are its own, none of the backends that a check could look for.
    if poolboy?(), do: [contender(:poolboy, "poolboy.transaction", Poolboy, :none)], else: []
  end

  defp contender(key, title, module, order, opts \\ []) do
    %Contender{key: key, title: title, module: module, order: order, opts: opts}
  end
end

defmodule GrpcLb.Bench.PoolContenders.Pool do
  @moduledoc false

  use GrpcLb.Bench.Contender

  @impl true
  def setup(backends, opts) do
    {:ok, _supervisor} = GrpcLb.Pool.start_link(opts)
    for {pid, value} <- backends, do: :ok = GrpcLb.Pool.join(opts[:name], pid, value: value)
    opts[:name]
  end

  @impl true
  def teardown(name), do: GrpcLb.Pool.stop(name)

  @impl true
  def pick(name), do: GrpcLb.Pool.pick(name)
end

defmodule GrpcLb.Bench.PoolContenders.Pg do
  @moduledoc false
  # What OTP has for groups of processes, on every node of a cluster.

  use GrpcLb.Bench.Contender

  @impl true
  def setup(backends, _opts) do
    {:ok, scope} = :pg.start_link(__MODULE__)
    :ok = :pg.join(__MODULE__, :members, Enum.map(backends, &elem(&1, 0)))
    scope
  end

  @impl true
  def teardown(scope), do: GenServer.stop(scope)

  @impl true
  def pick(_scope), do: {:ok, Enum.random(:pg.get_members(__MODULE__, :members))}
end

defmodule GrpcLb.Bench.PoolContenders.Poolboy do
  @moduledoc false
  # A checkout pool: it lends a member to one caller at a time, through one process, and has it
  # back at the end. That is more than a pick, and the wrong tool where callers may share.

  use GrpcLb.Bench.Contender

  @compile {:no_warn_undefined, :poolboy}

  @impl true
  def setup(backends, _opts) do
    options = [worker_module: __MODULE__, size: length(backends), max_overflow: 0]
    {:ok, pool} = :poolboy.start_link(options)
    pool
  end

  @impl true
  def teardown(pool), do: :poolboy.stop(pool)

  @impl true
  def pick(pool), do: :poolboy.transaction(pool, &{:ok, &1}, :infinity)

  def start_link(_args), do: Agent.start_link(fn -> nil end)
end
