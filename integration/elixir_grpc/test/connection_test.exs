defmodule GrpcLbElixirGrpc.ConnectionTest do
  # The variants of GRPC.Client.Connection take turns under its name.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GRPC.Client.Connection
  alias GrpcLbElixirGrpc.{ScriptResolver, Variants}

  @moduletag timeout: 120_000

  setup do
    start_supervised!(ScriptResolver)
    :ok
  end

  defp start(numbers) do
    pids = for number <- numbers, do: {number, start_supervised!(server(number))}
    {Map.new(numbers, &{&1, Whoami.address(&1)}), Map.new(pids)}
  end

  defp server(number) do
    %{id: number, start: {Whoami, :start_link, [number]}, restart: :temporary}
  end

  defp connect(addresses, opts \\ []) do
    target = ScriptResolver.target(addresses)
    opts = Keyword.merge([resolver: ScriptResolver, lb_policy: :round_robin], opts)
    {:ok, channel} = Connection.connect(target, opts)
    {channel, target}
  end

  defp disconnect(channel) do
    {:ok, _channel} = Connection.disconnect(channel)
    :ok
  end

  defp answers(channel, n), do: for(_ <- 1..n, do: Whoami.ask(channel))

  for variant <- Variants.all() do
    describe "#{variant}:" do
      setup do
        Variants.load(unquote(variant))

        on_exit(fn ->
          # What a test that failed has not disconnected.
          for {_id, pid, _type, _modules} <-
                DynamicSupervisor.which_children(GRPC.Client.Supervisor),
              do: DynamicSupervisor.terminate_child(GRPC.Client.Supervisor, pid)

          Variants.load(:own)
        end)
      end

      test "round robin over three servers gives each its share" do
        {addresses, _pids} = start(1..3)
        {channel, _target} = connect(Map.values(addresses))

        assert Enum.frequencies(answers(channel, 300)) == %{
                 {:ok, 1} => 100,
                 {:ok, 2} => 100,
                 {:ok, 3} => 100
               }

        counts = 16 |> together(fn _ -> answers(channel, 30) end) |> List.flatten()
        assert counts |> Enum.frequencies() |> Map.values() == [160, 160, 160]
        disconnect(channel)
      end

      test "pick first keeps to one server" do
        {addresses, _pids} = start(1..2)
        {channel, _target} = connect(Map.values(addresses), lb_policy: :pick_first)
        assert channel |> answers(20) |> Enum.uniq() |> length() == 1
        disconnect(channel)
      end

      test "a server that is killed is replaced" do
        {addresses, pids} = start(1..3)
        {channel, target} = connect(Map.values(addresses))
        kill([pids[2]])
        eventually(fn -> refused?(addresses[2]) end)

        start_supervised!(server(4))
        ScriptResolver.push(target, [addresses[1], Whoami.address(4), addresses[3]])

        assert Enum.frequencies(answers(channel, 300)) == %{
                 {:ok, 1} => 100,
                 {:ok, 3} => 100,
                 {:ok, 4} => 100
               }

        disconnect(channel)
      end

      test "4 servers shrink to 2 under load" do
        {addresses, _pids} = start(1..4)
        {channel, target} = connect(Map.values(addresses))
        left = [addresses[1], addresses[2]]
        # A call that is under way on a connection that is closed fails, and may exit.
        ask = fn -> catch_exit_of(fn -> Whoami.ask(channel) end) end
        shrink = fn -> ScriptResolver.push(target, left) end
        seen = 16 |> picking_during(ask, shrink, 50) |> List.flatten() |> Enum.uniq()

        assert Enum.sort(for {:before, {:ok, number}} <- seen, do: number) == [1, 2, 3, 4]
        assert Enum.sort(for {:after, answer} <- seen, do: answer) == [ok: 1, ok: 2]
        disconnect(channel)
      end

      test "a connection whose process is killed goes on with its channels" do
        {addresses, _pids} = start(1..2)
        {channel, target} = connect(Map.values(addresses))
        first = ScriptResolver.connection(target)
        kill([first])
        eventually(fn -> ScriptResolver.connection(target) not in [first, nil] end)

        eventually(fn -> match?({:ok, _}, Connection.pick_channel(channel)) end)
        assert Enum.frequencies(answers(channel, 20)) == %{{:ok, 1} => 10, {:ok, 2} => 10}
        ScriptResolver.push(target, [addresses[2]])
        assert Enum.uniq(answers(channel, 4)) == [ok: 2]
        disconnect(channel)
      end

      # elixir-grpc's own goes on picking it until the next resolution.
      if variant != :own do
        test "a channel whose connection dies is out of the rotation" do
          {addresses, _pids} = start(1..2)
          {channel, _target} = connect(Map.values(addresses))
          {:ok, one} = Connection.pick_channel(channel)
          {:ok, other} = Connection.pick_channel(channel)
          kill([one.adapter_payload.conn_pid])

          eventually(fn ->
            Enum.all?(1..2, fn _ -> Connection.pick_channel(channel) == {:ok, other} end)
          end)

          kill([other.adapter_payload.conn_pid])
          eventually(fn -> Connection.pick_channel(channel) == {:error, :no_connection} end)
          disconnect(channel)
        end
      end

      test "there is nothing to pick after disconnect" do
        {addresses, _pids} = start(1..1)
        {channel, _target} = connect(Map.values(addresses))

        for seen <-
              picking_during(50, fn -> pick(channel) end, fn -> disconnect(channel) end) do
          results = for {_phase, result} <- seen, do: result
          assert Enum.dedup(results) == [:ok, {:error, :no_connection}]
          refute {:after, :ok} in seen
        end
      end

      test "500 connections come and go and leave nothing" do
        {addresses, _pids} = start(1..2)
        addresses = Map.values(addresses)
        for _ <- 1..20, do: cycle(addresses)
        eventually(fn -> nothing_native?(inventory()) end, fn -> inspect(inventory()) end)
        before = inventory()
        for _ <- 1..500, do: cycle(addresses)

        # Less is what earlier tests had left to end by itself.
        eventually(fn -> nothing_more?(before, inventory()) end, fn ->
          "before: #{inspect(before)}, now: #{inspect(inventory())}"
        end)
      end
    end
  end

  defp pick(channel) do
    with {:ok, _channel} <- Connection.pick_channel(channel), do: :ok
  end

  defp cycle(addresses) do
    {channel, _target} = connect(addresses)
    {:ok, _} = Whoami.ask(channel)
    disconnect(channel)
  end

  defp nothing_more?(before, now) do
    now.native == before.native and
      Enum.all?(Map.delete(now, :native), fn {key, n} -> n <= before[key] end)
  end

  # Whatever it is that is counted.
  defp nothing_native?(inventory), do: Enum.all?(inventory.native, &match?({_what, 0}, &1))

  defp inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    # What was interned waits for that up to a minute.
    GrpcLb.Eraser.erase()

    %{
      native: GrpcLb.Native.live_counts(),
      connections: DynamicSupervisor.count_children(GRPC.Client.Supervisor).active,
      names: Registry.count(GRPC.Client.Registry),
      tables: length(:ets.all()),
      persistent_terms: :persistent_term.info().count
    }
  end

  defp catch_exit_of(fun) do
    fun.()
  catch
    :exit, _reason -> {:error, :exit}
  end

  defp refused?(%{port: port}) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, []) do
      {:error, :econnrefused} ->
        true

      {:error, _its_connections_end} ->
        false

      {:ok, socket} ->
        :gen_tcp.close(socket)
        false
    end
  end
end
