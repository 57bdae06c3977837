defmodule GrpcLb.Bench.Contenders.Monitored do
  @moduledoc false
  # What users write by hand when killed callers must not count for ever: a process that counts,
  # and monitors who calls.

  use GrpcLb.Bench.Contender
  use GenServer

  alias GrpcLb.Bench.Contenders.Native

  @impl GrpcLb.Bench.Contender
  def setup(backends, opts) do
    {:ok, server} = GenServer.start_link(__MODULE__, nil)
    {Native.setup(backends, opts), server}
  end

  @impl GrpcLb.Bench.Contender
  def teardown({balancer, server}) do
    GenServer.stop(server)
    Native.teardown(balancer)
  end

  @impl GrpcLb.Bench.Contender
  def pick({balancer, server}) do
    {:ok, pid} = GrpcLb.Native.pick(balancer)
    call = GenServer.call(server, {:begin, pid})
    GenServer.cast(server, {:end, call})
    {:ok, pid}
  end

  @impl GenServer
  def init(nil), do: {:ok, {%{}, %{}}}

  @impl GenServer
  def handle_call({:begin, backend}, {caller, _tag}, {calls, counts}) do
    call = Process.monitor(caller)
    counts = Map.update(counts, backend, 1, &(&1 + 1))
    {:reply, call, {Map.put(calls, call, backend), counts}}
  end

  @impl GenServer
  def handle_cast({:end, call}, state) do
    Process.demonitor(call, [:flush])
    {:noreply, finish(call, state)}
  end

  @impl GenServer
  def handle_info({:DOWN, call, :process, _pid, _reason}, state),
    do: {:noreply, finish(call, state)}

  defp finish(call, {calls, counts}) do
    {backend, calls} = Map.pop!(calls, call)
    {calls, Map.update!(counts, backend, &(&1 - 1))}
  end
end
