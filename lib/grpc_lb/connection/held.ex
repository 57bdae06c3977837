defmodule GrpcLb.Connection.Held do
  @moduledoc false
  # What the holder of a connection holds: its balancer, and who waits until that can be picked from.

  @behaviour GrpcLb.Holder

  alias GrpcLb.{Janitor, Native, Policy, Settings, Telemetry, Waiters}

  @enforce_keys [:name, :balancer, :waiters]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          name: GrpcLb.Connection.name(),
          balancer: GrpcLb.balancer(),
          waiters: Waiters.t()
        }

  @impl true
  def open(%{name: name, policy: policy, settings: settings}) do
    policy = Policy.to_native(policy)
    settings = Settings.to_native([owner: self()] ++ settings, policy)
    # Resolvers give addresses in any order.
    {:ok, balancer} = Native.new(policy, [], Map.put(settings, :any_order, true))
    %__MODULE__{name: name, balancer: balancer, waiters: Waiters.new()}
  end

  @impl true
  def close(%{balancer: balancer}), do: GrpcLb.close(balancer)

  @impl true
  def ended(%{balancer: balancer}, options, %{reason: reason, duration: duration}) do
    # Of subchannels that were killed transports can still be open.
    Janitor.await(balancer)

    Telemetry.execute(
      [:grpc_lb, :connection, :disconnected],
      %{duration: duration},
      %{name: options.name, target: options.target, reason: reason}
    )
  end
end
