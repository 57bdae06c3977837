defmodule FantaTCP.ServerTest do
  use ExUnit.Case, async: true

  alias FantaTCP.Server

  @options [:binary, packet: 4, active: false]
  @await_ms 10_000

  setup do
    server = start_supervised!({Server, 0}, restart: :temporary)
    %{server: server, port: Server.port(server)}
  end

  test "greets, answers in upper case, and numbers its connections", %{port: port} do
    for number <- 1..3 do
      socket = connect(port)
      :ok = :gen_tcp.send(socket, <<7::64, 0::32, "orange">>)
      assert :gen_tcp.recv(socket, 0, @await_ms) == {:ok, <<7::64, number::32, "ORANGE">>}
    end
  end

  test "lets a short request overtake a long one", %{port: port} do
    socket = connect(port)
    :ok = :gen_tcp.send(socket, <<1::64, 100_000::32, "long">>)
    :ok = :gen_tcp.send(socket, <<2::64, 1::32, "short">>)
    :ok = :gen_tcp.send(socket, <<3::64, 0::32, "none">>)
    assert :gen_tcp.recv(socket, 0, @await_ms) == {:ok, <<3::64, 1::32, "NONE">>}
    assert :gen_tcp.recv(socket, 0, @await_ms) == {:ok, <<2::64, 1::32, "SHORT">>}
  end

  test "hangs up on all, and serves who comes then", %{server: server, port: port} do
    sockets = for _ <- 1..3, do: connect(port)
    assert Server.hang_up(server) == :ok
    for socket <- sockets, do: assert(:gen_tcp.recv(socket, 0, @await_ms) == {:error, :closed})
    connect(port)
  end

  test "has freed its port when it has stopped", %{server: server, port: port} do
    socket = connect(port)
    assert Server.stop(server) == :ok
    assert :gen_tcp.recv(socket, 0, @await_ms) == {:error, :closed}
    assert :gen_tcp.connect({127, 0, 0, 1}, port, @options) == {:error, :econnrefused}

    start_supervised!({Server, port}, id: :next)
    connect(port)
  end

  test "does not start on a port that is taken", %{port: port} do
    Process.flag(:trap_exit, true)
    assert Server.start_link(port) == {:error, :eaddrinuse}
  end

  defp connect(port) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, @options)
    assert :gen_tcp.recv(socket, 0, @await_ms) == {:ok, "FANTA"}
    socket
  end
end
