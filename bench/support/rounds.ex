defmodule GrpcLb.Bench.Rounds do
  @moduledoc false
  # Times entries (a contender set up, and a number of processes that pick) against each other:
  # one short run of each, then again, for as many rounds as asked, so that what the machine does
  # meanwhile falls on all of them alike.
  #
  # Each run is made by fresh processes, which pick for a while before they count. Their heaps
  # have the same fixed least size. Garbage collection is part of the time, as it is of any pick
  # that returns a fresh term: heaps large enough to avoid it, or many heaps that together are
  # larger than a cache, would make each pick write to memory that is in none.
  #
  # Many processes are bound to the schedulers in turn. By itself the VM takes up to a second to
  # spread processes that were spawned at once, and until then they tell nothing about what
  # several schedulers do at once. For the same reason the operating system should keep the
  # schedulers on cores of their own, which `+stbt db` sees to.

  @heap_words 4_096

  # The clock is read once a burst.
  @burst_ns 5_000
  @trial_ns 1_000_000

  @enforce_keys [:key, :module, :state, :processes]
  defstruct [:key, :module, :state, :processes]

  @doc "The nanoseconds a pick (wall clock over all picks), round by round, of each entry by key."
  def run(entries, rounds, run_ns) do
    sized = Enum.map(entries, &{&1, burst(&1)})

    for round <- 1..rounds, {entry, burst} <- rotate(sized, round), reduce: %{} do
      times ->
        time = time(entry, entry.processes, burst, run_ns)
        Map.update(times, entry.key, [time], &[time | &1])
    end
  end

  defp rotate(list, by) do
    {head, tail} = Enum.split(list, rem(by, length(list)))
    tail ++ head
  end

  # How many picks of one process last as long as a burst.
  defp burst(entry), do: max(1, trunc(@burst_ns / time(entry, 1, 1, @trial_ns)))

  defp time(entry, processes, burst, run_ns) do
    parent = self()
    from = now() + div(run_ns, 2)

    workers =
      for index <- 1..processes do
        :erlang.spawn_opt(
          fn ->
            if processes > 1, do: bind(index)
            send(parent, {self(), work(entry, burst, from, from + run_ns)})
          end,
          [:link, min_heap_size: @heap_words]
        )
      end

    runs = for worker <- workers, do: receive(do: ({^worker, run} -> run))

    # The first to stop is the one that was running when the time was up; the others were waiting
    # for their turn, and count no more than the burst that they were in.
    [starts, stops, picks] = runs |> Enum.map(&Tuple.to_list/1) |> Enum.zip_with(& &1)

    case Enum.sum(picks) do
      # The machine was busy elsewhere all the time.
      0 -> time(entry, processes, burst, run_ns)
      picks -> (Enum.min(stops) - Enum.min(starts)) / picks
    end
  end

  defp bind(index) do
    :erlang.process_flag(:scheduler, rem(index, System.schedulers_online()) + 1)
  end

  defp work(entry, burst, from, until) do
    {start, _picks} = repeat(entry.module, entry.state, burst, from, 0)
    {stop, picks} = repeat(entry.module, entry.state, burst, until, 0)
    {start, stop, picks}
  end

  defp repeat(module, state, burst, until, picks) do
    case now() do
      now when now >= until ->
        {now, picks}

      _ ->
        _ = module.loop(state, burst, nil)
        repeat(module, state, burst, until, picks + burst)
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
