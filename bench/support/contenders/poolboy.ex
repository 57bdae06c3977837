defmodule GrpcLb.Bench.Contenders.Poolboy do
  @moduledoc false
  # A checkout pool: it lends a member to one caller at a time, through one process, and has it
  # back at the end. That is more than a pick, and the wrong tool where callers may share.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.{Contender, Peers}

  @compile {:no_warn_undefined, :poolboy}

  def contenders do
    # Its members are its own, none of the backends that a check could look for.
    if Peers.poolboy?() do
      [Contender.new(:poolboy, "poolboy.transaction", __MODULE__, :none, side: :peer)]
    else
      []
    end
  end

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
