defmodule GrpcLb.Bench.Fields.Calls do
  @moduledoc false
  # The ways to count a call as in flight from before it to after it, around no call at all.

  @behaviour GrpcLb.Bench.Field

  alias GrpcLb.Bench.{Backends, Budget, Contender}
  alias GrpcLb.Bench.Contenders.{Counters, Ets, Monitored, Reference, Run, Ticket}
  alias GrpcLb.Bench.Fields.Picks

  @round_robin {:round_robin, cursor: :per_scheduler}
  @watched [policy: :peak_ewma, around: [outlier_detection: [consecutive_failures: 5]]]
  @killed "the count of a killed caller stays for ever"

  # To `:atomics.add_get/3`. The process of `run` has called before; a ticket may travel.
  @limits [
    run: 5.0,
    run_watched: 8.0,
    round_robin: 30.0,
    least_request: 30.0,
    peak_ewma: 30.0
  ]

  @impl true
  def title(_kind, backends), do: "a call in flight, #{Backends.count(backends)}"

  @impl true
  def cases(plan), do: for(size <- plan.call_sizes, do: {:pid, size})

  @impl true
  def processes, do: [1, Picks.crowd()]

  @impl true
  def contenders(:pid) do
    [
      Picks.unit(),
      Contender.new(
        :reference,
        ":atomics.new/2, a reference that is collected",
        Reference,
        :none,
        side: :scale
      ),
      ours(:run, "GrpcLb.run, round_robin", Run, policy: @round_robin),
      ours(:run_watched, "GrpcLb.run, peak_ewma, outlier detection", Run, @watched),
      ours(:round_robin, "checkout + complete, round_robin", Ticket, policy: @round_robin),
      ours(:least_request, "checkout + complete, least_request", Ticket, policy: :least_request),
      ours(:peak_ewma, "checkout + complete, peak_ewma", Ticket, policy: :peak_ewma),
      peer(:counters, "pick, :counters, try/after", Counters, @killed),
      peer(:ets, "pick, ETS counter, try/after", Ets, @killed),
      peer(:monitored, "pick, one process that counts and monitors", Monitored, nil)
    ]
  end

  @impl true
  def bases, do: [atomics: "x atomics", reference: "x reference"]

  @impl true
  def ratios(:pid, backends) do
    alone =
      for {key, limit} <- @limits do
        what = "call, #{Backends.count(backends)}: #{name(key)} / #{name(:atomics)}"
        {%Budget{what: what, limit: limit}, {key, 1}, {:atomics, 1}}
      end

    alone ++ for(key <- [:run, :run_watched], do: crowd(backends, key))
  end

  defp crowd(backends, key) do
    limit = 0.8 * System.schedulers_online()

    what =
      "call, #{Backends.count(backends)}: #{name(key)}, calls/s, #{Picks.crowd()} processes / 1"

    {%Budget{what: what, limit: limit, bound: :at_least}, {key, 1}, {key, Picks.crowd()}}
  end

  defp ours(key, title, module, opts), do: Contender.new(key, title, module, :any, opts: opts)

  defp peer(key, title, module, price) do
    opts = [policy: @round_robin]
    Contender.new(key, title, module, :any, side: :peer, price: price, opts: opts)
  end

  defp name(key), do: Enum.find(contenders(:pid), &(&1.key == key)).title
end
