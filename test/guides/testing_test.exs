defmodule GrpcLb.Guides.TestingTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @guide "guides/testing.md"

  setup_all do
    %{code: Guide.blocks(@guide)}
  end

  test "the code runs, from top to bottom, and waits for nothing", %{code: code} do
    assert length(code) > 5
    refute Enum.any?(code, &(&1.code =~ "sleep"))
    # The module and the pool that it leaves behind go with the VM.
    assert Peer.run(Peer.start(), Guide, :run, [code, @guide]) == :ok
  end

  test "the code is formatted", %{code: code} do
    for block <- code do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end
end
