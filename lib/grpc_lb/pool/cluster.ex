defmodule GrpcLb.Pool.Cluster do
  @moduledoc false
  # The part of a pool that connects it with the pools of its name on other nodes.

  use Supervisor

  alias GrpcLb.{Holder, Names}
  alias GrpcLb.Pool.Feed

  @spec start_link(Holder.key()) :: Supervisor.on_start()
  def start_link(key), do: Supervisor.start_link(__MODULE__, key)

  @impl true
  def init(key) do
    {_holder, handle} = Holder.fetch!(key)

    children = [
      child(:scope, :pg, [handle.scope]),
      child(:feed, Feed, [handle])
    ]

    # rest_for_one: a new scope knows no member, and a new feed tells it all of them. A feed that
    # fails leaves the scope alone, and so the members that other nodes see.
    Supervisor.init(children, strategy: :rest_for_one)
  end

  defp child(id, module, args) do
    %{id: id, start: {__MODULE__, :start_child, [module, args]}}
  end

  @doc false
  def start_child(module, args) do
    Names.start_link(fn -> apply(module, :start_link, args) end, fn _of_before -> true end)
  end
end
