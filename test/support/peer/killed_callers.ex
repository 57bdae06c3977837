defmodule GrpcLb.Test.Peer.KilledCallers do
  @moduledoc """
  What `GrpcLb.Stress.KilledCallersTest` has done in a VM of its own, whose tickets are all its own.
  """

  import GrpcLb.Test.Eventually

  @at_once 1_000
  @backends 10

  @doc """
  Has so many callers make calls until they are killed, at a random moment: with tickets, or with runs in
  which others run. Returns what is left of their calls, and how many of them were killed meanwhile.
  """
  def kill(callers, policy, how) do
    {:ok, lb} = GrpcLb.new(policy, Enum.to_list(1..@backends), max_requests: 2 * @at_once)
    begun = :counters.new(1, [])
    ended = :counters.new(1, [])

    for _ <- 1..div(callers, @at_once) do
      callers = for _ <- 1..@at_once, do: spawn_monitor(caller(how, lb, begun, ended))
      Enum.each(callers, &await_begun/1)

      for some <- callers |> Enum.shuffle() |> Enum.chunk_every(20) do
        pause(1)
        for {pid, _monitor} <- some, do: Process.exit(pid, :kill)
      end

      Enum.each(callers, &await_killed/1)
      # The news of a death comes before the VM has freed what the dead held.
      eventually(fn -> nothing_in_flight?(lb) end, fn -> inspect(GrpcLb.info(lb)) end)
    end

    backends = GrpcLb.info(lb).backends
    sum = fn key -> backends |> Enum.map(& &1[key]) |> Enum.sum() end

    %{
      in_flight: sum.(:in_flight),
      tickets: GrpcLb.Native.live_counts().tickets,
      # Those that are not successes were cancelled, by death.
      cancelled: sum.(:picks) - sum.(:successes) - sum.(:failures),
      killed: :counters.get(begun, 1) - :counters.get(ended, 1),
      successes: sum.(:successes),
      ended: :counters.get(ended, 1),
      limit_is_free: limit_is_free?(lb)
    }
  end

  defp nothing_in_flight?(lb) do
    GrpcLb.Native.live_counts().tickets == 0 and
      Enum.all?(GrpcLb.info(lb).backends, &(&1.in_flight == 0))
  end

  defp caller(:checkout, lb, begun, ended) do
    test = self()

    fn ->
      {:ok, _value, ticket} = GrpcLb.checkout(lb)
      send(test, {:begun, self()})
      call(ticket, begun, ended)
      call_forever(lb, begun, ended)
    end
  end

  defp caller(:run, lb, begun, ended) do
    test = self()

    fn ->
      GrpcLb.run(lb, fn _value -> send(test, {:begun, self()}) end)
      run_forever(lb, begun, ended)
    end
  end

  # Where there is no room, another has it.
  defp run_forever(lb, begun, ended) do
    GrpcLb.run(lb, fn _value ->
      :counters.add(begun, 1, 1)
      if :rand.uniform(2) == 1, do: GrpcLb.run(lb, fn _value -> pause(:rand.uniform(2)) end)
      pause(:rand.uniform(3))
      :counters.add(ended, 1, 1)
    end)

    run_forever(lb, begun, ended)
  end

  defp await_begun({pid, monitor}) do
    receive do
      {:begun, ^pid} -> :ok
      {:DOWN, ^monitor, :process, ^pid, reason} -> crashed(reason)
    end
  end

  defp await_killed({pid, monitor}) do
    receive do
      {:DOWN, ^monitor, :process, ^pid, :killed} -> :ok
      {:DOWN, ^monitor, :process, ^pid, reason} -> crashed(reason)
    end
  end

  defp crashed(reason), do: raise("a caller crashed: " <> Exception.format_exit(reason))

  defp call_forever(lb, begun, ended) do
    {:ok, _value, ticket} = GrpcLb.checkout(lb)
    call(ticket, begun, ended)
    call_forever(lb, begun, ended)
  end

  defp call(ticket, begun, ended) do
    :counters.add(begun, 1, 1)
    # The call, which others make at the same time.
    pause(:rand.uniform(3))
    :ok = GrpcLb.complete(ticket, :ok)
    :counters.add(ended, 1, 1)
  end

  defp pause(ms) do
    receive do
    after
      ms -> :ok
    end
  end

  # The limit is that of all calls in flight: as many as ever can begin.
  defp limit_is_free?(lb) do
    tickets =
      for _ <- 1..(2 * @at_once), {:ok, _value, ticket} <- [GrpcLb.checkout(lb)], do: ticket

    for ticket <- tickets, do: :ok = GrpcLb.complete(ticket, :cancelled)
    length(tickets) == 2 * @at_once
  end
end
