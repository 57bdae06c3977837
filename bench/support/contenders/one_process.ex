defmodule GrpcLb.Bench.Contenders.OneProcess do
  @moduledoc false

  use GrpcLb.Bench.Contender
  use GenServer

  alias GrpcLb.Bench.Backends

  @impl GrpcLb.Bench.Contender
  def setup(backends, _opts) do
    {:ok, server} = GenServer.start_link(__MODULE__, List.to_tuple(Backends.values(backends)))
    server
  end

  @impl GrpcLb.Bench.Contender
  def teardown(server), do: GenServer.stop(server)

  @impl GrpcLb.Bench.Contender
  def pick(server), do: GenServer.call(server, :pick)

  @impl GenServer
  def init(values), do: {:ok, {0, values}}

  @impl GenServer
  def handle_call(:pick, _from, {turn, values}) do
    {:reply, {:ok, elem(values, turn)}, {rem(turn + 1, tuple_size(values)), values}}
  end
end
