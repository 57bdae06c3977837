# Whatever other tests leave to be erased, what a test has interned is.
Application.put_env(:grpc_lb, :interned, pages: 1_000_000, words: 0xFFFFFFFF)

# Tests of TLS and of the dashboard use them, and from Elixir 1.15 on Mix takes what is no dependency from
# the code path.
if function_exported?(Mix, :ensure_application!, 1),
  do: Enum.each([:inets, :public_key, :ssl], &apply(Mix, :ensure_application!, [&1]))

# Not started otherwise: the package does not need it, and tests capture what others log.
{:ok, _} = Application.ensure_all_started(:logger)

# The first tests run while the others are compiled, and nobody is to wait then for a module to be loaded: on a busy
# machine that takes seconds.
for app <- [:kernel, :stdlib, :elixir, :logger, :grpc_lb],
    {:ok, modules} = :application.get_key(app, :modules),
    do: :ok = :code.ensure_modules_loaded(modules)

GrpcLb.Test.Telemetry.install()

# As long as a message, and a test, may take on a busy machine; a test that waits in vain fails a little later.
# Connections log what fails, which is what many tests are about.
ExUnit.start(assert_receive_timeout: 10_000, timeout: 300_000, capture_log: true)
