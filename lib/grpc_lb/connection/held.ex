defmodule GrpcLb.Connection.Held do
  @moduledoc false
  # What the holder of a connection holds: its balancer, the state it is in and who is told of that, and
  # who waits until it can be picked from.

  @behaviour GrpcLb.Holder

  alias GrpcLb.{Janitor, Native, Telemetry, Waiters}
  alias GrpcLb.Connection.States

  @enforce_keys [:name, :target, :holder, :balancer, :states, :waiters, :connect_timeout]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          name: GrpcLb.Connection.name(),
          target: term(),
          holder: pid(),
          balancer: GrpcLb.balancer(),
          states: States.t(),
          waiters: Waiters.t(),
          connect_timeout: pos_integer()
        }

  @impl true
  def open(%{name: name, policy: policy, settings: settings} = options) do
    {:ok, balancer} = GrpcLb.new(policy, [], [owner: self(), name: name] ++ settings)

    %__MODULE__{
      name: name,
      target: options.target,
      holder: self(),
      balancer: balancer,
      states: States.start(name),
      waiters: Waiters.start(),
      connect_timeout: options.connect_timeout
    }
  end

  @impl true
  def close(held) do
    {:ok, number_or_none} = Native.close_draining(held.balancer)

    with {:changed, before, duration} <- States.put(held.states, :shutdown) do
      Telemetry.execute(
        [:grpc_lb, :connection, :state],
        %{duration: duration},
        %{name: held.name, target: held.target, state: :shutdown, previous: before}
      )
    end

    Waiters.notify(held.waiters, :infinity)
    number_or_none
  end

  @impl true
  def ended(held, options, %{reason: reason, duration: duration}) do
    # Of subchannels that were killed transports can still be open.
    Janitor.await(held.balancer)

    Telemetry.execute(
      [:grpc_lb, :connection, :disconnected],
      %{duration: duration},
      %{name: options.name, target: options.target, reason: reason}
    )
  end
end
