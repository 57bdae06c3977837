defmodule GrpcLb.Bench.Contenders.Pg do
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
