# The benchmark of the pick: `mix run bench/run.exs [--quick]`, in the prod environment.
#
# Everything that is timed is compiled: the modules below are required, never evaluated.

for name <-
      ~w(channel backends contender elixir_grpc contenders pool_contenders keyed policy_contenders
               call_contenders rounds stats picks tail reconcile weights tables memory budgets pool_budgets
               policy_budgets machine json table bench) do
  Code.require_file("support/#{name}.ex", __DIR__)
end

GrpcLb.Bench.main(System.argv(), Path.join(__DIR__, "results/latest.json"))
