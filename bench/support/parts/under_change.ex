defmodule GrpcLb.Bench.Parts.UnderChange do
  @moduledoc false
  # What a change of the list costs all others: a list of channels of which one is replaced at a time,
  # in a VM of its own per design, with many idle processes that each keep what they picked once.
  #
  # The processor time of a change is that of all threads of the VM, less what they take without
  # changes; schedulers do not wait busily there. A pause is the longest time that a process which
  # does nothing but read the clock, one a scheduler, did not get to it in the milliseconds after a
  # change.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Channel, Stats, Vm}
  alias GrpcLb.Bench.Fields.Picks

  @backends 100

  # Changes at this pace stand for one a second: erasures of interned values, which may come once a
  # minute, come once in 60 of them.
  @period_ms 5
  @changes 60
  @pause_period_ms 20
  @settle_ms 100

  @vm [
    flags: ~w(+sbwt none +sbwtdcpu none +sbwtdio none),
    erased_every: @changes * @period_ms
  ]

  def contenders do
    [
      Picks.elixir_grpc(),
      Picks.persistent_tuple(),
      Picks.native_shared(),
      Picks.interned_shared()
    ]
  end

  @impl true
  def measure(plan) do
    rows =
      for contender <- contenders() do
        arguments = [contender, plan.idle_processes, plan.change_rounds]
        Map.merge(described(contender, plan), Vm.run(__MODULE__, :costs, arguments, @vm))
      end

    {rows, []}
  end

  @impl true
  def tables(rows) do
    header = ["", "CPU us", "from", "to", "pause us", "from", "to", "longest", "pause without"]
    idle = List.first(rows).idle_processes

    [
      {"a change of one of #{@backends} channels, in a VM with #{idle} idle processes", header,
       for row <- rows do
         [row.title, row.cpu_us.median, row.cpu_us.low, row.cpu_us.high, row.pause_us.median] ++
           [
             row.pause_us.low,
             row.pause_us.high,
             row.longest_pause_us,
             row.pause_without_us.median
           ]
       end}
    ]
  end

  defp described(contender, plan) do
    contender
    |> Map.take([:title, :side, :price])
    |> Map.merge(%{contender: contender.key, idle_processes: plan.idle_processes})
  end

  @doc "The costs of a change, in the VM that this is."
  def costs(contender, idle, rounds) do
    channels = for id <- 0..@backends, do: {id, Channel.new(id, self())}
    lists = {Enum.take(channels, @backends), Enum.drop(channels, 1)}
    state = contender.module.setup(elem(lists, 0), contender.opts)
    keepers = for _ <- 1..idle, do: spawn_link(fn -> keep(contender.module, state) end)
    for keeper <- keepers, do: send(keeper, {:picked?, self()})
    for _ <- keepers, do: receive(do: (:picked -> :ok))

    change = fn turn ->
      contender.module.update(state, elem(lists, rem(turn, 2)))
    end

    cpu = for _ <- 1..rounds, do: (cpu_of(change) - cpu_of(fn _turn -> :ok end)) / @changes / 1000
    spinners = spin_everywhere()
    pauses = pauses(spinners, change)
    without = pauses(spinners, fn _turn -> :ok end)

    %{
      cpu_us: Stats.interval(cpu),
      pause_us: Stats.interval(pauses),
      longest_pause_us: Enum.max(pauses),
      pause_without_us: Stats.interval(without)
    }
  end

  defp keep(module, state) do
    {:ok, picked} = module.pick(state)
    wait(picked)
  end

  defp wait(picked) do
    receive do
      {:picked?, from} -> send(from, :picked)
    end

    wait(picked)
  end

  defp cpu_of(change) do
    before = cpu_ns()

    for turn <- 1..@changes do
      change.(turn)
      Process.sleep(@period_ms)
    end

    # What a change leaves behind is part of it.
    Process.sleep(@settle_ms)
    cpu_ns() - before
  end

  # Linux tells it by thread and to the nanosecond, the VM to the millisecond.
  defp cpu_ns do
    case Path.wildcard("/proc/self/task/*/schedstat") do
      [] ->
        elem(:erlang.statistics(:runtime), 0) * 1_000_000

      threads ->
        Enum.reduce(threads, 0, &(&2 + thread_ns(File.read(&1))))
    end
  end

  defp thread_ns({:ok, text}), do: text |> Integer.parse() |> elem(0)
  defp thread_ns({:error, _ended}), do: 0

  defp spin_everywhere do
    longest = :atomics.new(System.schedulers_online(), [])

    for scheduler <- 1..System.schedulers_online() do
      :erlang.spawn_opt(fn -> spin(longest, scheduler, now()) end, [:link, scheduler: scheduler])
    end

    longest
  end

  defp spin(longest, index, last) do
    now = now()
    if now - last > :atomics.get(longest, index), do: :atomics.put(longest, index, now - last)
    spin(longest, index, now)
  end

  defp pauses(longest, change) do
    indices = 1..System.schedulers_online()

    for turn <- 1..@changes do
      Enum.each(indices, &:atomics.put(longest, &1, 0))
      change.(turn)
      Process.sleep(@pause_period_ms)
      (indices |> Enum.map(&:atomics.get(longest, &1)) |> Enum.max()) / 1000
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
