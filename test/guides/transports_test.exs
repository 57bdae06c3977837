defmodule GrpcLb.Guides.TransportsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection
  alias GrpcLb.Test.Guide

  @guide "guides/transports.md"

  setup_all do
    %{blocks: Guide.blocks(@guide)}
  end

  # Gun and Mint are at hand in integration/elixir_grpc, which runs theirs.
  test "the transport over :gen_tcp runs", %{blocks: blocks} do
    [lines] = Enum.filter(blocks, &(&1.code =~ "MyApp.Lines"))
    Guide.run([lines], @guide)

    {:ok, listening} =
      :gen_tcp.listen(0, [:binary, packet: :line, active: false, ip: {127, 0, 0, 1}])

    {:ok, port} = :inet.port(listening)
    start_supervised!({Task, fn -> listening |> :gen_tcp.accept() |> pong() end})

    opts = [transport: {MyApp.Lines, timeout: 10_000}]
    {:ok, lb} = Connection.connect("ipv4:127.0.0.1:#{port}", opts)
    assert {:ok, "pong\n"} = Connection.run(lb, &apply(MyApp.Lines, :call, [&1, "hello"]))
    Connection.disconnect(lb)
  end

  test "the code is formatted", %{blocks: blocks} do
    assert length(blocks) == 3

    for block <- blocks do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end

  defp pong({:ok, socket}) do
    with {:ok, _line} <- :gen_tcp.recv(socket, 0), :ok <- :gen_tcp.send(socket, "pong\n") do
      pong({:ok, socket})
    end
  end
end
