defmodule GrpcLb.Connection.WaitingTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Connections
  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver, ScriptedTransport, TcpTransport}

  @moduletag :capture_log

  @id "127.0.0.1:1"

  # Started, and not connected before the test answers.
  defp connecting(opts \\ []) do
    opts = [target: "ipv4:#{@id}", transport: {ScriptedTransport, self()}] ++ opts
    {handle, _pid} = supervised!(opts)
    {handle, ScriptedTransport.opening(@id)}
  end

  defp let_open(opening), do: ScriptedTransport.answer(opening, fn -> {:ok, @id} end)
  defp let_fail(opening), do: ScriptedTransport.answer(opening, fn -> {:error, :refused} end)

  defp waiting(handle, n) do
    {_holder, %{held: held}} = GrpcLb.Holder.lookup({Connection.Held, handle.name})
    eventually(fn -> map_size(:sys.get_state(held.waiters).refs) == n end)
  end

  # The four ways to make a call, each with the option or without. They say what was picked.
  @calls [
    pick:
      quote(
        do: fn c, opts ->
          if opts == [], do: Connection.pick(c), else: Connection.pick(c, nil, opts)
        end
      ),
    "pick with a key": quote(do: fn c, opts -> Connection.pick(c, "key", opts) end),
    checkout:
      quote(
        do: fn c, opts ->
          checked_out =
            if opts == [], do: Connection.checkout(c), else: Connection.checkout(c, nil, opts)

          with {:ok, value, ticket} <- checked_out do
            GrpcLb.complete(ticket, :ok)
            {:ok, value}
          end
        end
      ),
    run: quote(do: fn c, opts -> Connection.run(c, &{:ok, &1}, opts) end)
  ]

  for {name, call} <- @calls do
    describe "#{name} of a connection that is connecting for the first time" do
      test "waits, and is served when a transport is open" do
        {handle, opening} = connecting()
        task = Task.async(fn -> unquote(call).(handle, []) end)
        waiting(handle, 1)
        let_open(opening)
        assert Task.await(task) == {:ok, @id}
        waiting(handle, 0)
      end

      test "fails when the first attempt has failed, and at once from then on" do
        {handle, opening} = connecting(backoff: [initial: 60_000])
        call = unquote(call)
        task = Task.async(fn -> call.(handle, []) end)
        waiting(handle, 1)
        let_fail(opening)
        assert Task.await(task) == {:error, :no_backends}
        assert Connection.state(handle) == :transient_failure
        assert call.(handle, []) == {:error, :no_backends}
      end

      test "waits for connect_timeout at most" do
        test = self()

        # The server does not hear that this has taken too long, which would end the wait.
        hang = fn ->
          [server | _] = Process.get(:"$ancestors")
          :ok = :sys.suspend(server)
          send(test, :hangs)
          Process.sleep(:infinity)
        end

        names = ScriptedResolver.start(hang)
        opts = [target: names, resolver: ScriptedResolver, connect_timeout: 3_000]
        {handle, _pid} = supervised!(opts)
        assert_receive :hangs
        assert unquote(call).(handle, []) == {:error, :no_backends}
        assert Connection.state(handle) == :connecting
      end

      test "does not wait where it is told so" do
        {handle, _opening} = connecting()

        for wait <- [false, 0],
            do: assert(unquote(call).(handle, wait_for_ready: wait) == {:error, :no_backends})
      end
    end

    describe "#{name} with wait_for_ready" do
      test "waits over failures until a transport is open" do
        {handle, opening} = connecting()
        call = unquote(call)
        let_fail(opening)
        eventually(fn -> Connection.state(handle) == :transient_failure end)

        tasks =
          for wait <- [:infinity, 60_000],
              do: Task.async(fn -> call.(handle, wait_for_ready: wait) end)

        waiting(handle, 2)
        ScriptedTransport.let_fail(@id)
        ScriptedTransport.let_open(@id)
        assert Task.await_many(tasks) == [{:ok, @id}, {:ok, @id}]
      end

      test "waits so long and no longer" do
        {handle, opening} = connecting(backoff: [initial: 60_000])
        let_fail(opening)
        assert unquote(call).(handle, wait_for_ready: 20) == {:error, :no_backends}
        waiting(handle, 0)
      end

      test "says when the connection ends meanwhile" do
        {handle, _opening} = connecting()
        call = unquote(call)
        task = Task.async(fn -> call.(handle, wait_for_ready: :infinity) end)
        waiting(handle, 1)
        Connection.disconnect(handle)
        assert Task.await(task) == {:error, :closed}
        assert call.(handle, wait_for_ready: :infinity) == {:error, :closed}
      end
    end
  end

  test "a lone backend that is restarted fails no call that waits, over real sockets" do
    server = Loopback.start()
    handle = connect!([server])
    assert {:ok, _} = echo(handle)
    Loopback.become(server, :refuse)
    eventually(fn -> Connection.state(handle) == :transient_failure end)
    call = &TcpTransport.call(&1, "hello")

    tasks =
      for _ <- 1..100,
          do: Task.async(fn -> Connection.run(handle, call, wait_for_ready: 20_000) end)

    waiting(handle, 100)
    assert Connection.run(handle, call) == {:error, :no_backends}
    Loopback.become(server, :echo)
    for answer <- Task.await_many(tasks, 30_000), do: assert(answer == {:ok, "hello"})
  end

  test "a connection that was ready, and is connecting again, does not wait unless asked to" do
    {handle, opening} = connecting()
    let_open(opening)
    :ok = Connection.await_ready(handle)
    assert Connection.run(handle, &{:ok, &1}) == {:ok, @id}
    # It has worked, and is opened again at once.
    send(opening, {:EXIT, spawn(fn -> :ok end), :hung_up})
    ScriptedTransport.let_close(@id)
    again = ScriptedTransport.opening(@id)
    eventually(fn -> Connection.state(handle) == :connecting end)
    assert Connection.pick(handle) == {:error, :no_backends}
    assert Connection.run(handle, & &1) == {:error, :no_backends}
    waiting = Task.async(fn -> Connection.pick(handle, nil, wait_for_ready: :infinity) end)
    waiting(handle, 1)
    let_open(again)
    assert Task.await(waiting) == {:ok, @id}
  end

  test "who came first is served first" do
    {handle, opening} = connecting()
    test = self()
    n = 100
    at_rest = [status: :waiting, message_queue_len: 0]

    callers =
      for i <- 1..n do
        pid = spawn_link(fn -> Connection.run(handle, fn _ -> send(test, {:served, i}) end) end)
        waiting(handle, i)
        # It has tried as it came.
        eventually(fn -> Process.info(pid, [:status, :message_queue_len]) == at_rest end)
        pid
      end

    for pid <- callers, do: :erlang.trace(pid, true, [:receive, :strict_monotonic_timestamp])
    let_open(opening)
    for i <- 1..n, do: assert_receive({:served, ^i})

    # The turn of each, with which it is served. It may run on while the next one has its own.
    turns =
      for pid <- callers do
        assert_receive {:trace_ts, ^pid, :receive, {_ref, :try}, turn}
        turn
      end

    assert turns == Enum.sort(turns)
  end

  test "a wait goes on when the server is started again" do
    {handle, opening} = connecting()
    task = Task.async(fn -> Connection.pick(handle, nil, wait_for_ready: :infinity) end)
    waiting(handle, 1)
    before = server(handle)
    kill([before])
    restarted(handle, before)
    let_open(opening)
    assert Task.await(task) == {:ok, @id}
  end

  test "who waits and then finds no room waits in line for that" do
    {handle, opening} = connecting(policy: :least_request, max_requests: 1, checkout_wait: 30_000)
    test = self()

    call = fn ->
      Connection.run(handle, fn value ->
        send(test, {:calling, self()})
        receive(do: (:go_on -> {:ok, value}))
      end)
    end

    tasks = for _ <- 1..3, do: Task.async(call)
    waiting(handle, 3)
    let_open(opening)

    for _ <- 1..3 do
      assert_receive {:calling, pid}
      refute_received {:calling, _another}
      send(pid, :go_on)
    end

    assert Task.await_many(tasks) == List.duplicate({:ok, @id}, 3)
  end

  test "who is killed while it waits leaves nothing" do
    {handle, _opening} = connecting()
    waiters = for _ <- 1..50, do: spawn(fn -> Connection.pick(handle) end)
    waiting(handle, 50)
    kill(waiters)
    waiting(handle, 0)
  end

  test "a telemetry handler does not wait for the process that it runs in" do
    :ok = GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
    name = make_ref()

    handler = fn
      [:grpc_lb, :connection, :reconciled], _measured, _metadata, _config ->
        :ok

      [:grpc_lb, :resolver, :resolved], _measured, %{name: ^name}, _config ->
        {:ok, handle} = Connection.handle(name)

        send(
          test,
          {:picked, Connection.pick(handle),
           Connection.pick(handle, nil, wait_for_ready: :infinity)}
        )

      _event, _measured, _metadata, _config ->
        :ok
    end

    apply(:telemetry, :attach, [name, :_, handler, nil])
    on_exit(fn -> apply(:telemetry, :detach, [name]) end)
    connecting(name: name)
    assert_receive {:picked, {:error, :no_backends}, {:error, :no_backends}}
  end

  test "the option is refused where it is wrong, and read where nobody waits" do
    handle = connect!([Loopback.start()])

    for wait <- [true, -1, :soon, 1.5, nil, 0xFFFFFFFF + 1] do
      opts = [wait_for_ready: wait]

      if wait != nil do
        assert_raise ArgumentError, ~r/:wait_for_ready of pick\/3 must be/, fn ->
          Connection.pick(handle, nil, opts)
        end

        assert_raise ArgumentError, ~r/:wait_for_ready of checkout\/3 must be/, fn ->
          Connection.checkout(handle, nil, opts)
        end

        assert_raise ArgumentError, ~r/:wait_for_ready of run\/3 must be/, fn ->
          Connection.run(handle, & &1, opts)
        end
      end
    end

    assert_raise ArgumentError, ~r/unknown option :wait/, fn ->
      Connection.pick(handle, nil, wait: 1)
    end

    assert_raise ArgumentError, ~r/unknown option :wait_for_ready/, fn ->
      GrpcLb.run(handle.balancer, & &1, wait_for_ready: 1)
    end

    assert_raise ArgumentError, ~r/expected a handle/, fn ->
      Connection.pick(:nobody, nil, wait_for_ready: 1)
    end
  end
end
