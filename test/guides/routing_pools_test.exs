defmodule GrpcLb.Guides.RoutingPoolsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @guide "guides/routing_pools.md"

  setup_all do
    {excerpts, code} = @guide |> Guide.blocks() |> Enum.split_with(& &1.file)
    %{excerpts: excerpts, code: code}
  end

  test "the code runs, from top to bottom", %{code: code} do
    assert length(code) > 10
    # Modules, pools and tables that it leaves behind go with the VM.
    assert Peer.run(Peer.start(), Guide, :run, [code, @guide]) == :ok
  end

  test "the code is formatted", %{code: code} do
    for block <- code do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end

  test "the excerpts stand in their files", %{excerpts: excerpts} do
    assert length(excerpts) == 2
    for excerpt <- excerpts, do: assert(Guide.in_file?(excerpt), excerpt.code)
  end
end
