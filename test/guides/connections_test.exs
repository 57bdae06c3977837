defmodule GrpcLb.Guides.ConnectionsTest do
  # Its telemetry handler hears of all connections.
  use ExUnit.Case, async: false

  alias GrpcLb.Connection
  alias GrpcLb.Test.Guide

  @moduletag :capture_log

  @guide "guides/connections.md"

  setup_all do
    %{blocks: Guide.blocks(@guide)}
  end

  test "the code runs, from top to bottom, and its transport over TLS, too", %{blocks: blocks} do
    on_exit(fn -> apply(:telemetry, :detach, ["my-app-alerts"]) end)
    assert length(blocks) > 10
    # What it starts and links ends with this process, and is waited for: its transports are, too.
    {pid, monitor} = spawn_monitor(fn -> Guide.run(blocks, @guide) end)
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 60_000
    Connection.disconnect(MyApp.Backends)
    over_tls()
  end

  defp over_tls do
    {:ok, _} = Application.ensure_all_started(:ssl)
    peer = [key: {:rsa, 2048, 65_537}]

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: peer, intermediates: [], peer: peer},
        client_chain: %{root: peer, intermediates: [], peer: peer}
      })

    {:ok, listener} = :ssl.listen(0, [:binary, packet: :line, active: false] ++ server)
    {:ok, {_ip, port}} = :ssl.sockname(listener)
    start_supervised!({Task, fn -> echo(listener) end})

    tls = [verify: :verify_peer, cacerts: client[:cacerts], server_name_indication: :disable]
    opts = [transport: {MyApp.LineClient, tls: tls}, check_interval: :infinity]
    {:ok, handle} = Connection.connect("ipv4:127.0.0.1:#{port}", opts)

    assert Connection.run(handle, &apply(MyApp.LineClient, :call, [&1, "hello"])) ==
             {:ok, "hello"}

    Connection.disconnect(handle)
  end

  defp echo(listener) do
    {:ok, socket} = :ssl.transport_accept(listener)
    {:ok, socket} = :ssl.handshake(socket)
    {:ok, line} = :ssl.recv(socket, 0)
    :ok = :ssl.send(socket, line)
    :ssl.recv(socket, 0)
  end

  test "the code is formatted", %{blocks: blocks} do
    for block <- blocks do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end
end
