defmodule GrpcLb.Attack.Burst do
  @moduledoc """
  Calls in an order that makes sense, many of them, over what all share: what a service does, while others end
  it in the middle. Says how often it called what, for the ledger.
  """

  alias GrpcLb.Attack.{Hostile, Rogue, Stash, Values}
  alias GrpcLb.Native

  @times 400

  @doc "One sequence. Calls `count` with `{module, function, arity}`, an outcome and how often."
  def run(count) do
    lb = Stash.get(:balancer, &Values.balancer/0)
    sequence(:rand.uniform(12), lb, count)
  end

  defp sequence(n, lb, count) when n <= 3 do
    repeat(count, {Native, :pick, 1}, fn -> Native.pick(lb) end)
  end

  defp sequence(4, lb, count) do
    repeat(count, {GrpcLb, :pick, 2}, fn -> GrpcLb.pick(lb, "user 7") end)
  end

  defp sequence(5, lb, count) do
    outcome = Enum.random([:ok, :error, :transport_error, :cancelled])

    repeat(count, {Native, :checkout, 1}, fn ->
      with {:ok, _value, ticket} <- Native.checkout(lb),
           do: Native.end_call(ticket, outcome, nil, nil)
    end)

    count.({Native, :end_call, 4}, :ok, @times)
  end

  # What nobody holds any more is for the collector.
  defp sequence(6, lb, count) do
    repeat(count, {GrpcLb, :checkout, 1}, fn -> GrpcLb.checkout(lb) end)
  end

  defp sequence(7, lb, count) do
    repeat(count, {GrpcLb, :run, 3}, fn -> GrpcLb.run(lb, fn _value -> :ok end, []) end)
  end

  # Tickets that others complete, forget, or die with.
  defp sequence(8, lb, count) do
    for _ <- 1..20, {:ok, _value, ticket} <- [GrpcLb.checkout(lb)] do
      if :rand.uniform(2) == 1, do: Stash.put(:ticket, ticket)
      if :rand.uniform(4) == 1, do: spawn(fn -> GrpcLb.complete(ticket, :cancelled) end)
      if :rand.uniform(4) == 1, do: GrpcLb.first_response(ticket)
      if :rand.uniform(4) == 1, do: GrpcLb.complete(ticket, {:error, {:transport, :lost}})
    end

    count.({GrpcLb, :checkout, 1}, :ok, 20)
  end

  # Somebody waits in line, and somebody else makes room.
  defp sequence(9, _lb, count) do
    {:ok, lb} = GrpcLb.new(:least_request, Enum.uniq([1, 2]), max_requests: 1, checkout_wait: 20)
    Stash.put(:balancer, lb)
    callers = for _ <- 1..3, do: spawn(fn -> GrpcLb.run(lb, Rogue.run()) end)

    with {:ok, waiter, _place, _ms} <- Native.line_up(lb) do
      Stash.put(:waiter, waiter)
      Native.checkout_in_turn(waiter, [])
      if :rand.uniform(2) == 1, do: Native.leave_line(waiter)
    end

    if :rand.uniform(3) == 1, do: GrpcLb.close(lb)
    Enum.each(callers, &Process.exit(&1, :kill))
    count.({Native, :line_up, 1}, :ok, 1)
    count.({Native, :checkout_in_turn, 2}, :ok, 1)
  end

  # A list that grows and shrinks under those who pick.
  defp sequence(10, lb, count) do
    ids = Enum.to_list(1..:rand.uniform(300))
    owner = Rogue.member()

    for change <- [
          fn -> GrpcLb.reconcile(lb, ids) end,
          fn -> GrpcLb.add(lb, for(id <- 1_000..1_050, do: {id, id, owner: owner})) end,
          fn -> Process.exit(owner, :kill) end,
          fn -> GrpcLb.remove(lb, Enum.take_random(ids, 50)) end,
          fn -> GrpcLb.set_state(lb, Enum.random(ids), :draining) end,
          fn -> GrpcLb.reconcile(lb, Enum.take(ids, 5)) end
        ] do
      change.()
      for _ <- 1..20, do: Native.pick(lb)
    end

    count.({GrpcLb, :reconcile, 2}, :ok, 2)
    count.({GrpcLb, :add, 2}, :ok, 1)
    count.({Native, :pick, 1}, :ok, 120)
  end

  # Dropped while others use it, closed while calls are in flight.
  defp sequence(11, lb, count) do
    if :rand.uniform(2) == 1, do: Stash.drop(:balancer), else: GrpcLb.close(lb)
    for kind <- [:ticket, :waiter, :clock], do: Stash.drop(kind)
    :erlang.garbage_collect()
    count.({GrpcLb, :close, 1}, :ok, 1)
  end

  # Time passes, and things fall due.
  defp sequence(12, _lb, count) do
    clock = GrpcLb.Clock.manual()
    detection = [consecutive_failures: 1, max_ejection_percent: 100]
    {:ok, lb} = GrpcLb.new(:peak_ewma, [1, 2, 3], clock: clock, outlier_detection: detection)
    Stash.put(:clock, clock)
    Stash.put(:balancer, lb)

    for _ <- 1..5 do
      GrpcLb.run(lb, fn _value -> {:error, Hostile.term()} end)
      GrpcLb.Clock.advance(clock, :rand.uniform(40_000))
    end

    count.({GrpcLb.Clock, :advance, 2}, :ok, 5)
  end

  defp repeat(count, function, fun) do
    times(@times, fun)
    count.(function, :ok, @times)
  end

  defp times(0, _fun), do: :ok

  defp times(n, fun) do
    fun.()
    times(n - 1, fun)
  end
end
