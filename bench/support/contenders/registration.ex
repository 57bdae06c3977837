defmodule GrpcLb.Bench.Contenders.Registration do
  @moduledoc false
  # What the two Registry contenders share: each backend's process registers itself.

  def start(name, backends) do
    {:ok, registry} = Registry.start_link(keys: :duplicate, name: name)

    for {pid, value} <- backends do
      {:ok, _owner} = Agent.get(pid, fn _ -> Registry.register(name, :backends, value) end)
    end

    {registry, backends}
  end

  # A process that is still registered would go down with the registry.
  def stop(name, {registry, backends}) do
    for {pid, _value} <- backends do
      :ok = Agent.get(pid, fn _ -> Registry.unregister(name, :backends) end)
    end

    Supervisor.stop(registry)
  end
end
