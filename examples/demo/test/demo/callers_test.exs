defmodule Demo.CallersTest do
  use ExUnit.Case, async: true

  alias Demo.Callers
  alias Demo.Callers.{CallLog, Client, Stage, Tally, Traffic}
  alias Demo.Servers.Fleet

  describe "Callers" do
    test "make requests until they rest, and know what came of them" do
      [member] = Fleet.start(["a"])
      callers = Callers.new(3, fn -> {:ok, member.client} end, [:rest, :steady, :rest])

      {tally, :done} =
        Callers.during(callers, :steady, fn ->
          await(fn -> Fleet.answered([member]) >= 100 end)
          :done
        end)

      member = Fleet.stop(member, :stopped)
      assert tally.sent == Tally.count(tally, outcome: :answered, client: member.client)
      assert {member.served, member.exit_status} == {tally.sent, 0}
      assert Callers.failed(callers) == 0
    end

    test "count what failed" do
      callers = Callers.new(2, fn -> {:error, :no_backends} end, [:rest, :steady, :rest])
      script = fn -> await(fn -> Callers.failed(callers) > 0 end) end
      {tally, _done} = Callers.during(callers, :steady, script)
      assert Tally.failures(tally) == %{no_backends: Callers.failed(callers)}
    end

    test "notice an answer that is another's" do
      assert Callers.outcome({:ok, <<:erlang.crc32("a")::32>>}, "a") == :answered
      assert Callers.outcome({:ok, <<:erlang.crc32("b")::32>>}, "a") == {:failed, :wrong_answer}
    end

    defp await(done?), do: unless(done?.(), do: await(done?))
  end

  describe "Client" do
    # The server takes longer than the test.
    test "tells who waits when it is killed, and who comes later" do
      [member] = Fleet.boot(["a"], work: %{"a" => {60_000, 0}})
      Process.flag(:trap_exit, true)
      {:ok, client} = Client.start_link(member.number, member.meter)
      waiting = Task.async(fn -> Client.request(client, "x") end)
      await(fn -> Fleet.in_flight(member) == 1 end)
      Process.exit(client, :kill)
      assert Task.await(waiting) == {:error, :connection_lost}
      assert Client.request(client, "y") == {:error, :not_connected}
      assert %{exit_status: 0} = Fleet.stop(member, :stopped)
    end
  end

  describe "Tally" do
    test "counts what matches every filter" do
      {a, b} = {pid(), pid()}

      tally =
        %Tally{}
        |> outcome(:steady, a, :answered, 10)
        |> outcome(:steady, a, :answered, 30)
        |> outcome(:changing, a, {:failed, :timeout}, 20)
        |> outcome(:changing, b, :answered, 5)

      assert tally.sent == 4
      assert tally.slowest_us == 30
      assert Tally.count(tally) == 4
      assert Tally.count(tally, client: a) == 3
      assert Tally.count(tally, client: a, stages: [:steady]) == 2
      assert Tally.count(tally, outcome: :failed) == 1
      assert Tally.count(tally, outcome: {:failed, :timeout}, stages: [:steady]) == 0
      assert Tally.failures(tally) == %{timeout: 1}
    end

    test "merges" do
      {a, b} = {pid(), pid()}
      one = %Tally{} |> outcome(:steady, a, :answered, 10) |> outcome(:steady, b, :answered, 40)
      other = outcome(%Tally{}, :steady, a, :answered, 20)
      merged = Tally.merge([one, other, %Tally{}])

      assert merged.sent == 3
      assert merged.slowest_us == 40
      assert Tally.count(merged, client: a) == 2
      assert Tally.count(merged, client: b) == 1
    end
  end

  describe "Stage" do
    test "is left behind by all callers, or not" do
      stage = Stage.new([:rest, :steady, :rest], 2)
      assert Stage.advance(stage) == :steady
      assert Stage.enter(stage, 1) == :steady
      refute Stage.entered_by_all?(stage)
      assert Stage.enter(stage, 2) == :steady
      assert Stage.entered_by_all?(stage)
      assert Stage.advance(stage) == :rest
      refute Stage.entered_by_all?(stage)
    end

    test "comes before others" do
      stages = [:rest, :steady, :rest, :one, :two, :three, :rest]
      assert Stage.between(stages, :one, :three) == [:one, :two, :three]
      assert :rest in Stage.from(stages, :three)
      refute :two in Stage.from(stages, :three)
    end
  end

  describe "CallLog" do
    test "knows shares, error rates and latencies" do
      {a, b} = {pid(), pid()}

      log =
        for n <- 1..1000 do
          outcome = if n > 990, do: {:failed, :server_failed}, else: :answered
          new_call(if(n > 750, do: b, else: a), n, n * 1000, outcome)
        end

      assert CallLog.share(log, [b]) == 0.25
      assert CallLog.share(log, [a, b]) == 1.0
      assert CallLog.share(log, []) == 0.0
      assert CallLog.error_rate(log) == 0.01
      assert log |> CallLog.since(981) |> CallLog.error_rate() == 0.5

      permilles = [1, 500, 990, 999, 1000]
      latencies = for permille <- permilles, do: CallLog.latency_ms(log, permille)
      assert latencies == Enum.map(permilles, &(&1 / 1))

      assert CallLog.latency_ms(Enum.take(log, 1), 500) == 1.0

      assert {CallLog.latency_ms([], 990), CallLog.error_rate([]), CallLog.share([], [a])} ==
               {0.0, 0.0, 0.0}
    end
  end

  describe "Traffic" do
    test "gives every balancer every call, and logs how each went" do
      members = Fleet.start(["a"], %{"a" => {1, 50}})
      {:ok, balancer} = GrpcLb.new(:round_robin, Fleet.backends(members))
      {:ok, empty} = GrpcLb.new(:round_robin, [])
      tables = [CallLog.new(), CallLog.new()]
      # At least one call a run: the first is to fail, the second is not.
      for _ <- 1..2, do: assert(Traffic.run(Enum.zip([balancer, empty], tables), 50) == :ok)
      [log, none] = Enum.map(tables, &CallLog.calls/1)

      assert log != [] and length(log) == length(none)
      assert Enum.all?(log, &(&1.client == hd(members).client))
      assert Enum.any?(log, &(&1.outcome == :answered))
      assert Enum.any?(log, &(&1.outcome == {:failed, :server_failed}))
      assert Enum.all?(none, &({&1.client, &1.outcome} == {nil, {:failed, :no_backends}}))

      %{backends: [%{successes: ok, failures: failed}]} = GrpcLb.info(balancer)

      assert {ok, failed} ==
               {length(log) - length(CallLog.failed(log)), length(CallLog.failed(log))}

      Enum.each(members, &Fleet.stop(&1, :stopped))
    end
  end

  defp new_call(client, at_ms, took_us, outcome) do
    %{client: client, at_ms: at_ms, took_us: took_us, outcome: outcome}
  end

  defp outcome(tally, stage, client, outcome, took_us) do
    tally |> Tally.sent() |> Tally.outcome(stage, client, outcome, took_us)
  end

  defp pid, do: spawn(fn -> :ok end)
end
