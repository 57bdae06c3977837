defmodule GrpcLb.Bench.Parts.Hour do
  @moduledoc false
  # An hour in which every second one backend leaves and another joins, pressed together, in a VM of
  # its own: what it holds after each ten minutes. Callers keep some of what they picked.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Budget, Channel, Vm}
  alias GrpcLb.Bench.Fields.Picks

  @backends 100
  @callers 50
  @minutes 10
  @flat 1.1

  # A second of the hour.
  @second_ms 5

  def contenders, do: [Picks.native_shared(), Picks.interned_shared()]

  @impl true
  def measure(plan) do
    rows =
      for contender <- contenders(),
          at <-
            Vm.run(__MODULE__, :churn, [contender, plan.minutes], erased_every: 60 * @second_ms) do
        Map.merge(%{contender: contender.key, title: contender.title}, at)
      end

    {rows, for(contender <- contenders(), do: budget(contender, rows))}
  end

  @impl true
  def tables(rows) do
    [
      {"a change a second, #{@backends} channels",
       ["", "after minutes", "RSS MB", "VM MB", "values", "interned", "snapshots"],
       for row <- rows do
         [row.title, row.minutes, megabytes(row.resident_bytes), megabytes(row.vm_bytes)] ++
           [row.values, row.slots, row.snapshots]
       end}
    ]
  end

  # The first minutes are those in which a VM takes what it needs.
  defp budget(contender, rows) do
    rows = Enum.filter(rows, &(&1.contender == contender.key))
    [first, last] = for row <- [hd(rows), List.last(rows)], do: row.resident_bytes || row.vm_bytes
    what = "memory after #{List.last(rows).minutes} minutes / #{@minutes}: #{contender.title}"
    Budget.judge_once(%Budget{what: what, limit: @flat}, last / first)
  end

  @doc "What the VM that this is holds after each ten minutes of so many."
  def churn(contender, minutes) do
    window = for id <- 1..@backends, do: backend(id)
    state = contender.module.setup(window, contender.opts)
    for _ <- 1..@callers, do: spawn_link(fn -> call(contender.module, state, []) end)

    {rows, _window} =
      Enum.map_reduce(1..div(minutes, @minutes), window, fn ten, window ->
        first = (ten - 1) * @minutes * 60
        window = churn(contender.module, state, window, first, @minutes * 60)
        {held(ten * @minutes), window}
      end)

    rows
  end

  defp churn(_module, _state, window, _turn, 0), do: window

  defp churn(module, state, [_leaves | window], turn, left) do
    window = window ++ [backend(@backends + turn + 1)]
    module.update(state, window)
    Process.sleep(@second_ms)
    churn(module, state, window, turn + 1, left - 1)
  end

  defp backend(id), do: {id, Channel.new(id, self())}

  # Keeps the last of what it picked, once in a while.
  defp call(module, state, kept) do
    {:ok, value} = module.pick(state)
    Process.sleep(@second_ms)
    call(module, state, Enum.take([value | kept], 20))
  end

  defp held(minutes) do
    counts = GrpcLb.Native.live_counts()

    %{
      minutes: minutes,
      resident_bytes: Vm.resident_bytes(),
      vm_bytes: :erlang.memory(:total),
      values: counts.values,
      slots: counts.slots,
      snapshots: counts.snapshots
    }
  end

  defp megabytes(nil), do: nil
  defp megabytes(bytes), do: bytes / 1.0e6
end
