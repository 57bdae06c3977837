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
