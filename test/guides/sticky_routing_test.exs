defmodule GrpcLb.Guides.StickyRoutingTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @guide "guides/sticky_routing.md"

  setup_all do
    %{code: Guide.blocks(@guide)}
  end

  test "the code runs, from top to bottom", %{code: code} do
    # The module that it leaves behind goes with the VM.
    assert Peer.run(Peer.start(), Guide, :run, [code, @guide]) == :ok
  end

  test "the code is formatted", %{code: code} do
    for block <- code do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end

  test "shows charts that are there" do
    charts = Regex.scan(~r/!\[.+\]\((.+\.svg)\)/, File.read!(@guide))

    for [_all, chart] <- charts,
        do: assert("guides" |> Path.join(chart) |> File.read!() =~ "<svg ")

    assert charts != []
  end
end
