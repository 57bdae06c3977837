defmodule GrpcLb.Pool.Cluster do
  @moduledoc false
  # The part of a pool that connects it with the pools of its name on other nodes.

  use Supervisor

  alias GrpcLb.Pool.{Entry, Feed, Predecessor}

  @spec start_link(Entry.t()) :: Supervisor.on_start()
  def start_link(entry), do: Supervisor.start_link(__MODULE__, entry)

  @impl true
  def init(entry) do
    children = [
      child(:scope, :pg, [entry.scope]),
      child(:feed, Feed, [entry])
    ]

    # rest_for_one: a new scope knows no member, and a new feed tells it all of them. A feed that
    # fails leaves the scope alone, and so the members that other nodes see.
    Supervisor.init(children, strategy: :rest_for_one)
  end

  defp child(id, module, args) do
    %{id: id, start: {__MODULE__, :start_successor, [module, args]}}
  end

  @doc """
  Starts a process with a registered name. When a supervisor is killed and started again, a process
  of the old one can still be about to end; its end is waited for.
  """
  @spec start_successor(module(), [term()]) :: GenServer.on_start()
  def start_successor(module, args) do
    with {:error, {:already_started, pid}} = error <- apply(module, :start_link, args) do
      case Predecessor.await_end(pid) do
        :ok -> start_successor(module, args)
        :timeout -> error
      end
    end
  end
end
