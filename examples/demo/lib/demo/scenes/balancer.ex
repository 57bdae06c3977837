defmodule Demo.Scenes.Balancer do
  @moduledoc false
  # A balancer over real connections: three runs of requests, and what happens to the servers in
  # the second. The scene returns facts; its `Report` judges them.

  @behaviour Demo.Scene

  alias Demo.{Callers, Check}
  alias Demo.Callers.{Stage, Tally}
  alias Demo.Scenes.Balancer.Report
  alias Demo.Scenes.{Pace, Panel}
  alias Demo.Servers.Fleet
  alias Demo.View.Live

  # :rest               the callers stop
  # :steady, :settled   the list of backends does not change
  # :changing           a server is killed
  # :taken_out          the killed one has left the rotation
  # :joined             the two new ones have been reconciled in
  # :drained            another one has been reconciled out
  @stages [
    :rest,
    :steady,
    :rest,
    :changing,
    :taken_out,
    :joined,
    :drained,
    :rest,
    :settled,
    :rest
  ]

  @callers 32
  @first ~w(a b c d e)
  @killed "c"
  @new ~w(f g)
  @drained "b"

  @steps 5
  @removal_us 2_000_000

  @impl true
  def title, do: "A balancer"

  @impl true
  def announcement(_options) do
    ["#{@callers} callers, #{length(@first)} servers: one is killed, two join, one leaves"]
  end

  @impl true
  def play(style, options) do
    facts = Live.during(style, &play_on(&1, options))
    checks = Report.checks(facts)

    %{
      sentence: Report.sentence(facts),
      tables: [
        {"What each side counted", Report.table(style, facts)},
        {"What must hold", Check.lines(style, checks)}
      ],
      checks: checks
    }
  end

  defp play_on(live, options) do
    members = Fleet.start(@first)
    {:ok, balancer} = GrpcLb.new(:round_robin, Fleet.backends(members))

    %{
      live: live,
      balancer: balancer,
      callers: Callers.new(@callers, fn -> GrpcLb.pick(balancer) end, @stages),
      pace: Pace.new(live, @steps, options.seconds, options.requests),
      members: members,
      tally: %Tally{}
    }
    |> show()
    |> Panel.tell("servers up: " <> Enum.map_join(members, ", ", &"#{&1.name} #{&1.os_pid}"))
    |> run(:steady, &step/1)
    |> run(:changing, &(&1 |> kill() |> step() |> join() |> step() |> drain() |> step()))
    |> run(:settled, &step/1)
    |> close()
    |> facts(options.requests)
  end

  defp run(play, stage, script) do
    {tally, play} = Callers.during(play.callers, stage, fn -> script.(play) end)
    %{play | tally: Tally.merge([play.tally, tally])}
  end

  defp step(play) do
    %{play | pace: Pace.step(play.pace, fn -> Fleet.answered(play.members) end)}
  end

  defp kill(play) do
    member = member(play, @killed)
    Pace.await(fn -> Fleet.in_flight(member) > 0 end)
    member = Fleet.kill(member, member.client)
    removal_us = await_down(play.balancer, now())
    :taken_out = Stage.advance(play.callers.stage)

    play
    |> put_member(Fleet.collect(member))
    |> show()
    |> Map.put(:removal_us, removal_us)
    |> Panel.tell("#{@killed} was killed with SIGKILL, and is out of the rotation")
  end

  # How long the balancer went on picking a backend whose owner was dead.
  defp await_down(balancer, from) do
    took = now() - from

    cond do
      Enum.any?(GrpcLb.info(balancer).backends, &(&1.state == :down)) -> took
      took > @removal_us -> nil
      true -> await_down(balancer, from)
    end
  end

  defp join(play) do
    new = Fleet.start(@new)
    # The balancer forgets the killed one, and its count, when the list changes.
    play = note_picks(play, [@killed])
    play = %{play | members: play.members ++ new}
    {:ok, joined} = reconcile(play)
    :joined = Stage.advance(play.callers.stage)

    play
    |> show()
    |> Map.put(:joined, joined)
    |> Panel.tell("#{Enum.join(@new, " and ")} were started and reconciled in")
  end

  defp drain(play) do
    member = member(play, @drained)
    play = play |> put_member(%{member | state: :draining}) |> show()
    {:ok, left} = reconcile(play)
    :drained = Stage.advance(play.callers.stage)
    in_flight = Fleet.in_flight(member)
    Pace.await(fn -> Stage.entered_by_all?(play.callers.stage) end)

    play
    |> put_member(Fleet.stop(member, :drained))
    |> show()
    |> Map.merge(%{left: left, left_in_flight: in_flight})
    |> Panel.tell("#{@drained} was reconciled out, finished its requests, and was stopped")
  end

  defp close(play) do
    serving = for member <- play.members, member.state == :serving, do: member.name
    play = note_picks(play, serving)

    members =
      for member <- play.members do
        if member.state == :serving, do: Fleet.stop(member, :stopped), else: member
      end

    :ok = GrpcLb.close(play.balancer)
    %{play | members: members}
  end

  defp facts(play, requests) do
    play
    |> Map.take([:members, :tally, :removal_us, :joined, :left, :left_in_flight])
    |> Map.merge(%{
      stages: @stages,
      requests: requests,
      first: @first,
      killed: @killed,
      new: @new,
      drained: @drained,
      schedulers: System.schedulers_online()
    })
  end

  defp reconcile(play) do
    serving = Enum.filter(play.members, &(&1.state == :serving))
    GrpcLb.reconcile(play.balancer, Fleet.backends(serving))
  end

  defp note_picks(play, names) do
    picks = Map.new(GrpcLb.info(play.balancer).backends, &{&1.id, &1.picks})

    members =
      for member <- play.members do
        if member.name in names, do: %{member | picks: picks[member.name]}, else: member
      end

    %{play | members: members}
  end

  defp member(play, name), do: Enum.find(play.members, &(&1.name == name))

  defp put_member(play, member) do
    members = for m <- play.members, do: if(m.name == member.name, do: member, else: m)
    %{play | members: members}
  end

  defp show(play), do: Panel.show(play, play.members, {"server", "os pid"}, &"#{&1.os_pid}")

  defp now, do: System.monotonic_time(:microsecond)
end
