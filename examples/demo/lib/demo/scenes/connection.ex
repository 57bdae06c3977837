defmodule Demo.Scenes.Connection do
  @moduledoc false
  # A connection to all servers of a target: it resolves the target, opens a transport to each
  # address, and follows a server that is killed and comes back.

  @behaviour Demo.Scene

  alias Demo.{Callers, Check}
  alias Demo.Callers.{Stage, Tally}
  alias Demo.Scenes.Connection.{Report, Transport}
  alias Demo.Scenes.{Pace, Panel}
  alias Demo.Servers.Fleet
  alias Demo.View.Live

  # :rest       the callers stop
  # :steady     all servers are up
  # :changing   a server is killed
  # :down       it is out of the rotation
  # :back       it is in it again
  @stages [:rest, :steady, :rest, :changing, :down, :back, :rest]

  @callers 16
  @names ~w(a b c)
  @killed "b"

  # Short, for the demo to be.
  @backoff [initial: 100, max: 500]
  @steps 3
  @open_ms 10_000

  @impl true
  def title, do: "A connection"

  @impl true
  def announcement(_options) do
    ["#{@callers} callers, #{length(@names)} servers: one is killed, and comes back"]
  end

  @impl true
  def play(style, options) do
    facts = Live.during(style, &play_on(&1, options))
    checks = Report.checks(facts)

    %{
      sentence: Report.sentence(facts),
      tables: [{"What must hold", Check.lines(style, checks)}],
      checks: checks
    }
  end

  defp play_on(live, %{seconds: seconds, requests: requests}) do
    servers = for server <- Fleet.boot(@names), do: %{server: server, clients: [], ended: []}
    meters = Map.new(servers, &{&1.server.number, &1.server.meter})
    target = "ipv4:" <> Enum.map_join(servers, ",", &"127.0.0.1:#{&1.server.number}")
    transport = {Transport, %{meters: meters, scene: self()}}
    settings = [transport: transport, policy: :round_robin, backoff: @backoff]
    {:ok, connection} = GrpcLb.Connection.connect(target, settings)

    play =
      Enum.reduce(@names, %{live: live, servers: servers, tally: %Tally{}}, fn _name, play ->
        await_opened(play)
      end)

    await_ready(connection)

    play
    |> Map.merge(%{
      connection: connection,
      callers: Callers.new(@callers, fn -> GrpcLb.Connection.pick(connection) end, @stages),
      pace: Pace.new(live, @steps, seconds, requests)
    })
    |> show()
    |> Panel.tell("resolved to #{length(@names)} addresses; a transport is open to each")
    |> run(:steady, &step/1)
    |> run(:changing, &(&1 |> kill() |> step() |> bring_back() |> step()))
    |> close()
    |> Map.take([:servers, :tally, :back_ms])
    |> Map.merge(%{stages: @stages, requests: requests, killed: @killed})
  end

  defp run(play, stage, script) do
    {tally, play} = Callers.during(play.callers, stage, fn -> script.(play) end)
    %{play | tally: Tally.merge([play.tally, tally])}
  end

  defp step(play) do
    members = for entry <- play.servers, do: entry.server
    %{play | pace: Pace.step(play.pace, fn -> Fleet.answered(members) end)}
  end

  defp kill(play) do
    %{server: server, clients: [client]} = entry = entry(play, @killed)
    Pace.await(fn -> Fleet.in_flight(server) > 0 end)
    server = Fleet.kill(server, client)
    :down = Stage.advance(play.callers.stage)

    play
    |> put_entry(%{entry | server: Fleet.collect(server)})
    |> show()
    |> Panel.tell("#{@killed} was killed; calls go on to the others, and it is tried again")
  end

  # A new server at the same address, with the meter of the one before it.
  defp bring_back(play) do
    %{server: before} = entry = entry(play, @killed)
    [server] = Fleet.boot([@killed], number: before.number)
    up = now()
    entry = %{entry | server: %{server | meter: before.meter}, ended: [before]}
    play = play |> put_entry(entry) |> await_back()
    back_ms = now() - up
    :back = Stage.advance(play.callers.stage)

    play
    |> show()
    |> Map.put(:back_ms, back_ms)
    |> Panel.tell("#{@killed} was started again, and is in the rotation after #{back_ms} ms")
  end

  defp close(play) do
    :ok = GrpcLb.Connection.disconnect(play.connection)

    servers = for entry <- play.servers, do: %{entry | server: Fleet.stop(entry.server, :stopped)}

    %{play | servers: servers}
  end

  defp await_opened(play) do
    receive do
      {:opened, number, client} -> opened(play, number, client)
    after
      @open_ms -> Mix.raise("no transport was opened within #{@open_ms} ms")
    end
  end

  defp opened(play, number, client) do
    entry = Enum.find(play.servers, &(&1.server.number == number))
    put_entry(play, %{entry | clients: [client | entry.clients]})
  end

  # Until the transport that is listed is another than the one that was lost. That is opened again at
  # once, which can be to the server that dies: it is lost, too, long before the new one is up.
  defp await_back(play) do
    %{server: server, clients: lost} = entry(play, @killed)
    id = "127.0.0.1:#{server.number}"

    Pace.await(fn ->
      backends = GrpcLb.info(play.connection.balancer).backends
      listed = for %{id: ^id, state: :ready, value: client} <- backends, do: client
      Enum.any?(listed -- lost, &Process.alive?/1)
    end)

    flush_opened(play)
  end

  defp flush_opened(play) do
    receive do
      {:opened, number, client} -> play |> opened(number, client) |> flush_opened()
    after
      0 -> play
    end
  end

  # A transport that was opened is listed a moment later.
  defp await_ready(connection) do
    Pace.await(fn ->
      ready = Enum.filter(GrpcLb.info(connection.balancer).backends, &(&1.state == :ready))
      length(ready) == length(@names)
    end)
  end

  defp entry(play, name), do: Enum.find(play.servers, &(&1.server.name == name))

  defp put_entry(play, entry) do
    name = entry.server.name
    servers = for e <- play.servers, do: if(e.server.name == name, do: entry, else: e)
    %{play | servers: servers}
  end

  defp show(play) do
    servers = for entry <- play.servers, do: entry.server
    Panel.show(play, servers, {"server", "at"}, &"port #{&1.number}")
  end

  defp now, do: System.monotonic_time(:millisecond)
end
