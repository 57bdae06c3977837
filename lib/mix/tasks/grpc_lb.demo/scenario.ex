defmodule Mix.Tasks.GrpcLb.Demo.Scenario do
  @moduledoc false
  # The demo's plot: three runs of requests, and what happens to the servers in the second.
  # It judges nothing: it returns the facts, and `Report` says whether they are as they must be.

  alias Mix.Tasks.GrpcLb.Demo.{Callers, Fleet, Report, Stage, Tally, View}

  @callers 32
  @first ~w(a b c d e)
  @killed "c"
  @new ~w(f g)
  @drained "b"

  @steps 5
  @poll_ms 10
  @removal_us 2_000_000

  # Each step of the plot goes on until it has had its share of `seconds` and of `requests`.
  @spec play(View.t(), number(), pos_integer()) :: Report.facts()
  def play(view, seconds, requests) do
    members = Fleet.start(@first)
    {:ok, balancer} = GrpcLb.new(:round_robin, Fleet.backends(members))

    %{
      view: view,
      balancer: balancer,
      callers: Callers.new(@callers, balancer),
      step: %{ms: round(seconds * 1000 / @steps), requests: ceil(requests / @steps), done: 0},
      members: members,
      tally: %Tally{}
    }
    |> show()
    |> tell(
      "servers up, by OS process: " <> Enum.map_join(members, ", ", &"#{&1.name} #{&1.os_pid}")
    )
    |> run(:steady, &step/1)
    |> run(:changing, &(&1 |> kill() |> step() |> join() |> step() |> drain() |> step()))
    |> run(:settled, &step/1)
    |> close()
    |> facts(requests)
  end

  # Between two runs every caller has finished its last request.
  defp run(play, stage, script) do
    ^stage = Stage.advance(play.callers.stage)
    tasks = Callers.start(play.callers)
    play = script.(play)
    :rest = Stage.advance(play.callers.stage)
    %{play | tally: Tally.merge([play.tally, Callers.await(tasks)])}
  end

  defp step(%{step: step} = play) do
    from_ms = now(:millisecond)
    from = Fleet.answered(play.members)

    await(fn ->
      time = (now(:millisecond) - from_ms) / max(step.ms, 1)
      requests = (Fleet.answered(play.members) - from) / step.requests
      part = time |> min(requests) |> min(1)
      View.progress(play.view, (step.done + part) / @steps)
      part == 1
    end)

    put_in(play.step.done, step.done + 1)
  end

  defp kill(play) do
    member = member(play, @killed)
    await(fn -> Fleet.in_flight(member) > 0 end)
    :ok = Fleet.kill(member)
    removal_us = await_down(play.balancer, now(:microsecond))
    :taken_out = Stage.advance(play.callers.stage)

    play
    |> put_member(Fleet.bury(member))
    |> show()
    |> Map.put(:removal_us, removal_us)
    |> tell("#{@killed} was killed with SIGKILL, and has left the rotation with its connection")
  end

  # How long the balancer went on picking a backend whose owner was dead.
  defp await_down(balancer, from) do
    took = now(:microsecond) - from

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
    |> tell("#{Enum.join(@new, " and ")} were started and reconciled in")
  end

  defp drain(play) do
    member = member(play, @drained)
    play = play |> put_member(%{member | state: :draining}) |> show()
    {:ok, left} = reconcile(play)
    :drained = Stage.advance(play.callers.stage)
    in_flight = Fleet.in_flight(member)
    await(fn -> Stage.entered_by_all?(play.callers.stage) end)

    play
    |> put_member(Fleet.stop(member, :drained))
    |> show()
    |> Map.merge(%{left: left, left_in_flight: in_flight})
    |> tell("#{@drained} was reconciled out, finished its requests, and was stopped")
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

  defp show(play) do
    View.show(play.view, play.members, play.callers)
    play
  end

  defp tell(play, event) do
    View.event(play.view, event)
    play
  end

  defp await(done?) do
    unless done?.() do
      Process.sleep(@poll_ms)
      await(done?)
    end
  end

  defp now(unit), do: System.monotonic_time(unit)
end
