defmodule GrpcLb.Pool.Route do
  @moduledoc false
  # Where a pick or a checkout goes: to the pool's balancer, or to one of two, the local members' and
  # the remote members', when the pool prefers local ones.

  alias GrpcLb.Native

  @typep turns :: :atomics.atomics_ref()

  @type t ::
          GrpcLb.balancer()
          | {local :: GrpcLb.balancer(), remote :: GrpcLb.balancer(),
             :always | {turns(), share :: number()}}

  @doc "Makes a route; without a share both balancers must be the same."
  @spec new(GrpcLb.balancer(), GrpcLb.balancer(), number() | nil) :: t()
  def new(balancer, balancer, nil), do: balancer
  def new(local, remote, share) when share == 1, do: {local, remote, :always}
  def new(local, remote, share), do: {local, remote, {:atomics.new(1, []), share}}

  @spec pick(t()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(balancer) when is_reference(balancer), do: Native.pick(balancer)

  def pick(route) do
    {one, other} = in_order(route)
    with {:error, :no_backends} <- Native.pick(one), do: Native.pick(other)
  end

  @spec checkout(t()) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :closed | :overloaded}
  def checkout(balancer) when is_reference(balancer), do: Native.checkout(balancer)

  # Those that are full have others to help them out.
  def checkout(route) do
    {one, other} = in_order(route)

    with {:error, reason} when reason in [:no_backends, :overloaded] <- Native.checkout(one),
         {:error, :no_backends} <- Native.checkout(other) do
      {:error, reason}
    end
  end

  defp in_order({local, remote, share}) do
    if local_turn?(share), do: {local, remote}, else: {remote, local}
  end

  defp local_turn?(:always), do: true

  # The local turns are those at which the share adds up to the next whole number: they are spread
  # evenly, and no random number is needed.
  defp local_turn?({turns, share}) do
    turn = :atomics.add_get(turns, 1, 1)
    trunc(turn * share) != trunc((turn - 1) * share)
  end
end
