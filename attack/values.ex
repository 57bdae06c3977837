defmodule GrpcLb.Attack.Values do
  @moduledoc """
  Arguments for a function: what its spec says, most of the time, with things that others use, and any term
  in some of the places.

  Options are those that the documentation of the function or of its module names, so that a new one is
  tried, too. What their values are is said here, or guessed.
  """

  alias GrpcLb.Attack.{Hostile, Rogue, Stash, Types}

  @pools [:pool_one, :pool_two, :pool_three, GrpcLb.Attack.Pool]
  @names [:one, "two", {:three, 3}]
  @policies GrpcLb.Policy.names()

  def pools, do: @pools
  def names, do: @names

  @doc "The arguments of one call. `function` is an entry of the catalogue."
  def arguments(function) do
    any = any(function)

    arguments =
      case function.spec do
        nil ->
          for _ <- 1..function.arity//1, do: any.()

        clauses ->
          clause = Enum.random(clauses)
          special = &special(&1, function)
          for type <- clause.arguments, do: Types.generate(type, clause, special, any)
      end

    if arguments != [] and :rand.uniform(12) == 1,
      do: List.replace_at(arguments, :rand.uniform(length(arguments)) - 1, wrong(any)),
      else: arguments
  end

  defp wrong(any) do
    case :rand.uniform(50) do
      1 -> Hostile.large()
      n when n <= 12 -> Hostile.misplaced()
      _ -> any.()
    end
  end

  # Terms that cannot be copied are for functions that promise to refuse them.
  defp any(%{module: module}) when module in [GrpcLb, GrpcLb.Native] do
    fn -> if :rand.uniform(200) == 1, do: Hostile.shared(), else: Hostile.term() end
  end

  defp any(_function), do: &Hostile.term/0

  defp special({module, name, arity}, function) do
    case {module, name, arity} do
      {_, :balancer, 0} ->
        {:ok, Stash.get(:balancer, &balancer/0)}

      {_, :ticket, 0} ->
        {:ok, ticket()}

      {_, :waiter, 0} ->
        {:ok, Stash.get(:waiter, &make_ref/0)}

      {_, :clock, 0} ->
        {:ok, clock()}

      {GrpcLb.Clock, :t, 0} ->
        {:ok, clock()}

      {GrpcLb.Policy, :t, 0} ->
        {:ok, policy()}

      {GrpcLb.Backend, :form, 0} ->
        {:ok, backend()}

      {GrpcLb.Connection, kind, 0} when kind in [:t, :ref, :name] ->
        {:ok, connection(kind)}

      {GrpcLb.Pool, :name, 0} ->
        {:ok, Enum.random(@pools)}

      {GrpcLb.ElixirGrpc, :state, 0} ->
        {:ok, Stash.get(:state, &state/0)}

      {GrpcLb.ElixirGrpc, :channel, 0} ->
        {:ok, channel()}

      {:elixir, :keyword, _} ->
        {:ok, options(function)}

      {:elixir, :timeout, 0} ->
        {:ok, milliseconds()}

      _other ->
        :none
    end
  end

  defp special({:argument, :id}, _function), do: {:ok, id()}
  defp special({:argument, :target}, _function), do: {:ok, target()}
  defp special({:argument, :key}, _function), do: {:ok, key()}
  defp special({:builtin, :timeout}, _function), do: {:ok, milliseconds()}
  defp special({:builtin, :pid}, _function), do: {:ok, pid()}
  defp special({:builtin, :fun}, _function), do: {:ok, Rogue.run()}
  defp special(_other, _function), do: :none

  @doc "A new balancer, of which there are not many."
  def balancer do
    {:ok, lb} = GrpcLb.new(Enum.random(@policies), backends())
    Stash.put(:balancer, lb)
    lb
  rescue
    # Two of the backends are the same.
    ArgumentError -> make_ref()
  end

  defp ticket do
    case :rand.uniform(3) do
      1 -> Stash.take(:ticket, &checked_out/0)
      2 -> Stash.get(:ticket, &checked_out/0)
      3 -> checked_out()
    end
  end

  defp checked_out do
    with lb <- Stash.get(:balancer, &balancer/0),
         {:ok, _value, ticket} <- GrpcLb.checkout(lb) do
      ticket
    else
      _none -> make_ref()
    end
  rescue
    # What was in the stash is of another build, or none.
    ArgumentError -> make_ref()
  end

  defp clock, do: Stash.get(:clock, fn -> GrpcLb.Clock.manual() end)

  defp connection(:t) do
    Stash.get(:connection, fn ->
      case GrpcLb.Connection.handle(Enum.random(@names)) do
        {:ok, handle} ->
          handle

        {:error, :not_found} ->
          %{__struct__: GrpcLb.Connection, name: :none, balancer: balancer()}
      end
    end)
  end

  defp connection(:name), do: Enum.random(@names)
  defp connection(:ref), do: connection(Enum.random([:t, :name]))

  @doc "Some backends, whose ids are few."
  def backends, do: for(_ <- 1..:rand.uniform(8), do: backend())

  def backend do
    id =
      Enum.random([:rand.uniform(30), "backend #{:rand.uniform(30)}", {:id, :rand.uniform(30)}])

    case :rand.uniform(6) do
      1 -> id
      2 -> {id, Hostile.term()}
      3 -> {id, {:value, id}, owner: pid()}
      4 -> {id, :rand.bytes(100), backend_options()}
      5 -> struct(GrpcLb.Backend, id: id, value: id, weight: :rand.uniform(5))
      6 -> {id, id}
    end
  end

  # Of few, so that it is one that is listed.
  defp id do
    n = :rand.uniform(30)
    Enum.random([n, "backend #{n}", {:id, n}])
  end

  defp key, do: Enum.random(["user 7", 7, {:user, 7}, nil, Hostile.term()])

  defp backend_options do
    for {name, values} <- [
          weight: [0, 1, 7, 0xFFFFFFFF],
          state: [:ready, :ready, :draining, :connecting, :transient_failure],
          priority: [0, 1, 2],
          locality: ["a", "b", nil],
          owner: [self(), nil],
          hash_key: ["k", nil]
        ],
        :rand.uniform(4) == 1,
        do: {name, Enum.random(values)}
  end

  @doc "A policy, with options now and then."
  def policy do
    case Enum.random(@policies) do
      :ring_hash -> {:ring_hash, min_ring_size: :rand.uniform(2_000)}
      :maglev -> {:maglev, table_size: Enum.random([251, 5_003])}
      :round_robin -> {:round_robin, cursor: Enum.random([:shared, :per_scheduler, :batched])}
      :weighted_round_robin -> {:weighted_round_robin, weights: Enum.random([:static, :reported])}
      :least_request -> {:least_request, choices: Enum.random([2, 5, :all])}
      name -> name
    end
  end

  # A process that lives for a while. Those of the library are for the killer.
  defp pid do
    case :rand.uniform(3) do
      1 ->
        self()

      _ ->
        Stash.get(:pid, fn ->
          pid = Rogue.member()
          Stash.put(:pid, pid)
          pid
        end)
    end
  end

  defp state do
    {:ok, state} = GrpcLb.ElixirGrpc.init(:round_robin, channels: [channel()])
    state
  end

  defp channel do
    %{
      host: "10.0.0.#{:rand.uniform(5)}",
      port: Enum.random([443, 50_051]),
      adapter_payload: Enum.random([%{conn_pid: self()}, nil, %{}]),
      ref: make_ref()
    }
  end

  # Short, so that nobody waits for long who is not killed.
  defp milliseconds, do: Enum.random([0, 1, 5, 20])

  @doc "Options of a function: those that must be there, and some of the others."
  def options(%{options: [], module: _}), do: Enum.random([[], [], [{:option, 1}]])

  def options(function) do
    most = Enum.random([0, 0, 1, 3])
    some = for name <- function.options, :rand.uniform(length(function.options)) <= most, do: name
    for name <- Enum.uniq(function.required ++ some), do: {name, option(name, function)}
  end

  defp option(name, function) do
    if :rand.uniform(15) == 1 and name not in [:transport, :resolver],
      do: Hostile.term(),
      else: right(name, function)
  end

  @rogue {GrpcLb.Attack.Rogue, []}

  defp right(:transport, _), do: @rogue
  defp right(:resolver, _), do: @rogue
  defp right(:target, _), do: target()
  defp right(:policy, _), do: policy()
  defp right(:name, %{module: GrpcLb.Pool}), do: Enum.random(@pools)
  defp right(:name, _), do: Enum.random([nil | @names])
  defp right(:key, _), do: key()
  defp right(:owner, _), do: pid()
  defp right(:clock, _), do: clock()
  defp right(:seed, _), do: :rand.uniform(100)
  defp right(:channels, _), do: for(_ <- 1..:rand.uniform(4), do: channel())
  defp right(:checkout_wait, _), do: Enum.random([0, 5, 20])
  defp right(:wait_for_ready, _), do: Enum.random([false, 0, 5, 20])
  defp right(:max_requests, _), do: Enum.random([nil, 0, 1, 50])
  defp right(:max_requests_per_backend, _), do: Enum.random([nil, 0, 1, 50])
  defp right(:slow_start, _), do: [window: Enum.random([1, 50, 60_000])]
  defp right(:subset, _), do: [size: :rand.uniform(4), seed: 1]
  defp right(:remember, _), do: Enum.random([0, 10, 60_000])
  defp right(:load_report, _), do: report()
  defp right(:workers, _), do: Enum.random([0, 2])
  defp right(:scope, _), do: :local

  defp right(:outcome, _),
    do: Rogue.outcome()

  defp right(:backoff, _), do: [base: :rand.uniform(20), max: 50]

  defp right(:outlier_detection, _) do
    Enum.random([
      [],
      [consecutive_failures: 1, max_ejection_percent: 100, base_ejection_time: 5, interval: 10],
      [failure_percentage: [threshold: 50, minimum_hosts: 1, request_volume: 1], interval: 5],
      [success_rate: [minimum_hosts: 1, request_volume: 1], interval: 5]
    ])
  end

  defp right(name, function) do
    if name |> Atom.to_string() |> String.ends_with?(["timeout", "interval", "wait", "time"]),
      do: milliseconds() + 1,
      else: Enum.random([1, 50, true, false, nil, 0.5, [] | function.atoms])
  end

  defp target do
    Enum.random([
      :any,
      "ipv4:10.0.0.1:443,10.0.0.2:443",
      {:static, Rogue.addresses()},
      "dns:///nowhere.invalid:1",
      Hostile.term()
    ])
  end

  @doc "What a server says of its load."
  def report do
    case :rand.uniform(5) do
      1 -> %{cpu_utilization: :rand.uniform(), rps_fractional: 100.0}
      2 -> %{named_metrics: %{"a" => 1.0}, utilization: %{"b" => 0.5}}
      3 -> <<0x09, 0.5::float-little>>
      4 -> :rand.bytes(:rand.uniform(60))
      5 -> Hostile.term()
    end
  end
end
