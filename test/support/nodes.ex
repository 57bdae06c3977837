defmodule GrpcLb.Test.Nodes do
  @moduledoc """
  Nodes of a cluster, each a VM of its own, distributed over loopback.

  They are controlled through their standard input and output, so that a test can tear the network
  between them, and this VM need not be distributed itself.
  """

  import GrpcLb.Test.Eventually

  @cookie :grpc_lb_test

  @type t :: %{peer: pid(), name: node()}

  @doc """
  Starts `n` nodes that are connected with each other; they end with the calling process. `flags` are
  given to `erl`.
  """
  def start(n, flags \\ []) do
    nodes = for _ <- 1..n, do: start_one(flags)
    heal(nodes, nodes)
    nodes
  end

  defp start_one(flags) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

    # Connections are made by the tests alone. (`erl` starts epmd where none runs yet.)
    args = [~c"-connect_all", ~c"false", ~c"-setcookie", Atom.to_charlist(@cookie)]

    {:ok, peer, name} =
      :peer.start_link(%{
        name: :"grpc_lb_#{System.pid()}_#{System.unique_integer([:positive])}",
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: flags ++ args ++ paths,
        wait_boot: 60_000
      })

    node = %{peer: peer, name: name}
    {:ok, _apps} = run(node, :application, :ensure_all_started, [:grpc_lb])
    # It would print what tests have it go through.
    :ok = run(node, :logger, :set_primary_config, [:level, :none])
    node
  end

  @doc "Runs `module.function(args)` over there."
  def run(%{peer: peer}, module, function, args \\ []) do
    :peer.call(peer, module, function, args, :timer.minutes(2))
  end

  @doc "Kills a node as a power cut would, and waits until it is gone."
  def kill(%{peer: peer} = node) do
    monitor = Process.monitor(peer)
    os_pid = run(node, System, :pid)
    {_output, 0} = System.cmd("kill", ["-9", os_pid])

    receive do
      {:DOWN, ^monitor, :process, ^peer, _reason} -> :ok
    end
  end

  @doc "Cuts all connections between two groups of nodes, and keeps them from connecting again."
  def split(some, others) do
    for one <- some, other <- others, one != other do
      true = run(one, :erlang, :set_cookie, [other.name, :another_cookie])
      true = run(one, :erlang, :disconnect_node, [other.name])
    end

    :ok
  end

  @doc "Connects two groups of nodes (again)."
  def heal(some, others) do
    for one <- some, other <- others, one != other do
      true = run(one, :erlang, :set_cookie, [other.name, @cookie])
      # In the way can be an attempt from before that is about to be refused.
      eventually(fn -> run(one, :net_kernel, :connect_node, [other.name]) end)
    end

    :ok
  end
end
