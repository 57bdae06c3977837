defmodule GrpcLb.Pool.NoMembersError do
  @moduledoc """
  Raised by `GrpcLb.Pool.pick!/1` when no member can be picked.

    * `:pool` - the name of the pool
    * `:reason` - `:no_backends` or `:not_running`
  """

  defexception [:pool, :reason]

  @type t :: %__MODULE__{pool: atom(), reason: :no_backends | :not_running}

  @impl true
  def message(%__MODULE__{pool: pool, reason: :no_backends}) do
    "pool #{inspect(pool)} has no members"
  end

  def message(%__MODULE__{pool: pool, reason: :not_running}) do
    "pool #{inspect(pool)} is not running"
  end
end
