# The campaign: `SECONDS=600 SEED=1 mix run attack/run.exs`, in the test environment.
#
# Everything that attacks is compiled: the modules below are required, never evaluated.

for name <-
      ~w(ledger screen stash hostile types rogue values catalogue burst session actor witness builds killer remains campaign) do
  Code.require_file("#{name}.ex", __DIR__)
end

GrpcLb.Attack.Campaign.main(System.get_env())
