# Not started otherwise: the package does not need it, and tests capture what others log.
{:ok, _} = Application.ensure_all_started(:logger)
GrpcLb.Test.Telemetry.install()
ExUnit.start()
