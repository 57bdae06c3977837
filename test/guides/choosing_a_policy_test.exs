defmodule GrpcLb.Guides.ChoosingAPolicyTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @guide "guides/choosing_a_policy.md"

  setup_all do
    %{code: Guide.blocks(@guide)}
  end

  test "the code runs, from top to bottom", %{code: code} do
    assert length(code) > 10
    # The module that it leaves behind goes with the VM.
    assert Peer.run(Peer.start(), Guide, :run, [code, @guide]) == :ok
  end

  test "the code is formatted", %{code: code} do
    for block <- code do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end

  test "has a word for each policy" do
    guide = File.read!(@guide)
    for name <- GrpcLb.Policy.names(), do: assert(guide =~ "\n**`#{inspect(name)}`** ")
  end

  test "shows a chart that is there" do
    [_all, chart] = Regex.run(~r/!\[.+\]\((.+\.svg)\)/, File.read!(@guide))
    assert "guides" |> Path.join(chart) |> File.read!() =~ "<svg "
  end
end
