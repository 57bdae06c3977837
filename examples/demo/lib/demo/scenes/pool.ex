defmodule Demo.Scenes.Pool do
  @moduledoc false
  # A routing pool: several connections to one server, each held by a process, shared by all
  # callers. Members join, leave, and are killed.

  @behaviour Demo.Scene

  alias Demo.{Callers, Check}
  alias Demo.Callers.{Client, Meter, Stage, Tally}
  alias Demo.Scenes.{Pace, Panel}
  alias Demo.Scenes.Pool.{Report, Worker}
  alias Demo.Servers.Fleet
  alias Demo.View.Live

  # :rest       the callers stop
  # :steady     the members stay as they are
  # :changing   a process is about to join
  # :joined     it has joined
  # :left       a member has left
  # :killed     a member was killed, and is out
  # :replaced   another has joined in its place
  @stages [:rest, :steady, :rest, :changing, :joined, :left, :killed, :replaced, :rest]

  @pool __MODULE__
  @callers 16
  @workers ~w(a b c d)
  @joins "e"
  @leaves "b"
  @killed "c"
  @replaces "f"

  @steps 4
  @join_ms 10_000

  @impl true
  def title, do: "A pool"

  @impl true
  def announcement(_options) do
    ["#{@callers} callers, #{length(@workers)} members: one joins, one leaves, one is killed"]
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
    [server] = Fleet.boot(["server"])
    worker = {Worker, {@pool, server.number, self()}}

    {:ok, _supervisor} =
      GrpcLb.Pool.start_link(name: @pool, size: length(@workers), worker: worker)

    %{
      live: live,
      server: server,
      callers: Callers.new(@callers, fn -> GrpcLb.Pool.pick(@pool) end, @stages),
      pace: Pace.new(live, @steps, seconds, requests),
      members: for(name <- @workers, do: await_joined(name)),
      tally: %Tally{}
    }
    |> show()
    |> Panel.tell(
      "the pool has started #{Enum.join(@workers, ", ")}; each joined once it was connected"
    )
    |> run(:steady, &step/1)
    |> run(:changing, &(&1 |> join() |> step() |> leave() |> step() |> kill() |> step()))
    |> close()
    |> Map.take([:server, :members, :tally, :left_alive?])
    |> Map.merge(%{
      stages: @stages,
      requests: requests,
      first: @workers,
      joined: @joins,
      left: @leaves,
      killed: @killed,
      replaced: @replaces
    })
  end

  defp run(play, stage, script) do
    {tally, play} = Callers.during(play.callers, stage, fn -> script.(play) end)
    %{play | tally: Tally.merge([play.tally, tally])}
  end

  defp step(play) do
    answered = fn -> play.members |> Enum.map(&Meter.get(&1.meter, :answered)) |> Enum.sum() end
    %{play | pace: Pace.step(play.pace, answered)}
  end

  # Whoever joins need be no worker of the pool.
  defp join(play) do
    {:ok, _client} = Worker.start_link({@pool, play.server.number, self()})
    member = await_joined(@joins)
    :joined = Stage.advance(play.callers.stage)
    play = %{play | members: play.members ++ [member]}
    play |> show() |> Panel.tell("#{@joins} has joined, a process of its own")
  end

  defp leave(play) do
    member = member(play, @leaves)
    :ok = GrpcLb.Pool.leave(@pool, member.client)
    :left = Stage.advance(play.callers.stage)
    Pace.await(fn -> Stage.entered_by_all?(play.callers.stage) end)

    play
    |> put_state(@leaves, :left)
    |> show()
    |> Panel.tell("#{@leaves} has left; it lives on, and nobody picks it")
  end

  defp kill(play) do
    member = member(play, @killed)
    Pace.await(fn -> Meter.get(member.meter, :sent) > Meter.get(member.meter, :answered) end)
    monitor = Process.monitor(member.client)
    Process.exit(member.client, :kill)

    receive do
      {:DOWN, ^monitor, :process, _client, :killed} -> :ok
    end

    :killed = Stage.advance(play.callers.stage)
    play = play |> put_state(@killed, :killed) |> show()
    member = await_joined(@replaces)
    :replaced = Stage.advance(play.callers.stage)

    %{play | members: play.members ++ [member]}
    |> show()
    |> Panel.tell(
      "#{@killed} was killed; the pool has started #{@replaces} in its place, which joined"
    )
  end

  defp close(play) do
    %{members: listed} = GrpcLb.Pool.info(@pool)
    picks = Map.new(listed, &{&1.pid, &1.picks})
    left_alive? = Process.alive?(member(play, @leaves).client)
    :ok = GrpcLb.Pool.stop(@pool)
    _served = Client.drain(member(play, @joins).client)

    play
    |> Map.put(:members, for(m <- play.members, do: Map.put(m, :picks, picks[m.client])))
    |> Map.put(:server, Fleet.stop(play.server, :stopped))
    |> Map.put(:left_alive?, left_alive?)
  end

  defp await_joined(name) do
    receive do
      {:joined, client, meter} -> %{name: name, client: client, meter: meter, state: :member}
    after
      @join_ms -> Mix.raise("no member has joined within #{@join_ms} ms")
    end
  end

  defp member(play, name), do: Enum.find(play.members, &(&1.name == name))

  defp put_state(play, name, state) do
    members = for m <- play.members, do: if(m.name == name, do: %{m | state: state}, else: m)
    %{play | members: members}
  end

  defp show(play) do
    process = &(&1.client |> :erlang.pid_to_list() |> List.to_string())
    Panel.show(play, play.members, {"member", "process"}, process)
  end
end
