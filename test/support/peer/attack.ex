defmodule GrpcLb.Test.Peer.Attack do
  @moduledoc "What `GrpcLb.Stress.AttackTest` has done in a VM of its own."

  import GrpcLb.Test.Eventually

  def attack(calls, seed) do
    workers = 4

    1..workers
    |> Enum.map(fn worker ->
      Task.async(fn ->
        :rand.seed(:exsss, {seed, worker, 0})
        attack(div(calls, workers), %{}, [make_ref()])
      end)
    end)
    |> Task.await_many(:infinity)
    |> Enum.reduce(&Map.merge(&1, &2, fn _outcome, one, other -> one + other end))
  end

  defp attack(0, outcomes, _balancers), do: outcomes

  defp attack(calls, outcomes, balancers) do
    {outcome, balancers} = call(:rand.uniform(18), balancers)
    attack(calls - 1, Map.update(outcomes, outcome, 1, &(&1 + 1)), balancers)
  end

  defp call(1, balancers) do
    module = Enum.random([GrpcLb, GrpcLb.Native])
    {outcome, result} = guarded(fn -> new(module) end)

    case result do
      # A few, so that some get old and many are dropped.
      {:ok, lb} -> {outcome, Enum.take([lb | balancers], 5)}
      _other -> {outcome, balancers}
    end
  end

  defp call(kind, balancers) do
    lb = if :rand.uniform(20) == 1, do: term(2), else: Enum.random(balancers)
    module = Enum.random([GrpcLb, GrpcLb.Native])

    {outcome, _result} =
      guarded(fn ->
        case kind do
          2 -> module.reconcile(lb, backends())
          3 -> module.info(lb)
          4 -> if :rand.uniform(10) == 1, do: module.close(lb), else: module.pick(lb)
          5 -> apply(module, Enum.random([:pick, :info, :close]), [term(2)])
          6 -> GrpcLb.Native.live_counts()
          7 -> module.add(lb, backends())
          8 -> module.remove(lb, Enum.random([Enum.to_list(1..:rand.uniform(9)), term(2)]))
          9 -> checkout_and_complete(module, lb)
          10 -> module.complete(term(2), outcome(), report())
          11 -> module.report(lb, :rand.uniform(20), report())
          12 -> module.set_state(lb, :rand.uniform(20), state())
          13 -> if module == GrpcLb, do: GrpcLb.run(lb, &hd/1), else: module.tick()
          14 -> module.checkout(lb)
          15 -> module.configure(lb, changes(module))
          16 -> if module == GrpcLb, do: GrpcLb.size(lb), else: module.summary(lb)
          _ -> module.pick(lb)
        end
      end)

    {outcome, balancers}
  end

  defp new(GrpcLb), do: GrpcLb.new(policy(), backends(), options())

  defp new(GrpcLb.Native) do
    GrpcLb.Native.new(policy(), backends(), settings())
  end

  defp checkout_and_complete(module, lb) do
    with {:ok, _value, ticket} <- module.checkout(lb) do
      if :rand.uniform(4) == 1, do: spawn(fn -> GrpcLb.complete(ticket, :ok) end)
      if :rand.uniform(4) == 1, do: GrpcLb.complete(ticket, :cancelled)
      module.complete(ticket, outcome(), report())
    end
  end

  defp outcome, do: Enum.random([:ok, :error, {:error, term(1)}, :cancelled, term(1)])

  defp state do
    Enum.random([:ready, :ready, :connecting, :transient_failure, :draining, :down, term(1)])
  end

  # Reports, and what GrpcLb and GrpcLb.Native take in their places.
  defp report do
    Enum.random([
      nil,
      [],
      [load_report: term(2)],
      [load_report: %{rps_fractional: 100, cpu_utilization: term(0)}],
      <<0x09, 0.5::float-little>>,
      :rand.bytes(:rand.uniform(40)),
      %{cpu_utilization: 0.5, rps_fractional: 7, named_metrics: %{"a" => 1}},
      %{cpu_utilization: 0.5, rps_fractional: 7.0, request_cost: %{term(0) => term(0)}},
      %{term(0) => 0.5, utilization: term(1)},
      term(2)
    ])
  end

  defp guarded(fun) do
    case fun.() do
      {:error, _reason} = error -> {:error, error}
      result -> {:ok, result}
    end
  rescue
    error in [ArgumentError, FunctionClauseError] -> {:raised, error}
  end

  defp policy do
    Enum.random([
      :round_robin,
      {:round_robin, cursor: :per_scheduler},
      {:round_robin, %{cursor: :shared, start: :random, on_reconcile: :reset}},
      {:round_robin, %{cursor: :per_scheduler, start: :first, on_reconcile: :keep}},
      {:pick_first, %{shuffle: true}},
      :random,
      :least_request,
      {:least_request, %{choices: 3, bias: 0.5}},
      {:least_request, %{choices: term(0), bias: term(0)}},
      :peak_ewma,
      {:peak_ewma, decay: 1, penalty: 0},
      {:weighted_round_robin, weights: :reported, blackout_period: 0},
      {:weighted_round_robin, %{weights: :static, cursor: :per_scheduler}},
      {:weighted_round_robin, %{reported() | reports: :out_of_band}},
      {:weighted_round_robin, Map.put(reported(), Enum.random(Map.keys(reported())), term(1))},
      term(2)
    ])
  end

  defp reported do
    opts = [weights: :reported, blackout_period: 0, metric_names: ["named_metrics.a"]]
    {:weighted_round_robin, options} = GrpcLb.Policy.to_native({:weighted_round_robin, opts})
    options
  end

  defp options do
    Enum.random([
      [],
      [owner: self()],
      [on_owner_death: :remove],
      [owner: owner()],
      [max_requests: :rand.uniform(20)],
      [max_requests_per_backend: :rand.uniform(3)],
      [panic_threshold: 50, slow_start: [window: 10]],
      [outlier_detection: [interval: 1, consecutive_failures: 1, max_ejection_percent: 100]],
      [outlier_detection: [interval: term(0), failure_percentage: term(1)]],
      term(1)
    ])
  end

  defp changes(GrpcLb) do
    case Enum.random([options(), [policy: policy()]]) do
      [_ | _] = opts -> Enum.reject(opts, &match?({:owner, _}, &1))
      other -> other
    end
  end

  defp changes(GrpcLb.Native) do
    Enum.random([settings(), %{policy: policy()}, %{term(0) => term(1)}])
  end

  defp settings do
    case options() do
      [_ | _] = opts ->
        case guarded(fn -> settings(opts) end) do
          {:ok, settings} -> Map.put(settings, Enum.random(Map.keys(settings)), term(1))
          {:raised, _error} -> term(2)
        end

      _other ->
        settings([])
    end
  end

  defp settings(opts), do: GrpcLb.Settings.to_native(opts, {:random, %{}})

  defp owner do
    Enum.random([nil, self(), spawn(fn -> :ok end), term(1)])
  end

  defp backends do
    case :rand.uniform(8) do
      1 -> term(3)
      2 -> [backend() | term(1)]
      _ -> for(_ <- 1..:rand.uniform(6), do: backend())
    end
  end

  defp backend do
    case :rand.uniform(8) do
      1 -> {term(2), term(3)}
      2 -> {term(1), term(2), [weight: term(0)]}
      3 -> {term(1), term(2), owner: spawn(fn -> :ok end)}
      4 -> {term(1), term(2), %{owner: term(0), weight: term(0)}}
      5 -> term(3)
      _ -> {:rand.uniform(20), term(2), %{}}
    end
  end

  defp term(0) do
    Enum.random([
      :atom,
      nil,
      true,
      0,
      1,
      -1,
      1.5,
      0x100000000,
      0x1000000000000000000,
      "",
      "text",
      :binary.copy("big", 100),
      <<1::1>>,
      [],
      {},
      self(),
      make_ref(),
      &is_atom/1
    ])
  end

  defp term(depth) do
    case :rand.uniform(7) do
      1 -> for(_ <- 1..:rand.uniform(4), do: term(depth - 1))
      2 -> [term(depth - 1) | term(depth - 1)]
      3 -> {term(depth - 1), term(depth - 1)}
      4 -> {term(depth - 1), term(depth - 1), term(depth - 1), term(depth - 1)}
      5 -> %{term(depth - 1) => term(depth - 1)}
      6 -> fn -> depth end
      7 -> term(0)
    end
  end

  def large_terms do
    deep = Enum.reduce(1..1_000_000, [], fn _, term -> [term] end)
    wide = List.to_tuple(Enum.to_list(1..1_000_000))
    binary = :binary.copy(<<0>>, 50_000_000)
    {:ok, lb} = GrpcLb.new(:round_robin, [{deep, 1}, {2, deep}, {3, wide}, {4, binary}])
    {:ok, 1} = GrpcLb.pick(lb)
    {:ok, ^deep} = GrpcLb.pick(lb)
    {:ok, ^wide} = GrpcLb.pick(lb)
    {:ok, ^binary} = GrpcLb.pick(lb)
    assert_raised(fn -> GrpcLb.pick(deep) end)
    assert_raised(fn -> GrpcLb.Native.new(wide, deep, wide) end)
    :ok
  end

  defp assert_raised(fun) do
    {:raised, %ArgumentError{message: message}} = guarded(fun)
    true = byte_size(message) < 500
  end

  @doc "The native calls of a long list that were handed over to a dirty scheduler."
  def large_list do
    backends = for id <- 1..100_000, do: {id, "backend #{id}", %{}}

    caller =
      Task.async(fn ->
        receive do
          :go -> use_list(backends)
        end
      end)

    :erlang.trace(caller.pid, true, [:running, :scheduler_id])
    send(caller.pid, :go)
    Task.await(caller, :infinity)
    delivered = :erlang.trace_delivered(caller.pid)

    receive do
      {:trace_delivered, _pid, ^delivered} -> :ok
    end

    drop_a_large_balancer(backends)
    # It may leave a dirty scheduler and come back to it in one call.
    Enum.uniq(on_dirty_schedulers(caller.pid))
  end

  defp use_list(backends) do
    {:ok, lb} = GrpcLb.Native.new({:random, %{}}, backends, settings([]))
    {:ok, %{kept: 100_000}} = GrpcLb.Native.reconcile(lb, backends)
    {:ok, %{removed: 99_999}} = GrpcLb.Native.reconcile(lb, Enum.take(backends, 1))
    {:ok, %{added: 99_999}} = GrpcLb.Native.add(lb, backends)
    100_000 = length(GrpcLb.Native.info(lb).backends)
    :ok = GrpcLb.Native.close(lb)
  end

  # The calls that went on where they had begun are not among them. Dirty schedulers have no number.
  defp on_dirty_schedulers(pid) do
    receive do
      {:trace, ^pid, :in, {GrpcLb.Native, function, _arity}, 0} ->
        [function | on_dirty_schedulers(pid)]

      {:trace, ^pid, _in_or_out, _function, _scheduler} ->
        on_dirty_schedulers(pid)
    after
      0 -> []
    end
  end

  # Calls whose arguments are erased under them: a literal is freed when no heap refers to it.
  def erased_arguments do
    for i <- 1..500, call <- [:new, :reconcile, :add, :remove, :info, :close, :pick] do
      key = {__MODULE__, call, i}
      put(key)
      :erlang.garbage_collect()
      {lb, list} = :persistent_term.get(key)
      :persistent_term.erase(key)
      call(call, lb, list)
    end

    :erlang.garbage_collect()
    eventually(fn -> GrpcLb.Native.live_counts().balancers == 0 end)
  end

  defp put(key) do
    list = for id <- 1..50, do: {id, {:value, id}, %{}}
    {:ok, lb} = GrpcLb.Native.new({:random, %{}}, list, settings([]))
    :persistent_term.put(key, {lb, list})
  end

  defp call(:new, _lb, list) do
    {:ok, _lb} = GrpcLb.Native.new({:random, %{}}, list, settings([]))
  end

  defp call(:reconcile, lb, list), do: {:ok, %{kept: 50}} = GrpcLb.Native.reconcile(lb, list)
  defp call(:add, lb, list), do: {:ok, %{added: 0}} = GrpcLb.Native.add(lb, list)
  defp call(:remove, lb, list), do: {:ok, %{removed: 0}} = GrpcLb.Native.remove(lb, list)
  defp call(:info, lb, _list), do: %{closed: false} = GrpcLb.Native.info(lb)
  defp call(:close, lb, _list), do: :ok = GrpcLb.Native.close(lb)
  defp call(:pick, lb, _list), do: {:ok, {:value, _id}} = GrpcLb.Native.pick(lb)

  # Freed by the garbage collection of its holder.
  defp drop_a_large_balancer(backends) do
    {pid, monitor} =
      spawn_monitor(fn ->
        {:ok, _lb} = GrpcLb.Native.new({:random, %{}}, backends, settings([]))
      end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end

    eventually(fn -> GrpcLb.Native.live_counts().values == 0 end)
  end
end
