defmodule GrpcLb.Test.Peer.Supervision do
  @moduledoc "What `GrpcLb.ApplicationTest` has done in a VM of its own."

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Workers

  @doc "A pool under a supervisor with the default intensity; then kills one of the library's own."
  def pool_survives_death_of(name) do
    # What dies here is meant to.
    :logger.set_primary_config(:level, :none)
    children = [{GrpcLb.Pool, name: __MODULE__}]
    {:ok, users} = Supervisor.start_link(children, strategy: :one_for_one)
    :ok = GrpcLb.Pool.join(__MODULE__)
    Workers.kill([Process.whereis(name)])

    eventually(fn -> Process.whereis(name) != nil end)
    # The pool of before may be about to end, and be joined yet.
    eventually(fn ->
      GrpcLb.Pool.join(__MODULE__) == :ok and match?({:ok, _value}, GrpcLb.Pool.pick(__MODULE__))
    end)

    true = Process.alive?(users)
    true = List.keymember?(Application.started_applications(), :grpc_lb, 0)
  end
end
