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
