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
