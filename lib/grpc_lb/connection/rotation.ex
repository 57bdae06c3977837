defmodule GrpcLb.Connection.Rotation do
  @moduledoc false
  # The list of a connection's balancer, as it was made last. An id whose transport is down stays
  # listed as `:connecting`, so that it comes back with its ejection, counts and latency: these belong
  # to the endpoint, not to one transport of it (gRFC A50). One that was never up, or whose address
  # has been gone meanwhile, is listed when it is up: what is new in a list is ready.

  alias GrpcLb.Connection.Plan

  @enforce_keys [:balancer]
  defstruct [:balancer, listed: [], states: %{}]

  @typedoc "`listed` is `nil` when that is not known."
  @type t :: %__MODULE__{
          balancer: GrpcLb.balancer(),
          listed: [GrpcLb.Backend.form()] | nil,
          states: %{Plan.id() => GrpcLb.state() | :down}
        }

  @typedoc "A backend that is wanted: its transport if that is up, and its weight."
  @type wanted ::
          {Plan.id(), {:up, value :: term(), owner :: pid()} | :not_up, weight :: pos_integer()}

  @doc "That of a balancer without backends."
  @spec new(GrpcLb.balancer()) :: t()
  def new(balancer), do: %__MODULE__{balancer: balancer}

  @doc "That of a balancer that another process has fed, and may have left half done."
  @spec adopt(GrpcLb.balancer()) :: t()
  def adopt(balancer) do
    states = for %{id: id, state: state} <- GrpcLb.info(balancer).backends, do: {id, state}
    %__MODULE__{balancer: balancer, listed: nil, states: Map.new(states)}
  end

  @doc "Whether a pick finds a transport that is up."
  @spec ready?(t()) :: boolean()
  def ready?(rotation), do: Enum.any?(rotation.states, fn {_id, state} -> state == :ready end)

  @doc """
  Brings the list to what is wanted, in that order. Says `:same` when that changes nothing, and does
  not ask the balancer then.
  """
  @spec update(t(), [wanted()]) :: {:ok, GrpcLb.changes(), t()} | :same | {:error, :closed}
  def update(%{balancer: balancer, states: before} = rotation, wanted) do
    wanted = for {id, up, _weight} = one <- wanted, up != :not_up or before[id], do: one
    listed = Enum.map(wanted, &form/1)

    if listed === rotation.listed do
      :same
    else
      states = for {id, up, _weight} <- wanted, into: %{}, do: {id, state(up)}
      kept = for {id, state} <- states, before[id] not in [nil, state], do: {id, state}
      # No list that picks see has one as ready whose value is not that of a transport.
      {back, gone} = Enum.split_with(kept, fn {_id, state} -> state == :ready end)
      set_states(balancer, gone)

      with {:ok, changes} <- GrpcLb.reconcile(balancer, listed) do
        set_states(balancer, back)
        {:ok, changes, %{rotation | listed: listed, states: states}}
      end
    end
  end

  # The value of a transport that is down is let go.
  defp form({id, {:up, value, owner}, weight}), do: {id, value, owner: owner, weight: weight}
  defp form({id, :not_up, weight}), do: {id, nil, weight: weight}

  defp state({:up, _value, _owner}), do: :ready
  defp state(:not_up), do: :connecting

  # That it is closed, the next reconcile says.
  defp set_states(balancer, states) do
    for {id, state} <- states, do: GrpcLb.set_state(balancer, id, state)
  end
end
