defmodule GrpcLb.TicketTest do
  # Calls in flight: checkout, complete, run.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.Clock

  # What is counted of the only backend.
  defp counts(lb) do
    %{backends: [backend]} = GrpcLb.info(lb)
    Map.take(backend, [:in_flight, :picks, :successes, :failures])
  end

  defp in_flight(lb), do: Map.new(GrpcLb.info(lb).backends, &{&1.id, &1.in_flight})

  # Runs `fun` in a process of its own, of which nothing is left when this returns.
  defp elsewhere(fun) do
    {pid, monitor} = spawn_monitor(fun)

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} -> reason
    end
  end

  describe "checkout/1 and complete/3" do
    test "count a call, and how it ended" do
      for policy <- [
            :round_robin,
            :random,
            :pick_first,
            :least_request,
            :peak_ewma,
            :weighted_round_robin,
            {:weighted_round_robin, weights: :reported}
          ] do
        {:ok, lb} = GrpcLb.new(policy, a: 1)

        for {outcome, successes, failures, picks} <- [
              {:ok, 1, 0, 1},
              {{:error, :timeout}, 1, 1, 2},
              {:cancelled, 1, 1, 3}
            ] do
          assert {:ok, 1, ticket} = GrpcLb.checkout(lb)
          assert is_reference(ticket)
          assert %{in_flight: 1, picks: ^picks} = counts(lb)
          assert GrpcLb.complete(ticket, outcome) == :ok

          assert counts(lb) ==
                   %{in_flight: 0, picks: picks, successes: successes, failures: failures}

          for again <- [:ok, {:error, 1}, :cancelled] do
            assert GrpcLb.complete(ticket, again) == {:error, :already_completed}
          end

          assert %{in_flight: 0, successes: ^successes, failures: ^failures} = counts(lb)
        end
      end
    end

    test "choose as pick/1 does, with and without a key" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1, b: 2)

      values =
        for i <- 1..6 do
          {:ok, value, _ticket} =
            if rem(i, 2) == 0, do: GrpcLb.checkout(lb), else: GrpcLb.checkout(lb, "key")

          value
        end

      assert values == [1, 2, 1, 2, 1, 2]
      assert GrpcLb.pick(lb) == {:ok, 1}
      assert [%{picks: 4}, %{picks: 3}] = GrpcLb.info(lb).backends
    end

    test "say why there is no backend" do
      {:ok, lb} = GrpcLb.new(:least_request, [])
      assert GrpcLb.checkout(lb) == {:error, :no_backends}
      assert GrpcLb.checkout(lb, :key) == {:error, :no_backends}
      GrpcLb.close(lb)
      assert GrpcLb.checkout(lb) == {:error, :closed}
    end

    test "know no latency before the first call has ended, other than cancelled" do
      for policy <- [:least_request, :peak_ewma, :round_robin] do
        {:ok, lb} = GrpcLb.new(policy, a: 1)
        assert [%{latency_ns: nil}] = GrpcLb.info(lb).backends
        {:ok, 1, ticket} = GrpcLb.checkout(lb)
        GrpcLb.complete(ticket, :cancelled)
        assert [%{latency_ns: nil}] = GrpcLb.info(lb).backends
        GrpcLb.run(lb, fn 1 -> :ok end)
        assert [%{latency_ns: latency}] = GrpcLb.info(lb).backends
        assert is_integer(latency)
      end
    end

    test "measure how long a call takes" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      before = System.monotonic_time(:nanosecond)
      GrpcLb.run(lb, fn 1 -> :ok end)
      most = System.monotonic_time(:nanosecond) - before
      assert [%{latency_ns: latency}] = GrpcLb.info(lb).backends

      # By another clock, which the VM may just be correcting its own by, by one in fifty at most.
      assert latency in 1..(most + div(most, 50) + 1_000_000)

      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:least_request, [a: 1], clock: clock)

      GrpcLb.run(lb, fn 1 ->
        Clock.advance(clock, 20)
        :ok
      end)

      assert [%{latency_ns: 20_000_000}] = GrpcLb.info(lb).backends
    end

    test "are told the latency by who knows better" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:least_request, [a: 1], clock: clock)

      for {latency, known} <- [{:none, nil}, {7, 7}] do
        {:ok, 1, ticket} = GrpcLb.checkout(lb)
        Clock.advance(clock, 1_000)
        assert GrpcLb.complete(ticket, :ok, latency: latency) == :ok
        assert [%{latency_ns: ^known}] = GrpcLb.info(lb).backends
      end

      assert %{successes: 2} = counts(lb)
    end

    test "that are garbage tell how long they have lasted" do
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new(:peak_ewma, [a: 1], clock: clock)

      GrpcLb.run(lb, fn 1 ->
        Clock.advance(clock, 1)
        :ok
      end)

      assert [%{latency_ns: 1_000_000}] = GrpcLb.info(lb).backends

      {caller, monitor} =
        spawn_monitor(fn ->
          {:ok, 1, ticket} = GrpcLb.checkout(lb)
          receive(do: (:never -> ticket))
        end)

      eventually(fn -> match?(%{in_flight: 1}, counts(lb)) end)
      Clock.advance(clock, 1_000)
      Process.exit(caller, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^caller, :killed}
      # One alone is not believed whole.
      eventually(fn -> hd(GrpcLb.info(lb).backends).latency_ns > 1_000_000 end)
      assert %{in_flight: 0, failures: 0} = counts(lb)
    end

    test "work on when the backend is gone from the list, or the balancer closed" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1)
      {:ok, 1, one} = GrpcLb.checkout(lb)
      {:ok, 1, other} = GrpcLb.checkout(lb)
      GrpcLb.reconcile(lb, b: 2)
      assert GrpcLb.complete(one, :ok) == :ok
      GrpcLb.close(lb)
      assert GrpcLb.complete(other, {:error, :gone}) == :ok
      assert GrpcLb.complete(other, :ok) == {:error, :already_completed}
    end

    test "keep the counts of an id over a reconcile, with its calls in flight" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      {:ok, 1, ticket} = GrpcLb.checkout(lb)
      GrpcLb.reconcile(lb, [{:a, :other, weight: 3}])
      assert %{in_flight: 1} = counts(lb)
      GrpcLb.complete(ticket, :ok)
      assert %{in_flight: 0, successes: 1} = counts(lb)
    end

    test "count anew for an id that was gone, whatever becomes of its earlier calls" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      {:ok, 1, ticket} = GrpcLb.checkout(lb)
      GrpcLb.reconcile(lb, [])
      GrpcLb.reconcile(lb, a: 1)
      assert counts(lb) == %{in_flight: 0, picks: 0, successes: 0, failures: 0}
      GrpcLb.complete(ticket, {:error, :late})
      assert counts(lb) == %{in_flight: 0, picks: 0, successes: 0, failures: 0}
    end

    test "a ticket outlives its balancer" do
      test = self()

      elsewhere(fn ->
        {:ok, lb} = GrpcLb.new(:least_request, a: {:a, :tuple})
        {:ok, {:a, :tuple}, ticket} = GrpcLb.checkout(lb)
        send(test, {:ticket, ticket})
      end)

      assert_received {:ticket, ticket}
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert GrpcLb.complete(ticket, :ok) == {:error, :already_completed}
    end

    test "name a wrong argument, and end no call" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1)
      {:ok, 1, ticket} = GrpcLb.checkout(lb)

      for {outcome, opts, message} <- [
            {:error, [], "outcome must be :ok, {:error, reason} or :cancelled, got: :error"},
            {{:ok, 1}, [], "outcome must be"},
            {nil, [], "outcome must be"},
            {{:error}, [], "outcome must be"},
            {:ok, %{}, "options of complete/3 must be a keyword list, got: %{}"},
            {:ok, [report: ""], "unknown option :report of complete/3, expected :load_report or"},
            {:ok, [latency: -1], "option :latency of complete/3 must be an integer from 0"},
            {:ok, [latency: 1.0], "option :latency of complete/3 must be an integer from 0"},
            {:ok, [latency: :some], "option :latency of complete/3 must be an integer from 0"},
            {:ok, [load_report: 1], "a load report must be a binary or a map, got: 1"},
            {:ok, [load_report: %{eps: "1"}], ":eps of a load report must be a number"}
          ] do
        error = assert_raise ArgumentError, fn -> GrpcLb.complete(ticket, outcome, opts) end
        assert String.starts_with?(error.message, message), error.message
      end

      assert %{in_flight: 1} = counts(lb)
      assert GrpcLb.complete(ticket, :ok) == :ok
    end

    test "know a ticket from other terms, and a balancer from a ticket" do
      {:ok, lb} = GrpcLb.new(:round_robin, a: 1)
      {:ok, 1, ticket} = GrpcLb.checkout(lb)
      # A reference of another node.
      remote = :erlang.binary_to_term(<<131, 90, 0, 3, 119, 1, ?x, 1::32, 1::32, 2::32, 3::32>>)

      for other <- [lb, make_ref(), remote, :atomics.new(1, []), nil, self(), 1, "", [], %{}, {}] do
        for complete <- [&GrpcLb.complete/2, &GrpcLb.Native.complete(&1, &2, nil)] do
          error = assert_raise ArgumentError, fn -> complete.(other, :ok) end
          assert error.message =~ "argument 1 is not a ticket"
        end
      end

      for call <- [
            &GrpcLb.pick/1,
            &GrpcLb.checkout/1,
            &GrpcLb.info/1,
            &GrpcLb.close/1,
            &GrpcLb.set_state(&1, :a, :ready),
            &GrpcLb.report(&1, :a, ""),
            &GrpcLb.run(&1, fn _ -> :ok end)
          ] do
        error = assert_raise ArgumentError, fn -> call.(ticket) end
        assert error.message =~ "argument 1 is not a balancer"
      end

      assert %{in_flight: 1} = counts(lb)
    end
  end

  describe "a ticket" do
    test "can be completed by the process that it was sent to" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      {:ok, 1, ticket} = GrpcLb.checkout(lb)
      test = self()

      pid =
        spawn_link(fn ->
          receive(do: ({:end, ticket} -> send(test, GrpcLb.complete(ticket, :ok))))
        end)

      send(pid, {:end, ticket})
      assert_receive :ok, 10_000
      assert GrpcLb.complete(ticket, :ok) == {:error, :already_completed}
      assert %{in_flight: 0, successes: 1} = counts(lb)
    end

    test "whose holder dies counts as cancelled" do
      for how <- [:normal, :kill, :boom] do
        {:ok, lb} = GrpcLb.new(:least_request, a: 1)
        test = self()

        {pid, monitor} =
          spawn_monitor(fn ->
            {:ok, 1, ticket} = GrpcLb.checkout(lb)
            send(test, :checked_out)
            receive(do: (:die -> exit({how, ticket})))
          end)

        assert_receive :checked_out, 10_000
        assert %{in_flight: 1} = counts(lb)
        if how == :kill, do: Process.exit(pid, :kill), else: send(pid, :die)

        # The reason, which may hold the ticket, goes with the message.
        receive do
          {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
        end

        :erlang.garbage_collect()
        eventually(fn -> counts(lb) == %{in_flight: 0, picks: 1, successes: 0, failures: 0} end)
      end
    end

    test "that is forgotten counts as cancelled when it is garbage" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      test = self()

      pid =
        spawn_link(fn ->
          check_out_and_forget(lb)
          send(test, :forgotten)
          receive(do: (:collect -> :erlang.garbage_collect()))
          send(test, :collected)
          Process.sleep(:infinity)
        end)

      assert_receive :forgotten, 10_000
      assert %{in_flight: 1} = counts(lb)
      send(pid, :collect)
      assert_receive :collected, 10_000
      eventually(fn -> counts(lb) == %{in_flight: 0, picks: 1, successes: 0, failures: 0} end)
    end

    test "that is held elsewhere outlives the process that made it" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      table = :ets.new(:tickets, [:public])

      elsewhere(fn ->
        {:ok, 1, ticket} = GrpcLb.checkout(lb)
        :ets.insert(table, {:ticket, ticket})
      end)

      assert %{in_flight: 1} = counts(lb)
      [{:ticket, ticket}] = :ets.lookup(table, :ticket)
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert %{in_flight: 0, successes: 1} = counts(lb)
    end

    test "that was completed does not count again as garbage" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)

      elsewhere(fn ->
        {:ok, 1, ticket} = GrpcLb.checkout(lb)
        :ok = GrpcLb.complete(ticket, {:error, 1})
      end)

      # Until this one is gone, too, that one is.
      elsewhere(fn -> {:ok, 1, _ticket} = GrpcLb.checkout(lb) end)
      eventually(fn -> counts(lb) == %{in_flight: 0, picks: 2, successes: 0, failures: 1} end)
    end

    defp check_out_and_forget(lb) do
      {:ok, 1, _ticket} = GrpcLb.checkout(lb)
      :ok
    end
  end

  describe "many processes" do
    @describetag :concurrency

    test "complete a ticket once, whoever comes first" do
      {:ok, lb} = GrpcLb.new(:least_request, a: 1)

      for _ <- 1..200 do
        {:ok, 1, ticket} = GrpcLb.checkout(lb)
        results = together(8, fn _ -> GrpcLb.complete(ticket, :ok) end)
        assert Enum.sort(results) == [:ok | List.duplicate({:error, :already_completed}, 7)]
      end

      assert %{in_flight: 0, successes: 200, failures: 0} = counts(lb)
    end

    test "count every call that they make" do
      for policy <- [:round_robin, :least_request, :peak_ewma, :random, :weighted_round_robin] do
        {:ok, lb} = GrpcLb.new(policy, Enum.to_list(1..5), max_requests: 64)

        together(16, fn i ->
          for j <- 1..300 do
            {:ok, _value, ticket} = GrpcLb.checkout(lb)
            outcome = Enum.at([:ok, {:error, i}, :cancelled], rem(j, 3))
            :ok = GrpcLb.complete(ticket, outcome)
          end
        end)

        backends = GrpcLb.info(lb).backends
        sum = fn key -> backends |> Enum.map(& &1[key]) |> Enum.sum() end
        assert {sum.(:in_flight), sum.(:picks)} == {0, 4_800}
        assert {sum.(:successes), sum.(:failures)} == {1_600, 1_600}
      end
    end

    test "that are killed with calls in flight leave none" do
      # Each has 6 calls in flight at most.
      {:ok, lb} = GrpcLb.new(:least_request, Enum.to_list(1..5), max_requests: 1_200)
      test = self()

      pids =
        for _ <- 1..200 do
          # Linked, so that none goes on where the test fails.
          spawn_link(fn ->
            for _ <- 1..5, do: {:ok, _value, _ticket} = GrpcLb.checkout(lb)
            send(test, :busy)
            call_forever(lb)
          end)
        end

      for _ <- pids, do: assert_receive(:busy, 10_000)
      for pid <- pids, do: Process.unlink(pid)
      kill(pids)
      eventually(fn -> in_flight(lb) == Map.new(1..5, &{&1, 0}) end)
      # Nothing is left of the limit either.
      tickets = for _ <- 1..1_200, do: elem(GrpcLb.checkout(lb), 2)
      assert GrpcLb.checkout(lb) == {:error, :overloaded}
      for ticket <- tickets, do: :ok = GrpcLb.complete(ticket, :ok)
    end

    defp call_forever(lb) do
      with {:ok, _value, ticket} <- GrpcLb.checkout(lb), do: GrpcLb.complete(ticket, :ok)
      call_forever(lb)
    end
  end

  describe "run/3" do
    setup do
      {:ok, lb} = GrpcLb.new(:least_request, a: 7)
      %{lb: lb}
    end

    test "calls with the value, in flight, and returns the result", %{lb: lb} do
      assert GrpcLb.run(lb, fn value -> {value, counts(lb).in_flight} end) == {7, 1}
      assert %{in_flight: 0, successes: 1} = counts(lb)
    end

    test "takes errors for failures, and all else for success", %{lb: lb} do
      for result <- [:error, {:error, 1}, {:error, 1, 2}, {:error}] do
        assert GrpcLb.run(lb, fn 7 -> result end) == result
      end

      assert %{successes: 0, failures: 4} = counts(lb)
      results = [:ok, {:ok, 1}, nil, {}, [:error], %{error: 1}, "error", {:errors, 1}]
      for result <- results, do: assert(GrpcLb.run(lb, fn 7 -> result end) == result)
      assert %{in_flight: 0, successes: 8, failures: 4} = counts(lb)
    end

    test "asks how the call went, and for a report", %{lb: lb} do
      for {outcome, successes, failures} <- [
            {:ok, 1, 0},
            {{:error, :teapot}, 1, 1},
            {:cancelled, 1, 1}
          ] do
        result =
          GrpcLb.run(lb, fn 7 -> {:result, outcome} end,
            outcome: fn {:result, outcome} -> outcome end,
            load_report: fn {:result, _outcome} -> "malformed" end
          )

        assert result == {:result, outcome}
        assert %{in_flight: 0, successes: ^successes, failures: ^failures} = counts(lb)
      end

      assert GrpcLb.run(lb, & &1, load_report: fn 7 -> nil end, outcome: nil, key: 1) == 7
      assert GrpcLb.info(lb).malformed_reports == 3
    end

    test "counts a failure when the function raises, exits or throws, which goes on", %{lb: lb} do
      assert_raise RuntimeError, "oops", fn -> GrpcLb.run(lb, fn _ -> raise "oops" end) end
      assert %{in_flight: 0, failures: 1} = counts(lb)
      assert catch_exit(GrpcLb.run(lb, fn _ -> exit(:timeout) end)) == :timeout
      assert %{in_flight: 0, failures: 2} = counts(lb)
      assert catch_throw(GrpcLb.run(lb, fn _ -> throw(:ball) end)) == :ball
      assert counts(lb) == %{in_flight: 0, picks: 3, successes: 0, failures: 3}

      stacktrace =
        try do
          GrpcLb.run(lb, fn _ -> apply(:erlang, :binary_to_atom, [1]) end)
        rescue
          ArgumentError -> __STACKTRACE__
        end

      assert [{:erlang, :binary_to_atom, _, _} | _] = stacktrace
    end

    test "counts nothing against the backend when the other functions fail", %{lb: lb} do
      for {opts, message} <- [
            {[outcome: fn _ -> raise ArgumentError, "mine" end], "mine"},
            {[outcome: fn _ -> :fine end], "outcome must be :ok"},
            {[load_report: fn _ -> raise ArgumentError, "mine" end], "mine"},
            {[load_report: fn _ -> %{cpu: 1} end], "unknown field :cpu of a load report"}
          ] do
        error = assert_raise ArgumentError, fn -> GrpcLb.run(lb, & &1, opts) end
        assert error.message =~ message
      end

      assert counts(lb) == %{in_flight: 0, picks: 4, successes: 0, failures: 0}
    end

    test "counts as cancelled when its process is killed", %{lb: lb} do
      test = self()

      pid =
        spawn(fn ->
          GrpcLb.run(lb, fn _ ->
            send(test, :calling)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :calling, 10_000
      assert %{in_flight: 1} = counts(lb)
      kill([pid])
      eventually(fn -> counts(lb) == %{in_flight: 0, picks: 1, successes: 0, failures: 0} end)
    end

    test "returns why there is no backend, and does not call" do
      never = fn _ -> flunk("called") end
      {:ok, empty} = GrpcLb.new(:round_robin, [])
      assert GrpcLb.run(empty, never) == {:error, :no_backends}
      {:ok, full} = GrpcLb.new(:round_robin, [:a], max_requests: 0)
      assert GrpcLb.run(full, never) == {:error, :overloaded}
      GrpcLb.close(full)
      assert GrpcLb.run(full, never) == {:error, :closed}
    end

    test "can be nested", %{lb: lb} do
      deepest = fn _ -> counts(lb).in_flight end
      assert GrpcLb.run(lb, fn _ -> GrpcLb.run(lb, deepest) end) == 2
      assert %{in_flight: 0, successes: 2} = counts(lb)
    end

    test "names a wrong argument before it calls", %{lb: lb} do
      fun = fn _ -> flunk("called") end

      for {args, message} <- [
            {[lb, :fun], "fun must be a function of one argument, got: :fun"},
            {[lb, fn -> :ok end], "fun must be a function of one argument"},
            {[lb, fun, %{}], "options of run/3 must be a keyword list"},
            {[lb, fun, [timeout: 1]],
             "unknown option :timeout of run/3, expected :key or :outcome or :load_report"},
            {[lb, fun, [outcome: :ok]],
             "option :outcome of run/3 must be a function of one argument, or nil, got: :ok"},
            {[lb, fun, [load_report: ""]], "option :load_report of run/3 must be a function"},
            {[make_ref(), fun], "argument 1 is not a balancer"}
          ] do
        error = assert_raise ArgumentError, fn -> apply(GrpcLb, :run, args) end
        assert String.starts_with?(error.message, message), error.message
      end

      assert %{picks: 0} = counts(lb)
    end
  end

  describe "load reports" do
    # cpu_utilization (field 1), rps_fractional (field 6): doubles, as protobuf has them.
    defp encoded(cpu, rps), do: <<0x09, cpu::float-little, 0x31, rps::float-little>>

    defp reported(opts \\ []) do
      opts = [weights: :reported, blackout_period: 0, weight_update_period: 100] ++ opts
      clock = Clock.manual()
      {:ok, lb} = GrpcLb.new({:weighted_round_robin, opts}, [:a, :b], clock: clock)
      {lb, clock}
    end

    defp weights(lb), do: Map.new(GrpcLb.info(lb).backends, &{&1.id, &1.current_weight})

    # Gives each of two backends a call that ends with its report.
    defp complete_with(lb, reports) do
      for _ <- 1..2, into: %{} do
        {:ok, value, ticket} = GrpcLb.checkout(lb)
        {value, GrpcLb.complete(ticket, :ok, load_report: reports[value])}
      end
    end

    test "of calls become weights, encoded or as maps" do
      {lb, clock} = reported()
      assert weights(lb) == %{a: nil, b: nil}

      reports = %{a: encoded(0.5, 100.0), b: %{cpu_utilization: 1, rps_fractional: 50}}
      assert complete_with(lb, reports) == %{a: :ok, b: :ok}
      Clock.advance(clock, 100)
      assert weights(lb) == %{a: 200.0, b: 50.0}
      assert GrpcLb.info(lb).malformed_reports == 0
    end

    test "out of band become weights; those of calls do not count beside them" do
      {lb, clock} = reported(reports: :out_of_band)
      GrpcLb.report(lb, :a, encoded(0.5, 100.0))
      GrpcLb.report(lb, :b, %{application_utilization: 0.25, rps_fractional: 10})
      Clock.advance(clock, 100)
      assert weights(lb) == %{a: 200.0, b: 40.0}

      report = encoded(0.5, 1.0)
      complete_with(lb, %{a: report, b: report})
      GrpcLb.report(lb, :a, encoded(0.5, 300.0))
      Clock.advance(clock, 100)
      assert weights(lb) == %{a: 600.0, b: 40.0}
    end

    test "count errors, and the metrics that are named" do
      {lb, clock} = reported(error_utilization_penalty: 2, metric_names: ["named_metrics.queue"])
      GrpcLb.report(lb, :a, %{rps_fractional: 100, eps: 25, named_metrics: %{"queue" => 0.5}})

      GrpcLb.report(lb, :b, %{
        rps_fractional: 100,
        named_metrics: %{"stack" => 1},
        cpu_utilization: 0.1
      })

      Clock.advance(clock, 100)
      assert weights(lb) == %{a: 100.0, b: 1000.0}
    end

    test "that are malformed are counted, and nothing else" do
      for policy <- [:round_robin, {:weighted_round_robin, weights: :reported}] do
        {:ok, lb} = GrpcLb.new(policy, [:a])

        for {malformed, i} <-
              Enum.with_index([<<0xFF>>, <<0x09, 1>>, :binary.copy(<<0x42, 0>>, 4_097)]) do
          {:ok, :a, ticket} = GrpcLb.checkout(lb)
          assert GrpcLb.complete(ticket, :ok, load_report: malformed) == :ok
          assert GrpcLb.info(lb).malformed_reports == 2 * i + 1
          assert GrpcLb.report(lb, :a, malformed) == :ok
          assert GrpcLb.info(lb).malformed_reports == 2 * i + 2
        end

        assert %{in_flight: 0, successes: 3, failures: 0} = counts(lb)
      end
    end

    test "that are well formed are fine wherever they have no use" do
      {:ok, lb} = GrpcLb.new(:random, [:a])
      assert GrpcLb.report(lb, :a, "") == :ok
      assert GrpcLb.report(lb, :a, encoded(0.5, 1.0)) == :ok
      {:ok, :a, ticket} = GrpcLb.checkout(lb)
      assert GrpcLb.complete(ticket, :ok, load_report: encoded(0.5, 1.0)) == :ok
      assert %{malformed_reports: 0, backends: [%{weight: 1}]} = GrpcLb.info(lb)
    end

    test "of unknown backends are not found" do
      {:ok, lb} = GrpcLb.new({:weighted_round_robin, weights: :reported}, [:a])
      assert GrpcLb.report(lb, :b, "") == {:error, :not_found}
      GrpcLb.close(lb)
      assert GrpcLb.report(lb, :a, "") == {:error, :closed}
    end
  end
end
