defmodule FantaTCPTest do
  # Pool, clients and server together; the steps that one sees in the demo are checked by it.
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias FantaTCP.{Demo, Server}

  @await_ms 10_000

  setup do
    server = start_supervised!({Server, 0}, restart: :temporary)
    %{server: server, port: Server.port(server)}
  end

  test "many callers share one socket", %{test: pool, port: port} do
    start_supervised!({FantaTCP, name: pool, port: port, size: 1})
    assert GrpcLb.Pool.await_members(pool, 1, @await_ms) == :ok

    callers =
      for caller <- 1..100 do
        Task.async(fn -> FantaTCP.request(pool, "caller #{caller}", wait_ms: rem(caller, 10)) end)
      end

    for {outcome, caller} <- Enum.with_index(Task.await_many(callers), 1) do
      assert outcome == {:ok, {1, "CALLER #{caller}"}}
    end
  end

  test "there are five connections unless one says otherwise", %{test: pool, port: port} do
    start_supervised!({FantaTCP, name: pool, port: port})
    assert GrpcLb.Pool.await_members(pool, 5, @await_ms) == :ok
    assert {:ok, [_, _, _, _, _]} = GrpcLb.Pool.members(pool)
  end

  test "two pools of one server have connections of their own", %{test: pool, port: port} do
    other = :"#{pool}, the other"

    for {name, size} <- [{pool, 2}, {other, 3}] do
      start_supervised!({FantaTCP, name: name, port: port, size: size})
      assert GrpcLb.Pool.await_members(name, size, @await_ms) == :ok
    end

    connections = fn pool ->
      for _ <- 1..6, uniq: true do
        {:ok, {connection, "ORANGE"}} = FantaTCP.request(pool, "orange")
        connection
      end
    end

    of_one = connections.(pool)
    of_other = connections.(other)
    assert {length(of_one), length(of_other)} == {2, 3}
    assert of_one -- of_other == of_one
  end

  @tag :capture_log
  test "all are back when the pool's supervisor was killed", %{test: pool, port: port} do
    start_supervised!({FantaTCP, name: pool, port: port, size: 3})
    assert GrpcLb.Pool.await_members(pool, 3, @await_ms) == :ok

    # The clients are dead when their supervisor is.
    children = Supervisor.which_children(pool)
    monitors = for {_id, child, _type, _modules} <- children, do: Process.monitor(child)
    pool |> Process.whereis() |> Process.exit(:kill)
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _}, @await_ms)

    assert await_again(pool) == :ok
    assert {:ok, {_connection, "ORANGE"}} = FantaTCP.request(pool, "orange")
  end

  # There is none of that name until its supervisor has started another.
  defp await_again(pool) do
    with {:error, :not_running} <- GrpcLb.Pool.await_members(pool, 3, @await_ms),
         do: await_again(pool)
  end

  test "there is no pool of that name" do
    assert FantaTCP.request(:nobody, "orange") == {:error, :not_running}
  end

  @tag :capture_log
  test "the demo holds" do
    assert capture_io(fn -> assert Demo.run() == :ok end) =~ "All of this was as it must be."
  end

  @tag :capture_log
  test "the demo fails when something is not as it must be" do
    capture_io(fn ->
      assert_raise RuntimeError, ~r/exact share/, fn -> Demo.run(:pick_first) end
    end)
  end
end
