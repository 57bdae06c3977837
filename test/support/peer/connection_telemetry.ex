defmodule GrpcLb.Test.Peer.ConnectionTelemetry do
  @moduledoc "What `GrpcLb.Connection.TelemetryTest` has done in a VM that has no `:telemetry`."

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Connections, Loopback, Telemetry}

  @doc "Uses a connection without `:telemetry`, and then with it."
  def without_and_with do
    server = Loopback.start()
    :non_existing = :code.which(:telemetry)
    use_connection(server)
    :ok = Telemetry.install()
    :ok = Telemetry.attach_all()
    use_connection(server)
    events()
  end

  defp use_connection(server) do
    {:ok, handle} = Connection.connect(Connections.static([server]), Connections.opts())
    {:ok, _} = Connections.echo(handle)
    Loopback.become(server, :refuse)
    Connections.await_ids(handle, [])
    Loopback.become(server, :echo)
    Connections.await_ids(handle, [server])
    :ok = Connection.disconnect(handle)
  end

  defp events do
    receive do
      {:event, name, _measurements, _metadata} -> [name | events()]
    after
      0 -> []
    end
  end
end
