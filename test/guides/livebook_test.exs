defmodule GrpcLb.Guides.LivebookTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @notebook "livebook/grpc_lb.livemd"

  setup_all do
    [install | cells] = Guide.blocks(@notebook)
    %{install: install, cells: cells}
  end

  test "its cells run, from top to bottom", %{cells: cells} do
    assert length(cells) > 5
    assert Peer.run(Peer.start(), Guide, :run, [cells, @notebook]) == :ok
  end

  test "it installs the checkout that it lies in", %{install: install} do
    assert install.code =~ "Mix.install([{:grpc_lb, path: path}])"

    {path, _binding} =
      Code.eval_string(hd(String.split(install.code, "\n\n")), [], file: Path.expand(@notebook))

    assert File.regular?(Path.join(path, "mix.exs"))
  end

  test "its code is formatted", %{cells: cells} do
    for cell <- cells,
        do: assert(IO.iodata_to_binary(Code.format_string!(cell.code)) == cell.code)
  end
end
