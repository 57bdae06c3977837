defmodule Demo.Scenes.Connection.Transport do
  @moduledoc false
  # How the connection reaches an address: a client, which is the transport's owner, too. It tells
  # the scene whenever it has opened one, and the connection when its server goes.

  @behaviour GrpcLb.Transport

  alias Demo.Callers.{Client, Meter}

  @type opts :: %{meters: %{:inet.port_number() => Meter.t()}, scene: pid()}

  @impl true
  def open(address, %{meters: meters, scene: scene}) do
    subchannel = self()
    meter = Map.fetch!(meters, address.port)
    leaving = fn -> GrpcLb.Transport.draining(subchannel) end

    with {:ok, client} <- Client.start_link(address.port, meter, fn -> :ok end, leaving) do
      send(scene, {:opened, address.port, client})
      {:ok, client, client}
    end
  end

  @impl true
  def close(client), do: Client.drain(client)
end
