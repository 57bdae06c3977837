defmodule Demo.Scenes.Restart do
  @moduledoc false
  # A rolling restart of all servers of a connection, as a deployment does it: each server says that it
  # goes, its client's calls end, and a new one is started at the same address.

  @behaviour Demo.Scene

  alias Demo.{Callers, Check}
  alias Demo.Callers.{Meter, Tally}
  alias Demo.Scenes.Connection.Transport
  alias Demo.Scenes.{Pace, Panel}
  alias Demo.Scenes.Restart.Report
  alias Demo.Servers.Fleet
  alias Demo.View.Live

  # :rest         the callers stop
  # :steady       all servers are up
  # :restarting   one after the other goes and comes
  @stages [:rest, :steady, :rest, :restarting, :rest]

  @callers 16
  @names ~w(a b c)

  # Short, for the demo to be.
  @backoff [initial: 50, max: 200]

  @impl true
  def title, do: "A restart"

  @impl true
  def announcement(_options) do
    ["#{@callers} callers, #{length(@names)} servers, which restart one after the other"]
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
    servers = for server <- Fleet.boot(@names), do: %{server: server, ended: []}
    meters = Map.new(servers, &{&1.server.number, &1.server.meter})
    target = "ipv4:" <> Enum.map_join(servers, ",", &"127.0.0.1:#{&1.server.number}")
    transport = {Transport, %{meters: meters, scene: self()}}
    settings = [transport: transport, policy: :round_robin, backoff: @backoff]
    {:ok, connection} = GrpcLb.Connection.connect(target, settings)
    await_ready(connection)

    call = fn payload -> Callers.counted(&GrpcLb.Connection.run(connection, &1, &2), payload) end

    %{
      live: live,
      servers: servers,
      tally: %Tally{},
      connection: connection,
      callers: Callers.calling(@callers, call, @stages),
      pace: Pace.new(live, 1 + length(@names), seconds, requests)
    }
    |> show()
    |> Panel.tell(
      "a connection to #{length(@names)} servers is open, and calls are made with run/3"
    )
    |> run(:steady, &step/1)
    |> run(:restarting, &Enum.reduce(@names, &1, fn name, play -> restart(play, name) end))
    |> close()
    |> Map.take([:servers, :tally, :successes])
    |> Map.merge(%{stages: @stages, requests: requests})
  end

  defp run(play, stage, script) do
    {tally, play} = Callers.during(play.callers, stage, fn -> script.(play) end)
    %{play | tally: Tally.merge([play.tally, tally])}
  end

  defp step(play) do
    members = for entry <- play.servers, do: entry.server
    %{play | pace: Pace.step(play.pace, fn -> Fleet.answered(members) end)}
  end

  defp restart(play, name) do
    %{server: server} = entry = Enum.find(play.servers, &(&1.server.name == name))
    before = Fleet.leave(server)
    # The next one counts from the beginning.
    Meter.put(server.meter, :served, 0)
    [next] = Fleet.boot([name], number: server.number)
    entry = %{entry | server: %{next | meter: server.meter}, ended: [before | entry.ended]}
    play = put_entry(play, entry)
    await_ready(play.connection)

    play
    |> show()
    |> Panel.tell("#{name} ended as process #{before.os_pid}, and is back as #{next.os_pid}")
    |> step()
  end

  defp close(play) do
    %{backends: backends} = GrpcLb.info(play.connection.balancer)
    successes = backends |> Enum.map(& &1.successes) |> Enum.sum()
    :ok = GrpcLb.Connection.disconnect(play.connection)

    servers =
      for %{server: server} = entry <- play.servers do
        served = Meter.get(server.meter, :served)
        %{entry | server: %{Fleet.stop(server, :stopped) | served: served}}
      end

    Map.merge(play, %{servers: servers, successes: successes})
  end

  # A transport that was opened is listed a moment later.
  defp await_ready(connection) do
    Pace.await(fn ->
      ready = Enum.filter(GrpcLb.info(connection.balancer).backends, &(&1.state == :ready))
      length(ready) == length(@names)
    end)
  end

  defp put_entry(play, entry) do
    name = entry.server.name
    servers = for e <- play.servers, do: if(e.server.name == name, do: entry, else: e)
    %{play | servers: servers}
  end

  defp show(play) do
    servers = for entry <- play.servers, do: entry.server
    Panel.show(play, servers, {"server", "os pid"}, &"#{&1.os_pid}")
  end
end
