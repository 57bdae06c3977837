defmodule GrpcLb.Test.Peer.Leaks do
  @moduledoc "What `GrpcLb.Stress.LeakTest` has done in a VM of its own."

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Workers

  def inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    # What was interned waits for that up to a minute.
    GrpcLb.Eraser.erase()

    %{
      counts: GrpcLb.Native.live_counts(),
      ets: length(:ets.all()),
      persistent_terms: :persistent_term.info().count,
      resident: resident()
    }
  end

  # What the operating system counts, for the VM does not see what Rust allocates.
  defp resident do
    case File.read("/proc/self/statm") do
      {:ok, statm} -> statm |> String.split() |> Enum.at(1) |> String.to_integer()
      {:error, _} -> 0
    end
  end

  def close_cycles do
    for i <- 1..500 do
      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, {:value, i}}, {:b, %{i => self()}}])
      {:ok, _} = GrpcLb.pick(lb)
      {:ok, _} = GrpcLb.reconcile(lb, [{:b, %{i => self()}}, {:c, [i]}])
      {:ok, _} = GrpcLb.pick(lb)
      :ok = GrpcLb.close(lb)
    end

    :ok
  end

  def call_cycles do
    policies = [
      :least_request,
      :peak_ewma,
      {:weighted_round_robin, weights: :reported, weight_update_period: 100}
    ]

    report = %{cpu_utilization: 0.5, rps_fractional: 10, named_metrics: %{"queue" => 3}}

    for i <- 1..166, policy <- policies do
      {:ok, lb} =
        GrpcLb.new(policy, [{:a, {:value, i}}, {:b, %{i => i}}],
          outlier_detection: [interval: 1, consecutive_failures: 1],
          slow_start: [window: 10],
          panic_threshold: 50,
          max_requests: 10
        )

      {:ok, _value, ended} = GrpcLb.checkout(lb)
      {:ok, _value, _forgotten} = GrpcLb.checkout(lb)
      :ok = GrpcLb.complete(ended, {:error, :failed}, load_report: report)
      :ok = GrpcLb.report(lb, :a, report)
      :ok = GrpcLb.report(lb, :a, "malformed")
      :ok = GrpcLb.set_state(lb, :b, :draining)
      {:ok, _changes} = GrpcLb.reconcile(lb, [{:b, [i]}])
    end

    :ok
  end

  def layered_cycles do
    for i <- 1..250, policy <- [:round_robin, :ring_hash] do
      backends =
        for n <- 1..6,
            do: {n, {:value, i}, priority: rem(n, 2), locality: "zone #{rem(n + i, 3)}"}

      {:ok, lb} =
        GrpcLb.new(policy, backends,
          subset: [size: 2],
          overprovisioning_factor: 140,
          locality_weights: %{"zone 0" => 2}
        )

      {:ok, _value} = GrpcLb.pick(lb)
      {:ok, _value, _forgotten} = GrpcLb.checkout(lb)
      :ok = GrpcLb.set_state(lb, 1, :transient_failure)

      {:ok, _changes} =
        GrpcLb.reconcile(lb, for({id, _, _} <- backends, do: {id, [i], priority: id}))

      {:ok, _changes} = GrpcLb.remove(lb, [1, 2])
      if rem(i, 2) == 0, do: :ok = GrpcLb.close(lb)
    end

    :ok
  end

  def drop_cycles do
    for i <- 1..500 do
      {:ok, lb} = GrpcLb.new({:round_robin, cursor: :per_scheduler}, [{:a, {:value, i}}, :b])
      {:ok, _} = GrpcLb.pick(lb)
    end

    :ok
  end

  @doc """
  The most threads that the library had at once while so many large balancers, dropped at once, were
  freed.
  """
  def most_threads_of_dropped(balancers) do
    backends = for i <- 1..1_001, do: {i, i}

    dropper =
      spawn(fn ->
        _lbs = for _ <- 1..balancers, do: elem(GrpcLb.new(:round_robin, backends), 1)
        receive do: (:die -> :ok)
      end)

    eventually(fn -> GrpcLb.Native.live_counts().balancers == balancers end)
    send(dropper, :die)
    most_threads(0)
  end

  # It looks once more when all have gone: a thread waits for more work, for seconds, before it ends.
  defp most_threads(most) do
    left = GrpcLb.Native.live_counts().balancers
    most = max(most, threads())
    if left > 0, do: most_threads(most), else: most
  end

  defp threads do
    names = for task <- File.ls!("/proc/self/task"), do: File.read("/proc/self/task/#{task}/comm")
    Enum.count(names, &(&1 == {:ok, "grpc_lb\n"}))
  end

  def changed_cycles do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:stays, {:value}}], on_owner_death: :remove)

    for i <- 1..500 do
      mortal = Workers.idle()
      backends = [{:a, {:value, i}}, {{:b, i}, self()}, {:mortal, {i}, owner: mortal}]
      {:ok, %{added: 3}} = GrpcLb.add(lb, backends)
      {:ok, _} = GrpcLb.pick(lb)
      {:ok, %{kept: 4}} = GrpcLb.add(lb, [{:a, {:other, i}}])
      :ok = Workers.kill([mortal])
      {:ok, _} = GrpcLb.pick(lb)
      {:ok, _} = GrpcLb.remove(lb, [:a, {:b, i}, :mortal])
    end

    1 = length(GrpcLb.info(lb).backends)
    :ok
  end

  def refused_cycles do
    {:ok, lb} = GrpcLb.new(:random, [{:a, {:value}}])

    for i <- 1..500 do
      {:error, :raised} = try_new([{:a, {:value, i}}, {:a, {:other}}])
      {:error, :raised} = try_reconcile(lb, [{:b, {:value, i}}, {:b, {:other}}])
    end

    :ok
  end

  defp try_new(backends) do
    GrpcLb.new(:random, backends)
  rescue
    ArgumentError -> {:error, :raised}
  end

  defp try_reconcile(lb, backends) do
    GrpcLb.reconcile(lb, backends)
  rescue
    ArgumentError -> {:error, :raised}
  end

  def owned_cycles do
    for i <- 1..100 do
      test = self()

      {owner, monitor} =
        spawn_monitor(fn ->
          backends = for id <- 1..10, do: {id, {:value, i}, owner: self()}
          {:ok, lb} = GrpcLb.new(:round_robin, backends, owner: self())

          pickers =
            for _ <- 1..4 do
              spawn_link(fn ->
                Stream.repeatedly(fn -> GrpcLb.pick(lb) end) |> Stream.run()
              end)
            end

          send(test, {:started, pickers})
          Process.sleep(:infinity)
        end)

      pickers =
        receive do
          {:started, pickers} -> pickers
        end

      monitors = [monitor | Enum.map(pickers, &Process.monitor/1)]
      Process.exit(owner, :kill)

      for monitor <- monitors do
        receive do
          {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
        end
      end
    end

    :ok
  end

  # Pickers and writers that die wherever they are.
  def killed_caller_cycles do
    {:ok, lb} = GrpcLb.new(:round_robin, [{:a, Map.new(1..50, &{&1, "#{&1}"})}, :b, :c])
    kill_callers(lb)
  end

  def kill_callers(lb) do
    forever = fn forever, fun ->
      fun.()
      forever.(forever, fun)
    end

    pick = fn -> {:ok, _} = GrpcLb.pick(lb) end

    write = fn ->
      {:ok, _} = GrpcLb.reconcile(lb, [:b, :c, {:d, ~c"some text"}])
      {:ok, _} = GrpcLb.reconcile(lb, [{:a, %{}}, :b])
      GrpcLb.info(lb)
    end

    for _ <- 1..100 do
      pickers = for _ <- 1..10, do: spawn(fn -> forever.(forever, pick) end)
      writers = for _ <- 1..3, do: spawn(fn -> forever.(forever, write) end)
      for _ <- 1..20, do: GrpcLb.pick(lb)
      Workers.kill(pickers ++ writers)
    end

    :ok
  end

  # A large value, so that a pick is often under way when the balancer is closed.
  def values_after_busy_close do
    {:ok, lb} = GrpcLb.new(:pick_first, [{:a, Map.new(1..20_000, &{&1, &1})}])

    Workers.picking_during(4, fn -> elem(GrpcLb.pick(lb), 0) end, fn -> GrpcLb.close(lb) end)

    # A pick that the machine held up for longer than `close` waits has left the last snapshot.
    eventually(fn ->
      :ok = GrpcLb.close(lb)
      GrpcLb.Native.live_counts().values == 0
    end)

    {:error, :closed} = GrpcLb.pick(lb)
    GrpcLb.Native.live_counts().values
  end

  # An owner is not monitored any more when nothing is left that it owns.
  def monitors_of_an_owner do
    owner = Workers.idle()
    monitors = fn -> length(elem(Process.info(owner, :monitored_by), 1)) end
    {:ok, lb} = GrpcLb.new(:random, [{:a, 1, owner: owner}, {:b, 2, owner: owner}])
    one = monitors.()
    {:ok, _} = GrpcLb.reconcile(lb, [{:b, 2, owner: owner}])
    still_one = monitors.()
    {:ok, _} = GrpcLb.reconcile(lb, [:b])
    reconciled_away = monitors.()
    {:ok, other} = GrpcLb.new(:random, [{:a, 1, owner: owner}], owner: owner)
    :ok = GrpcLb.close(other)
    closed = monitors.()
    spawn_and_drop(fn -> GrpcLb.new(:random, [{:a, 1, owner: owner}]) end)
    eventually(fn -> monitors.() == 0 end)
    Workers.kill([owner])
    [one, still_one, reconciled_away, closed]
  end

  defp spawn_and_drop(fun) do
    {pid, monitor} = spawn_monitor(fun)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end
  end

  def environments_of(backends) do
    {:ok, lb} = GrpcLb.new(:random, backends)
    environments = GrpcLb.Native.live_counts().values
    GrpcLb.close(lb)
    environments
  end

  def values_after_close do
    {:ok, lb} = GrpcLb.new(:round_robin, for(i <- 1..100, do: {i, {:value, i}}))
    100 = GrpcLb.Native.live_counts().values
    GrpcLb.close(lb)
    values = GrpcLb.Native.live_counts().values
    {:error, :closed} = GrpcLb.pick(lb)
    values
  end
end
