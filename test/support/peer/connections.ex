defmodule GrpcLb.Test.Peer.Connections do
  @moduledoc "What `GrpcLb.ElixirGrpcTest` has done in a VM of its own."

  alias GrpcLb.ElixirGrpc.RoundRobin

  @doc """
  Processes that do what a connection of elixir-grpc does with its policy, and are then killed.
  Their channels carry the reference of the balancer that holds them.
  """
  def killed_cycles do
    for _ <- 1..100 do
      test = self()
      {connection, monitor} = spawn_monitor(fn -> connection(test) end)

      receive do
        {:published, key} ->
          {:ok, _channel, _state} = RoundRobin.pick(:persistent_term.get(key))
          Process.exit(connection, :kill)

          receive do
            {:DOWN, ^monitor, :process, ^connection, :killed} -> :ok
          end

          :persistent_term.erase(key)
      end
    end

    :ok
  end

  defp connection(test) do
    channels = for port <- 1..5, do: %{host: "localhost", port: port, ref: nil}
    {:ok, state} = RoundRobin.init(channels: channels)
    {:ok, state} = RoundRobin.update(state, Enum.map(channels, &%{&1 | ref: state.balancer}))
    key = {__MODULE__, make_ref()}
    :persistent_term.put(key, state)
    send(test, {:published, key})
    Process.sleep(:infinity)
  end
end
