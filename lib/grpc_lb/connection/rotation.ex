defmodule GrpcLb.Connection.Rotation do
  @moduledoc false
  # The list of a connection's balancer, as it was made last. An id whose transport is down stays
  # listed as `:connecting`, so that it comes back with its ejection, counts and latency: these belong
  # to the endpoint, not to one transport of it (gRFC A50). One that was never up, or whose address
  # has been gone meanwhile, is listed when it is up; or at once where the policy hashes: other clients
  # find the same backend for a key only if all have the same list (gRFC A42).

  alias GrpcLb.Connection.Plan
  alias GrpcLb.{Backend, Interned, Native, Policy, Secret}

  @enforce_keys [:balancer]
  defstruct [:balancer, :sticky?, listed: [], ids: MapSet.new()]

  @typedoc "`listed` is `nil` when that is not known, `ids` always is. Values are hidden in it."
  @type t :: %__MODULE__{
          balancer: GrpcLb.balancer(),
          sticky?: boolean(),
          listed: [GrpcLb.Backend.form()] | nil,
          ids: MapSet.t(Plan.id())
        }

  @typedoc "A backend that is wanted: its transport if that is up, and its options as one of the balancer's."
  @type wanted ::
          {Plan.id(), {:up | :unhealthy, value :: Secret.t(), owner :: pid()} | :not_up,
           options :: keyword()}

  @doc "That of a balancer without backends."
  @spec new(GrpcLb.balancer()) :: t()
  def new(balancer) do
    %__MODULE__{balancer: balancer, sticky?: Policy.sticky?(Native.summary(balancer).policy)}
  end

  @doc "That of a balancer that another process has fed."
  @spec adopt(GrpcLb.balancer()) :: t()
  def adopt(balancer) do
    ids = MapSet.new(GrpcLb.info(balancer).backends, & &1.id)
    %{new(balancer) | listed: nil, ids: ids}
  end

  @doc """
  Brings the list to what is wanted, in that order. Says `:same` when that changes nothing, and does
  not ask the balancer then.

  Of the backends in `leaving` the transport goes that is listed now. What became of its calls comes with
  their ids, see `GrpcLb.Native.reconcile_draining/3`.
  """
  @spec update(t(), [wanted()], leaving :: [Plan.id()]) ::
          {:ok, GrpcLb.changes(), [{Plan.id(), Native.drained() | nil}], t()}
          | :same
          | {:error, :closed}
  def update(%{balancer: balancer, ids: ids, sticky?: sticky?} = rotation, wanted, leaving \\ []) do
    listed? = fn {id, up, _options} -> up != :not_up or sticky? or id in ids end
    listed = wanted |> Enum.filter(listed?) |> Enum.map(&form/1)

    if listed === rotation.listed and leaving == [] do
      :same
    else
      backends = listed |> Enum.map(&revealed/1) |> Backend.to_native()

      reconcile = &Native.reconcile_draining(balancer, &1, leaving)

      with {:ok, changes, drained} <- Interned.change(balancer, backends, reconcile) do
        rotation = %{rotation | listed: listed, ids: MapSet.new(listed, &elem(&1, 0))}
        {:ok, changes, Enum.zip(leaving, drained), rotation}
      end
    end
  end

  @doc "Whether a pick finds a transport that is up."
  @spec ready?(t()) :: boolean()
  def ready?(%{listed: listed}),
    do: Enum.any?(listed, fn {_, _, opts} -> opts[:state] == :ready end)

  @doc "Whether a pick may find one: where the policy panics, one that is unhealthy, too."
  @spec pickable?(t()) :: boolean()
  def pickable?(%{listed: listed}), do: Enum.any?(listed, fn {_, value, _} -> value != nil end)

  defp form({id, {:up, value, owner}, options}),
    do: {id, value, [owner: owner, state: :ready] ++ options}

  # It can be picked where nobody can be and the policy panics.
  defp form({id, {:unhealthy, value, owner}, options}),
    do: {id, value, [owner: owner, state: :transient_failure] ++ options}

  # The value of a transport that is down is let go.
  defp form({id, :not_up, options}), do: {id, nil, [state: :connecting] ++ options}

  defp revealed({id, nil, opts}), do: {id, nil, opts}
  defp revealed({id, value, opts}), do: {id, Secret.reveal(value), opts}
end
