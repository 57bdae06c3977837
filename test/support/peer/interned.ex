defmodule GrpcLb.Test.Peer.Interned do
  @moduledoc "What the tests of interned values have done in a VM of its own."

  alias GrpcLb.{Eraser, Native}

  @doc "What exists of interned values, once all garbage is gone and all is erased that can be."
  def left do
    # Twice: what one process lets go can be what another one has.
    for _ <- 1..2 do
      Enum.each(Process.list(), &:erlang.garbage_collect/1)
      Eraser.erase()
    end

    %{
      live: Map.take(Native.live_counts(), [:balancers, :slots, :values, :tickets]),
      keys: keys()
    }
  end

  defp keys do
    for {{GrpcLb.Interned, number}, _page} <- :persistent_term.get(), do: number
  end

  @doc "A value of the kind that `n` says, the same each time but for its references."
  def value(n) do
    case rem(n, 14) do
      0 -> {n, :atom}
      1 -> {n, n + 0x1000000000000000000}
      2 -> {n, n / 7}
      3 -> {n, "#{n}"}
      4 -> {n, large(n)}
      5 -> {n, binary_part(large(n), 100, 500)}
      6 -> {n, with(large = large(n), do: fn -> {n, large} end)}
      7 -> {n, for(i <- 1..50, into: %{}, do: {{:key, i}, [i, n]})}
      8 -> {n, {n, [%{n => {"a", [n | :improper]}}, <<n::3, n::32>>]}}
      9 -> {n, self()}
      10 -> {n, Enum.to_list(n..(n + 300))}
      11 -> {n, %GrpcLb.Backend{id: n, value: "host#{n}.example.com"}}
      12 -> {n, &Function.identity/1}
      13 -> {n, elem(GrpcLb.new(:random, [n]), 1)}
    end
  end

  defp large(n), do: String.duplicate(<<n::32>>, 400)

  @doc "Whether a value is whole."
  def whole?({n, value}) do
    case rem(n, 14) do
      6 -> value.() == {n, large(n)}
      9 -> is_pid(value)
      13 -> GrpcLb.pick(value) == {:ok, n}
      _term -> {n, value} === value(n)
    end
  end

  @doc """
  Has callers pick, keep, send on and store what they picked, while the list is replaced again and
  again, what has gone is erased, and what was erased is used for something else.
  """
  def churn(callers, rounds) do
    {:ok, lb} = GrpcLb.new(:round_robin, listed(0), values: :interned)
    table = :ets.new(:picked, [:public])
    parent = self()
    caller = fn -> caller(lb, table, parent, []) end
    pids = for _ <- 1..callers, do: spawn_link(caller)
    Enum.each(pids, &send(&1, {:neighbours, pids}))
    eraser = spawn_link(fn -> erase_for_ever() end)

    for round <- 1..rounds do
      {:ok, _changes} = GrpcLb.reconcile(lb, listed(round))
      true = Enum.all?(GrpcLb.info(lb).backends, &whole?(&1.value))
    end

    Enum.each(pids, &send(&1, :stop))
    picks = for pid <- pids, do: receive(do: ({^pid, picks} -> picks))
    Process.unlink(eraser)
    Process.exit(eraser, :kill)
    true = Enum.all?(:ets.tab2list(table), fn {_key, value} -> whole?(value) end)
    true = Enum.all?(picks, &(&1 > 0))
    GrpcLb.close(lb)
    :ok
  end

  # Half of the ids stay, and each value stays for two rounds.
  defp listed(round) do
    for i <- 1..28, do: {{i, rem(i, 2) * div(round, 20)}, value(i * 1_000 + div(round + i, 2))}
  end

  defp erase_for_ever do
    Eraser.erase()
    erase_for_ever()
  end

  defp caller(lb, table, parent, []) do
    receive do
      {:neighbours, pids} -> caller(lb, table, parent, pids, [], 0)
    end
  end

  defp caller(lb, table, parent, pids, kept, count) do
    receive do
      {:picked, value} ->
        caller(lb, table, parent, pids, [value | kept], count)

      :stop ->
        true = Enum.all?(kept, &whole?/1)
        true = Enum.all?(stored(), &whole?(Process.get(&1)))
        send(parent, {self(), count})
    after
      0 ->
        {:ok, value} = GrpcLb.pick(lb)
        true = whole?(value)
        turn(lb, table, pids, value, rem(count, 8))
        caller(lb, table, parent, pids, keep(value, kept), count + 1)
    end
  end

  defp turn(_lb, table, _pids, value, 0), do: :ets.insert(table, {self(), value})
  defp turn(_lb, _table, _pids, value, 1), do: Process.put(elem(value, 0), value)
  defp turn(_lb, _table, pids, value, 2), do: send(Enum.random(pids), {:picked, value})
  defp turn(_lb, _table, _pids, _value, 3), do: :erlang.garbage_collect()

  defp turn(lb, _table, _pids, _value, 4) do
    {:ok, value, ticket} = GrpcLb.checkout(lb)
    true = whole?(value)
    :ok = GrpcLb.complete(ticket, :ok)
  end

  defp turn(lb, _table, _pids, value, 5) do
    with {:ok, other, _ticket} <- Native.checkout_except_thoroughly(lb, [value]) do
      true = whole?(other)
    end
  end

  defp turn(_lb, _table, _pids, _value, 6), do: if(length(stored()) > 50, do: forget())
  defp turn(_lb, _table, _pids, _value, 7), do: :erlang.yield()

  defp forget, do: Enum.each(stored(), &Process.delete/1)
  defp stored, do: Enum.filter(Process.get_keys(), &is_integer/1)

  # Some for long, most for a while.
  defp keep(value, kept) when length(kept) > 60, do: [value | Enum.take_every(kept, 3)]
  defp keep(value, kept), do: [value | kept]

  @doc "Kills processes that make, change and close balancers, wherever they are."
  def kill_callers(times) do
    for n <- 1..times do
      {pid, monitor} = spawn_monitor(fn -> change_for_ever(n) end)
      for _ <- 0..rem(n, 97), do: :erlang.yield()
      if rem(n, 3) == 0, do: Process.sleep(0)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^monitor, :process, ^pid, :killed} -> :ok)
    end

    :ok
  end

  defp change_for_ever(n) do
    {:ok, lb} = GrpcLb.new(:random, [{n, value(n)}], values: :interned)
    {:ok, _changes} = GrpcLb.add(lb, [{:other, value(n + 1)}])
    {:ok, _changes} = GrpcLb.reconcile(lb, [{:other, value(n + 2)}])
    {:ok, _value} = GrpcLb.pick(lb)
    GrpcLb.close(lb)
    change_for_ever(n + 1)
  end

  @doc "Changes one backend so often while nobody erases. Says how much waits then, and how much was copied."
  def change_unerased(times) do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, {:value, 0}}], values: :interned)

    for n <- 1..times do
      {:ok, _changes} = GrpcLb.reconcile(lb, [{:a, {:value, n}}])
      {:ok, {:value, ^n}} = GrpcLb.pick(lb)
    end

    {waits, _words} = Eraser.waiting()
    %{values: copied} = Native.live_counts()
    GrpcLb.close(lb)
    %{waits: waits, copied: copied}
  end

  @doc "Lists so many values of 4 words, and says how many were interned."
  def list(count) do
    interned_of(for n <- 1..count, do: {:value, n, 0})
  end

  @doc "Lists small values beside one that takes more than an eighth of `total` words."
  def list_a_large_one(total) do
    interned_of([{:value, 1}, List.to_tuple(Enum.to_list(1..div(total, 8))), {:value, 2}])
  end

  defp interned_of(values) do
    {:ok, lb} = GrpcLb.new(:round_robin, Enum.with_index(values, &{&2, &1}), values: :interned)
    ^values = for _ <- values, do: elem(GrpcLb.pick(lb), 1)
    %{slots: slots, values: copied} = Native.live_counts()
    GrpcLb.close(lb)
    %{interned: slots, copied: copied}
  end

  @doc "Has processes add 64 values and remove 63, again and again. Says how many pages there were at most."
  def retain(callers, rounds) do
    tasks = for who <- 1..callers, do: Task.async(fn -> retain_some(who, rounds) end)
    tasks |> Task.await_many(:infinity) |> Enum.max()
  end

  # The balancer lives until it has been looked at.
  defp retain_some(who, rounds) do
    {:ok, lb} = GrpcLb.new(:round_robin, [], values: :interned)

    pages =
      for n <- 1..rounds do
        new = for i <- 1..64, do: {{n, i}, {who, n, List.duplicate(i, 28)}}
        {:ok, %{added: 64}} = GrpcLb.add(lb, new)
        {:ok, _removed} = GrpcLb.remove(lb, for(i <- 2..64, do: {n, i}))
        length(keys())
      end

    stay = for n <- 1..rounds, do: {who, n, List.duplicate(1, 28)}
    ^stay = Enum.sort(for _ <- 1..rounds, do: elem(GrpcLb.pick(lb), 1))
    GrpcLb.close(lb)
    Enum.max(pages)
  end

  @doc "Stops the application, has a balancer used, and starts it again."
  def outlive_the_application do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, {:value, 1}}], values: :interned)
    :ok = Application.stop(:grpc_lb)
    {:ok, {:value, 1}} = GrpcLb.pick(lb)
    {:ok, _changes} = GrpcLb.reconcile(lb, [{:a, {:value, 2}}])
    {:ok, {:value, 2}} = GrpcLb.pick(lb)
    {:ok, _apps} = Application.ensure_all_started(:grpc_lb)
    {:ok, {:value, 2}} = GrpcLb.pick(lb)
    :ok = Eraser.erase()
    {:ok, {:value, 2}} = GrpcLb.pick(lb)
    %{slots: slots} = Native.live_counts()
    GrpcLb.close(lb)
    slots
  end
end
