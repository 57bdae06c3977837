defmodule GrpcLb.Bench.CallContenders do
  @moduledoc false
  # The ways to count a call as in flight from before it to after it, around no call at all.

  alias GrpcLb.Bench.{Contender, Contenders}
  alias GrpcLb.Bench.CallContenders.{Ticket, Run, Counters, Ets, Monitored, Reference}

  @round_robin {:round_robin, cursor: :per_scheduler}

  @doc "What the ratios of the others are to."
  def bases, do: [:atomics, :reference]

  def all(:pid) do
    [
      Contenders.unit(),
      contender(:reference, ":atomics.new/2, a reference that is collected", Reference, :none),
      contender(:round_robin, "checkout + complete, round_robin", Ticket, :any,
        policy: @round_robin
      ),
      contender(:least_request, "checkout + complete, least_request", Ticket, :any,
        policy: :least_request
      ),
      contender(:peak_ewma, "checkout + complete, peak_ewma", Ticket, :any, policy: :peak_ewma),
      contender(:run, "GrpcLb.run, round_robin", Run, :any, policy: @round_robin),
      contender(:counters, "pick, :counters, try/after", Counters, :any, policy: @round_robin),
      contender(:ets, "pick, ETS counter, try/after", Ets, :any, policy: @round_robin),
      contender(:monitored, "pick, one process that counts and monitors", Monitored, :any,
        policy: @round_robin
      )
    ]
  end

  defp contender(key, title, module, order, opts \\ []) do
    %Contender{key: key, title: title, module: module, order: order, opts: opts}
  end
end

defmodule GrpcLb.Bench.CallContenders.Reference do
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

defmodule GrpcLb.Bench.CallContenders.Ticket do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer) do
    {:ok, value, ticket} = GrpcLb.Native.checkout(balancer)
    :ok = GrpcLb.Native.complete(ticket, :ok, nil)
    {:ok, value}
  end
end

defmodule GrpcLb.Bench.CallContenders.Run do
  @moduledoc false

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  defdelegate setup(backends, opts), to: Native

  @impl true
  defdelegate teardown(balancer), to: Native

  @impl true
  def pick(balancer), do: GrpcLb.run(balancer, fn value -> {:ok, value} end)
end

defmodule GrpcLb.Bench.CallContenders.Counters do
  @moduledoc false
  # What users write by hand: a counter a backend. One whose caller is killed stays too high.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    indexed = for {{id, value}, index} <- Enum.with_index(backends, 1), do: {id, {index, value}}
    {Native.setup(indexed, opts), :counters.new(length(backends), [:write_concurrency])}
  end

  @impl true
  def teardown({balancer, _counters}), do: Native.teardown(balancer)

  @impl true
  def pick({balancer, counters}) do
    {:ok, {index, value}} = GrpcLb.Native.pick(balancer)
    :counters.add(counters, index, 1)

    try do
      {:ok, value}
    after
      :counters.sub(counters, index, 1)
    end
  end
end

defmodule GrpcLb.Bench.CallContenders.Ets do
  @moduledoc false
  # As `Counters`, in a table.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @impl true
  def setup(backends, opts) do
    table = :ets.new(:in_flight, [:set, :public, write_concurrency: true])
    for {id, _value} <- backends, do: :ets.insert(table, {id, 0})
    {Native.setup(backends, opts), table}
  end

  @impl true
  def teardown({balancer, table}) do
    :ets.delete(table)
    Native.teardown(balancer)
  end

  @impl true
  def pick({balancer, table}) do
    {:ok, pid} = GrpcLb.Native.pick(balancer)
    :ets.update_counter(table, pid, 1)

    try do
      {:ok, pid}
    after
      :ets.update_counter(table, pid, -1)
    end
  end
end

defmodule GrpcLb.Bench.CallContenders.Monitored do
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
