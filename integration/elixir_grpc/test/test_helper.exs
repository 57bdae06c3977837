# What this suite shares with the package's own.
for name <- ~w(eventually workers) do
  Code.require_file("../../../test/support/#{name}.ex", __DIR__)
end

# What elixir-grpc logs of connections that come, go and are killed, which is what is tested.
Logger.configure(level: :none)

ExUnit.start()
