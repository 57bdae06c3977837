defmodule GrpcLb.Application do
  @moduledoc false

  use Application

  @impl true
  def start(_type, _args) do
    # A keeper without its entry in the registry could be found by nobody, what the closer knows is
    # known to nobody else, and a connection needs all three: hence the order, and that what comes
    # later starts again with what came before.
    Supervisor.start_link(
      [
        {Registry, keys: :unique, name: GrpcLb.Registry},
        GrpcLb.Connection.Closer,
        {DynamicSupervisor, name: GrpcLb.Keepers},
        {DynamicSupervisor, name: GrpcLb.Connections}
      ],
      strategy: :rest_for_one,
      name: GrpcLb.Supervisor
    )
  end
end
