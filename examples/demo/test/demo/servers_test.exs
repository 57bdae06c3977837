defmodule Demo.ServersTest do
  use ExUnit.Case, async: true

  alias Demo.Callers.{Client, Meter}
  alias Demo.Servers.{Fleet, Lineup, ServerProcess}

  describe "a server" do
    test "serves several clients, and whoever comes after them" do
      [member] = Fleet.boot(["a"])

      for _round <- 1..2 do
        clients =
          for _ <- 1..3 do
            {:ok, client} = Client.start_link(member.number, Meter.new())
            client
          end

        for client <- clients do
          assert Client.request(client, "x") == {:ok, <<:erlang.crc32("x")::32>>}
          assert Client.drain(client) == {:ok, 1}
        end
      end

      assert %{exit_status: 0} = Fleet.stop(member, :stopped)
    end

    test "comes back where it was" do
      [member] = Fleet.start(["a"])
      Process.unlink(member.client)
      assert %{state: :killed} = killed = Fleet.kill(member, member.client)
      assert %{exit_status: 137} = Fleet.collect(killed)

      assert [%{number: number} = again] = Fleet.boot(["a"], number: member.number)
      assert number == member.number
      assert %{exit_status: 0} = Fleet.stop(again, :stopped)
    end

    test "ends when nobody reads what it says, though its stdin is open" do
      # Which a server sees first of a parent that is killed is a matter of luck. It begins when the reader is
      # gone: until then there is something to read.
      gone = "(while echo; do :; done) 2>/dev/null"
      pipeline = ["-c", ~s({ #{gone}; "$@"; } | true), "sh" | ServerProcess.command(0, nil)]
      opts = [:binary, :exit_status, args: pipeline]
      shell = Port.open({:spawn_executable, System.find_executable("sh")}, opts)
      assert_receive {^shell, {:exit_status, 0}}, 30_000
    end
  end

  describe "a server that works" do
    test "fails as many of its requests as it is told to, and works on many at a time" do
      [member] = Fleet.start(["a"], %{"a" => {1, 30}})

      # More than it works on at the same time.
      outcomes =
        1..400
        |> Enum.map(&Task.async(fn -> {&1, Client.request(member.client, <<&1>>)} end))
        |> Task.await_many(:infinity)

      {failed, answered} = Enum.split_with(outcomes, &match?({_, {:error, :server_failed}}, &1))
      assert length(failed) == 120
      for {n, outcome} <- answered, do: assert(outcome == {:ok, <<:erlang.crc32(<<n>>)::32>>})
      assert %{served: 400, exit_status: 0} = Fleet.stop(member, :stopped)
    end

    test "takes its time" do
      [member] = Fleet.start(["a"], %{"a" => {30, 0}})
      {us, {:ok, _crc}} = :timer.tc(fn -> Client.request(member.client, "x") end)
      assert us >= 30_000
      Fleet.stop(member, :stopped)
    end
  end

  describe "Lineup" do
    test "has the good ones first" do
      lineup = Lineup.new(1, 2)
      assert Lineup.names(lineup, :good) == ["a", "b"]
      assert Lineup.names(lineup, :slow) == ["c"]
      assert Lineup.names(lineup, :flaky) == ["d", "e"]
      assert_in_delta Lineup.even_errors(lineup), 0.12, 1.0e-9

      assert %{"a" => {good_ms, 0}, "c" => {slow_ms, 0}, "d" => {good_ms, 30}} =
               Lineup.work(lineup)

      assert slow_ms == 10 * good_ms

      assert Lineup.describe(lineup) =~
               ~r/^a b are good .*, c is slow .*, d e are flaky .* 30 % fail/

      assert Lineup.describe(Lineup.new(0, 0)) =~ ~r/^a b c d e are good \(\d+ ms a call\)\.$/
      assert Lineup.names(Lineup.new(5, 0), :slow) == ~w(a b c d e)
    end
  end
end
