defmodule Demo.Scenes.Connection.Transport do
  @moduledoc false
  # How the connection reaches an address: a client, which is the transport's owner, too. It tells
  # the scene whenever it has opened one.

  @behaviour GrpcLb.Transport

  alias Demo.Callers.{Client, Meter}

  @type opts :: %{meters: %{:inet.port_number() => Meter.t()}, scene: pid()}

  @impl true
  def open(address, %{meters: meters, scene: scene}) do
    with {:ok, client} <- Client.start_link(address.port, Map.fetch!(meters, address.port)) do
      send(scene, {:opened, address.port, client})
      {:ok, client, client}
    end
  end

  @impl true
  def close(client), do: Client.drain(client)
end
