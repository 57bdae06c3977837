defmodule GrpcLb.Connection.FeedbackTest do
  # What connections know of the calls that their backends are picked for.
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver, TcpTransport}

  @moduletag capture_log: true

  defp backend(handle, server) do
    id = Loopback.id(server)
    Enum.find(GrpcLb.info(handle.balancer).backends, &(&1.id == id))
  end

  defp counts(handle, server) do
    backend = backend(handle, server)
    {backend.successes, backend.failures, backend.in_flight}
  end

  # A call that gives up soon on the one server that does not answer, and waits for all others.
  defp ask(handle, stalled) do
    id = Loopback.id(stalled)

    Connection.run(handle, fn {name, _pid} = value ->
      TcpTransport.call(value, "hello", if(name == id, do: 100, else: 10_000))
    end)
  end

  describe "checkout/1" do
    test "counts a call as in flight until it is completed" do
      server = Loopback.start()
      handle = connect!([server])
      assert {:ok, value, ticket} = Connection.checkout(handle)
      assert counts(handle, server) == {0, 0, 1}
      assert TcpTransport.call(value, "hello") == {:ok, "hello"}
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert counts(handle, server) == {1, 0, 0}
      assert {:ok, ^value, ticket} = Connection.checkout(handle, "a key")
      assert GrpcLb.complete(ticket, :cancelled) == :ok
      assert counts(handle, server) == {1, 0, 0}
    end

    test "says when there is nothing to check out" do
      server = Loopback.start(:refuse)
      {handle, _pid} = supervised!(target: static([server]))
      assert Connection.checkout(handle) == {:error, :no_backends}
      Connection.disconnect(handle)
      assert Connection.checkout(handle) == {:error, :closed}
      assert Connection.checkout(handle, "a key") == {:error, :closed}
      assert_raise ArgumentError, fn -> apply(Connection, :checkout, [:no_handle]) end
    end

    test "of a backend that leaves meanwhile can be completed" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a], max_requests: 1, drain_timeout: 60_000)
      {:ok, value, ticket} = Connection.checkout(handle)
      ScriptedResolver.set(names, [b])
      Connection.resolve_now(handle)
      await_ids(handle, [b])
      assert TcpTransport.call(value, "still") == {:ok, "still"}
      # It is one of the balancer's calls still.
      assert Connection.checkout(handle) == {:error, :overloaded}
      assert GrpcLb.complete(ticket, :ok) == :ok
      assert {:ok, _value, _ticket} = Connection.checkout(handle)
    end
  end

  describe "run/2 and run/3" do
    test "tell how calls went" do
      server = Loopback.start()
      handle = connect!([server])
      assert echo(handle) == {:ok, "hello"}
      assert Connection.run(handle, &TcpTransport.call(&1, "hello"), key: 1) == {:ok, "hello"}
      assert Connection.run(handle, fn _ -> {:error, :mine} end) == {:error, :mine}
      assert Connection.run(handle, fn _ -> :error end, key: 1) == :error
      assert catch_error(Connection.run(handle, fn _ -> raise "mine" end)).message == "mine"
      assert catch_exit(Connection.run(handle, fn _ -> exit(:mine) end, key: 1)) == :mine
      assert catch_throw(Connection.run(handle, fn _ -> throw(:mine) end, key: 1)) == :mine
      assert counts(handle, server) == {2, 5, 0}
    end

    test "take the options of GrpcLb.run/3" do
      policy = {:weighted_round_robin, weights: :reported, blackout_period: 0}
      server = Loopback.start()
      handle = connect!([server], policy: policy)
      report = fn {:ok, _answer} -> %{rps_fractional: 100, application_utilization: 0.5} end
      call = &TcpTransport.call(&1, "hello")
      assert Connection.run(handle, call, load_report: report) == {:ok, "hello"}
      eventually(fn -> backend(handle, server).current_weight == 200.0 end)
      assert Connection.run(handle, fn _ -> 1 end, outcome: fn 1 -> {:error, :odd} end) == 1
      assert counts(handle, server) == {1, 1, 0}

      for {args, message} <- [
            {[fn _ -> 1 end, [retries: 1]], ~r/unknown option :retries of run\/3/},
            {[fn _ -> 1 end, :opts], ~r/options of run\/3 must be a keyword list, got: :opts/},
            {["a key", fn _ -> 1 end], ~r/fun must be .* one argument, got: "a key"/},
            {[fn _, _ -> 1 end, [key: 1]], ~r/fun must be .* one argument, got: #Function/},
            {[fn _ -> 1 end, fn _ -> 1 end], ~r/options of run\/3 must be .* got: #Function/}
          ] do
        assert_raise ArgumentError, message, fn -> apply(Connection, :run, [handle | args]) end
      end

      assert counts(handle, server) == {1, 1, 0}
    end

    test "leave nothing in flight when their process is killed" do
      server = Loopback.start()
      handle = connect!([server])
      Loopback.become(server, :stall)

      call = &TcpTransport.call(&1, "hello", :infinity)
      callers = for _ <- 1..20, do: spawn(fn -> Connection.run(handle, call) end)
      eventually(fn -> counts(handle, server) == {0, 0, 20} end)
      kill(callers)
      eventually(fn -> counts(handle, server) == {0, 0, 0} end)
    end
  end

  describe "policies and options that look at calls" do
    test "outlier detection takes out a server that does not answer" do
      servers = [stalled | well] = for _ <- 1..4, do: Loopback.start()

      handle =
        connect!(servers,
          check_interval: :infinity,
          outlier_detection: [consecutive_failures: 2, base_ejection_time: 3_600_000]
        )

      await_ids(handle, servers)
      Loopback.become(stalled, :stall)
      for _ <- 1..8, do: ask(handle, stalled)
      eventually(fn -> backend(handle, stalled).times_ejected == 1 end)
      assert counts(handle, stalled) == {0, 2, 0}
      for _ <- 1..12, do: assert(ask(handle, stalled) == {:ok, "hello"})
      assert Enum.sort(Enum.uniq(picked(handle, 12))) == Enum.sort(Enum.map(well, &Loopback.id/1))
      # Its transport is open, and stays so.
      assert Loopback.clients(stalled) == 1
      assert Enum.all?(Connection.info(handle).backends, &(&1.state == :up))
    end

    test "stay with an endpoint whose transport is lost and opened again" do
      servers = [bad | well] = for _ <- 1..4, do: Loopback.start()

      handle =
        connect!(servers,
          check_interval: :infinity,
          outlier_detection: [consecutive_failures: 2, base_ejection_time: 3_600_000]
        )

      await_ids(handle, servers)
      Loopback.become(bad, :stall)
      for _ <- 1..8, do: ask(handle, bad)
      eventually(fn -> backend(handle, bad).times_ejected == 1 end)
      Loopback.become(bad, :refuse)
      await_ids(handle, well)
      # Its value is let go.
      eventually(fn -> match?(%{state: :connecting, value: nil}, backend(handle, bad)) end)
      assert %{failures: 2, times_ejected: 1} = backend(handle, bad)
      for _ <- 1..12, do: assert(ask(handle, bad) == {:ok, "hello"})
      Loopback.become(bad, :echo)
      await_ids(handle, servers)
      assert %{failures: 2, times_ejected: 1, ejected_until: until} = backend(handle, bad)
      assert is_integer(until)
      for _ <- 1..12, do: assert(ask(handle, bad) == {:ok, "hello"})
      assert counts(handle, bad) == {0, 2, 0}
    end

    test "are gone when the address was gone" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, names} = connect_scripted!([a, b])
      await_ids(handle, [a, b])
      for _ <- 1..4, do: echo(handle)
      assert counts(handle, a) == {2, 0, 0}
      # Also when its transport was down before.
      Loopback.become(a, :refuse)
      await_ids(handle, [b])
      ScriptedResolver.set(names, [b])
      Connection.resolve_now(handle)
      eventually(fn -> backend(handle, a) == nil end)
      Loopback.become(a, :echo)
      ScriptedResolver.set(names, [a, b])
      Connection.resolve_now(handle)
      await_ids(handle, [a, b])
      assert counts(handle, a) == {0, 0, 0}
    end

    test "are there for the process that takes over, also of a transport that is down" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      {handle, _pid} = supervised!(target: static([a, b]))
      await_ids(handle, [a, b])
      for _ <- 1..4, do: echo(handle)
      Loopback.become(a, :refuse)
      await_ids(handle, [b])
      kill([server(handle)])
      assert Connection.await_ready(handle) == :ok
      for _ <- 1..4, do: assert({:ok, "hello"} = echo(handle))
      assert counts(handle, a) == {2, 0, 0}
      Loopback.become(a, :echo)
      await_ids(handle, [a, b])
      assert counts(handle, a) == {2, 0, 0}
    end

    test "least_request spares a server that does not answer" do
      servers = [stalled, well] = for _ <- 1..2, do: Loopback.start()
      handle = connect!(servers, policy: :least_request, check_interval: :infinity)
      await_ids(handle, servers)
      Loopback.become(stalled, :stall)
      # None gives up before the test is over.
      call = &TcpTransport.call(&1, "hello", :infinity)
      callers = for _ <- 1..40, do: spawn(fn -> Connection.run(handle, call) end)
      # All that went to the well one have ended.
      eventually(fn ->
        {answered, 0, _} = counts(handle, well)
        {0, 0, waiting} = counts(handle, stalled)
        answered + waiting == 40 and waiting > 0
      end)

      on_stalled = for _ <- 1..400, do: Connection.run(handle, fn {name, _pid} -> name end)
      # Drawn twice, which is a quarter of the time. 150 is 5.8 deviations above that.
      assert Enum.count(on_stalled, &(&1 == Loopback.id(stalled))) < 150
      kill(callers)
    end

    test "a limit is one of the connection, and is passed on to its next balancer" do
      servers = for _ <- 1..2, do: Loopback.start()

      {handle, _pid} =
        supervised!(
          target: static(servers),
          policy: :least_request,
          max_requests_per_backend: 1
        )

      await_ids(handle, servers)
      tickets = for _ <- 1..2, {:ok, _value, ticket} = Connection.checkout(handle), do: ticket
      assert length(tickets) == 2
      assert Connection.checkout(handle) == {:error, :overloaded}
      assert Connection.run(handle, fn _ -> flunk("called") end) == {:error, :overloaded}

      # A crash of the process changes nothing of that.
      kill([server(handle)])
      assert Connection.await_ready(handle) == :ok
      assert Connection.checkout(handle) == {:error, :overloaded}
      Enum.each(tickets, &GrpcLb.complete(&1, :ok))
      assert {:ok, "hello"} = echo(handle)

      kill([holder(handle)])
      eventually(fn -> match?({:ok, new} when new != handle, Connection.handle(handle.name)) end)
      new = Connection.handle!(handle.name)
      await_ids(new, servers)
      for _ <- 1..2, do: assert({:ok, _value, _ticket} = Connection.checkout(new))
      assert GrpcLb.info(new.balancer).policy == :least_request
    end

    test "slow start begins with the transport" do
      [a, b] = for _ <- 1..2, do: Loopback.start()
      opts = [policy: :random, slow_start: [window: 3_600_000]]
      {handle, names} = connect_scripted!([a], opts)
      ScriptedResolver.set(names, [%{Loopback.address(a) | weight: 100}, b])
      Connection.resolve_now(handle)
      await_ids(handle, [a, b])
      assert backend(handle, a).current_weight < 100
      assert backend(handle, b).current_weight < 1
    end

    test "every policy" do
      server = Loopback.start()

      for policy <- [:weighted_round_robin, {:least_request, choices: 3}, :peak_ewma] do
        handle = connect!([server], policy: policy)
        assert {:ok, _} = echo(handle)
        name = if is_tuple(policy), do: elem(policy, 0), else: policy
        assert GrpcLb.info(handle.balancer).policy == name
      end
    end
  end

  describe "configure/2" do
    test "changes what calls meet, by the handle and by the name" do
      server = Loopback.start()
      handle = connect!([server], policy: :least_request, max_requests: 1)
      {:ok, _value, ticket} = Connection.checkout(handle)
      assert Connection.checkout(handle) == {:error, :overloaded}
      assert Connection.configure(handle, max_requests: 2) == {:ok, :changed}
      assert Connection.configure(handle.name, max_requests: 2) == {:ok, :unchanged}
      assert counts(handle, server) == {0, 0, 1}
      assert {:ok, _value, _ticket} = Connection.checkout(handle)
      assert GrpcLb.complete(ticket, :ok) == :ok
    end

    test "outlives the server" do
      server = Loopback.start()
      {handle, pid} = supervised!(target: static([server]))
      :ok = Connection.await_ready(handle)
      assert Connection.configure(handle, max_requests: 0) == {:ok, :changed}
      kill([GrpcLb.Connection.Supervisor.server(pid)])
      assert Connection.checkout(handle) == {:error, :overloaded}
      assert Connection.info(handle).ready
      assert Connection.checkout(handle) == {:error, :overloaded}
    end

    test "refuses what is wrong, and changes nothing" do
      handle = connect!([Loopback.start()], max_requests: 0)

      for opts <- [[max_requests: -1], [policy: :random], [nonsense: 1], :max_requests] do
        assert_raise ArgumentError, fn -> Connection.configure(handle, opts) end
      end

      assert Connection.checkout(handle) == {:error, :overloaded}
      assert_raise ArgumentError, ~r/no connection/, fn -> Connection.configure(:nobody, []) end
    end
  end
end
