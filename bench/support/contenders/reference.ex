defmodule GrpcLb.Bench.Contenders.Reference do
  @moduledoc false
  # The least that a term costs whose end the VM tells of, as that of a ticket.

  use GrpcLb.Bench.Contender

  @impl true
  def setup(_backends, _opts), do: nil

  @impl true
  def teardown(_state), do: :ok

  @impl true
  def pick(_state), do: :atomics.new(1, [])
end
