defmodule GrpcLbElixirGrpc.ScriptResolver do
  @moduledoc "A resolver of elixir-grpc that says what it is told to, when it is told to."

  @behaviour GRPC.Client.Resolver

  use Agent

  def start_link(_opts), do: Agent.start_link(fn -> %{} end, name: __MODULE__)

  @doc "A new target that resolves to these addresses."
  def target(addresses) do
    target = "script:#{System.unique_integer([:positive])}"
    Agent.update(__MODULE__, &Map.put(&1, target, %{addresses: addresses, connection: nil}))
    target
  end

  @doc "Has the target resolve to other addresses. Its connection has reconciled when this returns."
  def push(target, addresses) do
    connection =
      Agent.get_and_update(__MODULE__, fn targets ->
        {targets[target].connection, put_in(targets[target].addresses, addresses)}
      end)

    send(connection, {:resolver_update, resolve(target)})
    _state = :sys.get_state(connection)
    :ok
  end

  @doc "The process of the target's connection."
  def connection(target), do: Agent.get(__MODULE__, & &1[target].connection)

  @impl true
  def resolve(target) do
    addresses = Agent.get(__MODULE__, & &1[target].addresses)
    {:ok, %{addresses: addresses, service_config: nil}}
  end

  @impl true
  def init(target, opts) do
    connection = Keyword.fetch!(opts, :connection_pid)
    Agent.update(__MODULE__, &put_in(&1[target].connection, connection))
    {:ok, target}
  end

  @impl true
  def update(target, _event), do: {:ok, target}

  @impl true
  def shutdown(_target), do: :ok
end
