defmodule Demo.Scenes.Pool.Worker do
  @moduledoc false
  # A client that is a member of a pool as soon as it is connected. It tells the scene so.

  alias Demo.Callers.{Client, Meter}

  @type argument :: {GrpcLb.Pool.name(), :inet.port_number(), scene :: pid()}

  @spec child_spec(argument()) :: Supervisor.child_spec()
  def child_spec(argument), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [argument]}}

  @spec start_link(argument()) :: GenServer.on_start()
  def start_link({pool, number, scene}) do
    meter = Meter.new()

    Client.start_link(number, meter, fn ->
      :ok = GrpcLb.Pool.join(pool)
      send(scene, {:joined, self(), meter})
    end)
  end
end
