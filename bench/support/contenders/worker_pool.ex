defmodule GrpcLb.Bench.Contenders.WorkerPool do
  @moduledoc false
  # worker_pool gives the name of a worker, which the caller has to have looked up.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.{Contender, Peers}

  @compile {:no_warn_undefined, [:wpool, :wpool_pool, :wpool_sup]}

  def contenders do
    if Peers.worker_pool?() do
      [Contender.new(:worker_pool, "wpool_pool:next_worker", __MODULE__, :none, side: :peer)]
    else
      []
    end
  end

  @impl true
  def setup(backends, _opts) do
    {:ok, supervisor} = :wpool_sup.start_link()
    {:ok, _pool} = :wpool.start_sup_pool(__MODULE__, workers: length(backends))
    supervisor
  end

  @impl true
  def teardown(supervisor), do: Supervisor.stop(supervisor)

  @impl true
  def pick(_supervisor), do: {:ok, :wpool_pool.next_worker(__MODULE__)}
end
