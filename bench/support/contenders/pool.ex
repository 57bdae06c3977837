defmodule GrpcLb.Bench.Contenders.Pool do
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
