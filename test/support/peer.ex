defmodule GrpcLb.Test.Peer do
  @moduledoc """
  A VM of its own for a test: what it counts is not mixed with other tests, and if it crashes the
  test fails and says so.
  """

  @doc "Starts a VM that has this one's code paths; it ends with the calling process."
  def start(args \\ []) do
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

    {:ok, peer, _node} =
      :peer.start_link(%{connection: :standard_io, args: paths ++ args, wait_boot: 60_000})

    {:ok, _apps} = run(peer, :application, :ensure_all_started, [:grpc_lb])
    peer
  end

  @doc "Runs `module.function(args)` over there. Exits if the VM dies."
  def run(peer, module, function, args \\ []) do
    :peer.call(peer, module, function, args, :timer.minutes(5))
  end
end
