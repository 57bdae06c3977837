# What this suite shares with the package's own.
for name <- ~w(eventually workers) do
  Code.require_file("../../../test/support/#{name}.ex", __DIR__)
end

for {variant, missing} <- GrpcLbElixirGrpc.Variants.left_out() do
  IO.puts(
    "grpc #{Application.spec(:grpc, :vsn)} does not have #{inspect(missing)}, which the patch " <>
      "#{variant} changes: what it makes of GRPC.Client.Connection is not tested."
  )
end

# What elixir-grpc logs of connections that come, go and are killed, which is what is tested.
Logger.configure(level: :none)

ExUnit.start()
