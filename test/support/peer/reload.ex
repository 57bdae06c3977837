defmodule GrpcLb.Test.Peer.Reload do
  @moduledoc "What `GrpcLb.ReloadTest` has done in a VM of its own, where a process holds the balancer."

  import GrpcLb.Test.Eventually

  def hold_balancer do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, "a"}, :b])
    holder = spawn(fn -> hold(lb) end)
    {:holder, holder}
  end

  defp hold(lb) do
    receive do
      {:with, from, fun} ->
        send(from, {self(), fun.(lb)})
        __MODULE__.keep_holding(lb)

      :drop ->
        :ok
    end
  end

  def keep_holding(lb), do: hold(lb)

  defp with_balancer({:holder, holder}, fun) do
    send(holder, {:with, self(), fun})

    receive do
      {^holder, result} -> result
    end
  end

  def picks(holder), do: with_balancer(holder, &[GrpcLb.pick(&1), GrpcLb.pick(&1)])

  def use_everything(holder) do
    with_balancer(holder, fn lb ->
      %{closed: false, backends: [%{id: :a}, %{id: :b}]} = GrpcLb.info(lb)
      {:ok, %{added: 1, removed: 1, kept: 1}} = GrpcLb.reconcile(lb, [:b, {:c, %{big: "c"}}])
      {:error, :raised} = refused(fn -> GrpcLb.reconcile(lb, [:b, :b]) end)
      {:ok, _} = GrpcLb.reconcile(lb, [{:a, "a"}, :b])
      :ok
    end)
  end

  @doc "What it looks like for people. With a policy of its own, a balancer of another build may have its number."
  def described(holder) do
    with_balancer(holder, fn lb ->
      {:ok, device} = StringIO.open("")
      Process.group_leader(self(), device)
      :ok = GrpcLb.describe(lb)
      :ok = GrpcLb.top(lb)
      {_input, output} = StringIO.contents(device)
      output
    end)
  end

  @doc "As `hold_balancer/0`, another one."
  def hold_other do
    {:ok, lb} = GrpcLb.new(:random, [:other], name: "new")
    {:holder, spawn(fn -> hold(lb) end)}
  end

  def hold_interned do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, {:value, 1}}, :b], values: :interned)
    {:holder, spawn(fn -> hold(lb) end)}
  end

  @doc "What the build that is loaded now does with a balancer of another one: interns, keeps and erases."
  def use_interned(holder) do
    with_balancer(holder, fn lb ->
      {:ok, before} = GrpcLb.pick(lb)
      {:ok, :b} = GrpcLb.pick(lb)
      [_page] = interned()
      {:ok, %{added: 1, kept: 1}} = GrpcLb.reconcile(lb, [{:a, {:value, 1}}, {:c, {:value, 2}}])
      2 = length(interned())
      {:ok, again} = GrpcLb.pick(lb)
      true = :erts_debug.same(before, again)
      {:ok, _changes} = GrpcLb.reconcile(lb, [{:c, {:value, 2}}])
      :ok = GrpcLb.Eraser.erase()
      [{{:ok, {:value, 2}}}] = interned()
      {:ok, {:value, 2}} = GrpcLb.pick(lb)
      :ok = GrpcLb.close(lb)
      :ok = GrpcLb.Eraser.erase()
      [] = interned()
      {:value, 1} = before
      {:value, 1} = again
      :ok
    end)
  end

  defp interned,
    do: for({{GrpcLb.Interned, _number}, page} <- :persistent_term.get(), do: page)

  @doc "Has the holder check a call out of a balancer that ejects whoever fails once, and keep both."
  def hold_call do
    detection = [consecutive_failures: 1, max_ejection_percent: 100]
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], outlier_detection: detection)
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    {:holder, spawn(fn -> hold({lb, ticket}) end)}
  end

  def complete_held_call(holder) do
    with_balancer(holder, fn {lb, ticket} ->
      :ok = GrpcLb.complete(ticket, {:error, :refused})
      {:error, :already_completed} = GrpcLb.complete(ticket, :ok)
      # The ticker may be doing it.
      eventually(fn -> hd(GrpcLb.info(lb).backends).times_ejected == 1 end)
      %{backends: [%{failures: 1, in_flight: 0}, _b]} = GrpcLb.info(lb)
      [{:ok, :b}, {:ok, :b}] = [GrpcLb.pick(lb), GrpcLb.pick(lb)]
      {:ok, :b, _forgotten} = GrpcLb.checkout(lb)
      :ok
    end)
  end

  @doc "Has the holder be in the middle of a run; dropped, it goes on after it, with the run's result."
  def hold_run do
    {:ok, lb} = GrpcLb.new(:least_request, [:a])
    {:holder, spawn(fn -> hold({lb, GrpcLb.run(lb, fn :a -> hold(lb) end)}) end)}
  end

  @doc "Runs in that run, with balancers of both builds."
  def run_in_held_run(holder) do
    with_balancer(holder, fn old ->
      slots = GrpcLb.Slots.own()
      in_flight = fn lb -> hd(GrpcLb.info(lb).backends).in_flight end
      1 = in_flight.(old)
      # The build of its balancer serves it, with tickets.
      for _ <- 1..2, do: 2 = GrpcLb.run(old, fn :a -> in_flight.(old) end)
      {:ok, new} = GrpcLb.new(:least_request, [:a])
      for _ <- 1..2, do: 1 = GrpcLb.run(new, fn :a -> in_flight.(new) end)
      # The first of these has made new slots, which stay.
      renewed = GrpcLb.Slots.own()
      false = renewed == slots
      {:error, :other_build} = GrpcLb.Native.begin_call(new, slots)
      {:ok, :a, slot} = GrpcLb.Native.begin_call(new, renewed)
      :ok = GrpcLb.Native.complete(renewed, slot, :ok, nil, nil)
      {:error, :already_completed} = GrpcLb.Native.complete(renewed, slot, :ok, nil, nil)
      # The old build does not take slots of the new one for its own either.
      {:ok, :a, ticket} = GrpcLb.Native.begin_call(old, renewed)
      :ok = GrpcLb.complete(ticket, :ok)
      # Where the value is none of these, too.
      {:error, :no_backends} = GrpcLb.Native.begin_call_except(old, renewed, [:a], nil)
      {:ok, :a, ticket} = GrpcLb.Native.begin_call(old, renewed, "key")
      :ok = GrpcLb.complete(ticket, :ok)
      {0, 3} = {in_flight.(new), hd(GrpcLb.info(new).backends).successes}
      1 = in_flight.(old)
      :ok
    end)
  end

  @doc "What the run left, which has ended in the old build."
  def after_held_run({:holder, holder} = held) do
    send(holder, :drop)

    with_balancer(held, fn {lb, :ok} ->
      [%{in_flight: 0, successes: 5, failures: 0}] = GrpcLb.info(lb).backends
      :ok
    end)
  end

  @doc "Has the holder keep two balancers that have no room."
  def hold_full do
    # That they have none is logged, which is no part of the output of tests.
    :logger.set_primary_config(:level, :none)
    both = {full(:old), full(:left)}
    {:holder, spawn(fn -> hold(both) end)}
  end

  defp full(name) do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests: 0)
    lb
  end

  @doc "Who hears what a balancer of the old build decides, and one of the new build."
  def hear_of_both(holder) do
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    herald = Process.whereis(GrpcLb.Herald)
    with_balancer(holder, fn {old, _left} -> {:error, :overloaded} = GrpcLb.checkout(old) end)
    old = hear_of(:old)
    new = full(:new)
    {:error, :overloaded} = GrpcLb.checkout(new)
    heard = [old, hear_of(:new)]
    # It was not started again.
    ^herald = Process.whereis(GrpcLb.Herald)
    heard
  end

  defp hear_of(name) do
    receive do
      {:event, [:grpc_lb, :balancer, :overloaded], %{count: count}, %{name: ^name}} ->
        {name, count}
    after
      10_000 -> {name, :nothing_told}
    end
  end

  @doc "What is kept of both once nobody listens."
  def unheard(holder) do
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, GrpcLb.Herald)
    :ok = GrpcLb.Native.listen(false)
    with_balancer(holder, fn {_old, left} -> {:error, :overloaded} = GrpcLb.checkout(left) end)
    new = full(:new)
    {:error, :overloaded} = GrpcLb.checkout(new)
    # Twice, so that a tick that was under way is through.
    for _ <- 1..2, do: GrpcLb.Native.tick()
    GrpcLb.Native.events()
  end

  @doc "As `hold_call/0`, on a clock that is kept, too."
  def hold_clock do
    clock = GrpcLb.Clock.manual()
    detection = [consecutive_failures: 1, max_ejection_percent: 100]
    opts = [outlier_detection: detection, clock: clock]
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], opts)
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    {:holder, spawn(fn -> hold({lb, ticket, clock}) end)}
  end

  @doc "Goes on with them. The clock is one of the build that made it, and not of the one loaded now."
  def move_held_clock(holder) do
    with_balancer(holder, fn {lb, ticket, clock} ->
      :ok = GrpcLb.Clock.advance(clock, 5_000)
      :ok = GrpcLb.complete(ticket, {:error, :refused})
      %{backends: [%{ejected_until: 30_000}, _b]} = GrpcLb.info(lb)
      :ok = GrpcLb.Clock.advance(clock, 35_000)
      %{backends: [%{ejected_until: nil}, _b]} = GrpcLb.info(lb)
      {:error, :raised} = refused(fn -> GrpcLb.new(:random, [], clock: clock) end)
      :ok
    end)
  end

  def owner_dies(holder) do
    with_balancer(holder, fn lb ->
      owner = spawn(fn -> Process.sleep(:infinity) end)
      {:ok, _} = GrpcLb.reconcile(lb, [{:a, 1, owner: owner}])
      {:ok, 1} = GrpcLb.pick(lb)
      Process.exit(owner, :kill)
      eventually(fn -> GrpcLb.pick(lb) == {:error, :no_backends} end)
      GrpcLb.close(lb)
      {:error, :closed} = GrpcLb.pick(lb)
      :ok
    end)
  end

  def drop({:holder, holder}) do
    monitor = Process.monitor(holder)
    send(holder, :drop)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  def load_again do
    :code.purge(GrpcLb.Native)
    :code.load_file(GrpcLb.Native)
  end

  def pick_under_reloads(holder) do
    with_balancer(holder, fn lb ->
      pickers =
        for _ <- 1..8 do
          Task.async(fn -> for _ <- 1..20_000, do: {:ok, _} = GrpcLb.pick(lb) end)
        end

      for _ <- 1..20, do: {:reloaded, _} = reload(GrpcLb.Native)
      Task.await_many(pickers, :infinity)
      # An even number of picks: the rotation is where it was.
      :ok
    end)
  end

  # What IEx's `r` does, for a module whose source need not be compiled anew.
  defp reload(module) do
    :code.purge(module)
    {:module, ^module} = :code.load_file(module)
    {:reloaded, module}
  end

  def upgrade_to(directory) do
    true = :code.replace_path(:grpc_lb, String.to_charlist(Path.join(directory, "ebin")))
    load_again()
  end

  def purge, do: :code.purge(GrpcLb.Native)
  def library_path, do: :code.priv_dir(:grpc_lb)

  def delete_and_load(holder) do
    with_balancer(holder, fn lb ->
      :code.purge(GrpcLb.Native)
      true = :code.delete(GrpcLb.Native)
      :code.purge(GrpcLb.Native)
      {:module, GrpcLb.Native} = :code.load_file(GrpcLb.Native)
      {:error, :raised} = refused(fn -> GrpcLb.pick(lb) end)
      :refused
    end)
  end

  defp refused(fun) do
    fun.()
  rescue
    ArgumentError -> {:error, :raised}
  end
end
