defmodule GrpcLb.Connection.BackendsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.{Address, Names, Secret}
  alias GrpcLb.Connection.{Backends, Backoff, Options, Server, Subchannel, Subchannels}

  @moduletag :capture_log

  # Every step is told to the test, and waits for it.
  defmodule Steps do
    @behaviour GrpcLb.Transport

    @impl true
    def open(address, test) do
      Process.put(:test, test)
      ask({:open, address.port})
    end

    @impl true
    def close(value), do: ask({:close, value})

    def ask(question) do
      send(Process.get(:test), {question, self()})

      receive do
        {:answer, answer} -> answer
      end
    end
  end

  # As `Steps`, and it can be checked, and waits for calls when it is closed.
  defmodule Patient do
    @behaviour GrpcLb.Transport

    @impl true
    defdelegate open(address, test), to: Steps

    @impl true
    def check(value), do: Steps.ask({:check, value})

    @impl true
    def close(value, drain_timeout), do: Steps.ask({:close, value, drain_timeout})
  end

  # Opens at once what does not end with who opened it.
  defmodule Unlinked do
    @behaviour GrpcLb.Transport

    @impl true
    def open(_address, test), do: {:ok, test}

    @impl true
    def close(test), do: send(test, {:closed, self()})
  end

  @a %Address{ip: {10, 0, 0, 1}, port: 1}
  @b %Address{ip: {10, 0, 0, 1}, port: 2}

  # The test is the server: subchannels find it by the balancer.
  setup do
    options =
      Options.new!("ipv4:10.0.0.1:1",
        transport: {Steps, self()},
        drain_timeout: 3_600_000,
        backoff: [initial: 1, max: 1]
      )

    {:ok, balancer} = GrpcLb.new(:round_robin, [], owner: self())
    {:ok, _} = Registry.register(GrpcLb.Registry, {Server, balancer}, nil)
    supervisor = {Subchannels, name: Names.via({Subchannel, balancer})}
    # Those that wait for an answer then are not waited for.
    start_supervised!(Supervisor.child_spec(supervisor, shutdown: :brutal_kill))
    %{options: options, backends: Backends.new(options, balancer)}
  end

  defp describe(backends),
    do: Backends.describe(backends) ++ Backends.describe_leaving(backends)

  defp states(backends), do: Map.new(describe(backends), &{&1.id, &1.state})
  defp ids(backends), do: for({id, {:up, _, _}, _weight} <- Backends.wanted(backends), do: id)

  defp step(question, answer) do
    assert_receive {^question, pid}, 10_000
    send(pid, {:answer, answer})
    pid
  end

  defp opened(backends, port) do
    step({:open, port}, {:ok, port})
    assert_receive {:backend_up, id, pid, value, owner}, 10_000
    Backends.up(backends, id, pid, value, owner)
  end

  defp ended(backends, pid) do
    assert_receive {{:backend_ended, id}, _monitor, :process, ^pid, reason}, 10_000
    backends |> Backends.ended(id, pid, reason) |> replaced(id)
  end

  # As the server does, once it has let go of what is not wanted any more.
  defp replaced({:lost, backends}, id), do: {:lost, Backends.replace(backends, id)}
  defp replaced({:expected, backends}, _id), do: {:expected, backends}

  # A process that is linked to the subchannel ends.
  defp break(backends, pid) do
    send(pid, {:EXIT, self(), :broken})
    assert_receive {:backend_down, id, ^pid, reason}, 10_000
    assert reason == {:down, :broken}
    backends |> Backends.down(id, pid, reason) |> replaced(id)
  end

  defp subchannel(backends, id), do: backends.entries[id].pid

  # The wait of @a is over. How long that was.
  defp rested(backends) do
    case backends.entries["10.0.0.1:1"] do
      %{state: :opening} ->
        {0, backends}

      %{state: :backoff, timer: timer, wait: wait} ->
        # At most half a minute has gone by.
        assert :erlang.read_timer(timer) in (wait - 30_000)..wait
        {wait, Backends.timeout(backends, "10.0.0.1:1", timer, :rested)}
    end
  end

  test "what is wanted is opened, listed in order, and what is not is drained", context do
    backends = context.backends |> Backends.update([@a, @b]) |> opened(2)
    assert ids(backends) == ["10.0.0.1:2"]
    backends = opened(backends, 1)
    assert ids(backends) == ["10.0.0.1:1", "10.0.0.1:2"]
    backends = Backends.update(backends, [@b])
    assert ids(backends) == ["10.0.0.1:2"]
    assert states(backends) == %{"10.0.0.1:1" => :draining, "10.0.0.1:2" => :up}
    backends = Backends.update(backends, [@b, @a])
    assert ids(backends) == ["10.0.0.1:2", "10.0.0.1:1"]
  end

  test "one that goes down is out before it is closed, and then opened again at once", context do
    backends = context.backends |> Backends.update([@a]) |> opened(1)
    pid = subchannel(backends, "10.0.0.1:1")
    assert {:lost, backends} = break(backends, pid)

    assert Backends.wanted(backends) == [
             {"10.0.0.1:1", :not_up, [locality: nil, priority: 0, weight: 1]}
           ]

    step({:close, 1}, :ok)
    assert {:expected, backends} = ended(backends, pid)
    assert [%{state: :opening, error: {:down, :broken}}] = describe(backends)
    assert [%{state: :up, error: nil}] = describe(opened(backends, 1))
  end

  test "one that went down and does not close is killed", context do
    backends = context.backends |> Backends.update([@a]) |> opened(1)
    pid = subchannel(backends, "10.0.0.1:1")
    {:lost, backends} = break(backends, pid)
    # Its calls are not those of the next one.
    assert {["10.0.0.1:1"], _} = Backends.unlisted(backends, Backends.wanted(backends))
    assert_receive {{:close, 1}, ^pid}, 10_000
    # It may drain before it closes. Its deadline is not waited for here.
    timer = backends.leaving.ones[pid].timer
    drain = backends.options.drain_timeout
    assert :erlang.read_timer(timer) in (drain - 30_000)..(drain + Subchannel.close_ms())
    backends = Backends.leaving_timeout(backends, pid, timer)
    assert [%{state: :opening}, %{state: :closing}] = describe(backends)
    assert {:expected, backends} = ended(backends, pid)
    assert [%{state: :opening, error: {:down, :broken}}] = describe(backends)
  end

  describe "with all the time there is to drain," do
    setup context do
      options = %{context.options | drain_timeout: :infinity, check_timeout: 3_600_000}
      context = %{context | options: options}

      %{
        options: context.options,
        backends: Backends.new(context.options, context.backends.balancer)
      }
    end

    # The transport to @a, which has left the list with no call in flight.
    defp drained(backends, context, module) do
      options = %{context.options | transport: put_elem(context.options.transport, 0, module)}
      backends = options |> Backends.new(backends.balancer) |> Backends.update([@a]) |> opened(1)
      {subchannel(backends, "10.0.0.1:1"), Backends.update(backends, [])}
    end

    # When the time is over that it has for what is not to wait for calls.
    defp too_long(backends, pid) do
      timer = backends.leaving.ones[pid].timer
      check = backends.options.check_timeout
      assert :erlang.read_timer(timer) in (check - 30_000)..(check + Subchannel.close_ms())
      Backends.leaving_timeout(backends, pid, timer)
    end

    test "one that does not close is killed", context do
      {pid, backends} = drained(context.backends, context, Steps)
      backends = Backends.left(backends, [{"10.0.0.1:1", :drained}])
      assert_receive {{:close, 1}, ^pid}, 10_000
      backends = too_long(backends, pid)
      assert {:expected, backends} = ended(backends, pid)
      assert describe(backends) == []
    end

    test "one that has gone down and does not close is killed", context do
      backends = context.backends |> Backends.update([@a]) |> opened(1)
      pid = subchannel(backends, "10.0.0.1:1")
      {:lost, backends} = break(backends, pid)
      assert_receive {{:close, 1}, ^pid}, 10_000
      assert {:expected, _backends} = backends |> too_long(pid) |> ended(pid)
    end

    test "one whose check does not end is killed", context do
      {pid, backends} = drained(context.backends, context, Patient)
      Subchannel.check(pid)
      assert_receive {{:check, 1}, ^pid}, 10_000
      backends = Backends.left(backends, [{"10.0.0.1:1", :drained}])
      backends = too_long(backends, pid)
      assert {:expected, backends} = ended(backends, pid)
      assert describe(backends) == []
    end

    test "one that waits for calls in its close has it", context do
      {pid, backends} = drained(context.backends, context, Patient)
      backends = Backends.left(backends, [{"10.0.0.1:1", :drained}])
      assert_receive {{:close, 1, :infinity}, ^pid}, 10_000
      backends = too_long(backends, pid)
      assert Process.alive?(pid)
      send(pid, {:answer, :ok})
      assert {:expected, _backends} = ended(backends, pid)
    end
  end

  test "one that takes no new calls is replaced at once, and later where none has worked",
       context do
    drain = fn backends ->
      pid = subchannel(backends, "10.0.0.1:1")
      GrpcLb.Transport.draining(pid)
      assert_receive {:backend_draining, id, ^pid, :asked}, 10_000
      assert {:lost, backends} = backends |> Backends.draining(id, pid, :asked) |> replaced(id)
      backends
    end

    backoff = Backoff.new(%{initial: 60_000, multiplier: 2, jitter: 0, max: 3_600_000})
    options = %{context.options | backoff: backoff}
    backends = %{context.backends | options: options} |> Backends.update([@a]) |> opened(1)
    backends = drain.(backends)
    assert [%{state: :opening, error: nil}, %{state: :draining}] = describe(backends)
    backends = backends |> opened(1) |> drain.()

    assert [%{state: :backoff, error: :draining}, %{state: :draining}, %{state: :draining}] =
             describe(backends)
  end

  describe "the waits" do
    setup context do
      backoff = Backoff.new(%{initial: 60_000, multiplier: 2, jitter: 0, max: 3_600_000})
      backends = %{context.backends | options: %{context.options | backoff: backoff}}
      %{backends: Backends.update(backends, [@a])}
    end

    # The wait after each of these, one after the other.
    defp waits(backends, steps) do
      Enum.map_reduce(steps, backends, fn what, backends -> backends |> what.() |> rested() end)
    end

    defp refused(backends) do
      {:lost, backends} = ended(backends, step({:open, 1}, {:error, :no}))
      backends
    end

    # Opens, does something, and is lost.
    defp lost(backends, meanwhile \\ & &1) do
      backends = backends |> opened(1) |> meanwhile.()
      pid = subchannel(backends, "10.0.0.1:1")
      {:lost, backends} = break(backends, pid)
      step({:close, 1}, :ok)
      {:expected, backends} = ended(backends, pid)
      backends
    end

    test "grow while a transport opens and is lost at once, and none is before the first",
         context do
      flapping = List.duplicate(&lost/1, 4)
      assert {[0, 60_000, 120_000, 240_000], backends} = waits(context.backends, flapping)
      assert {[480_000, 960_000], _} = waits(backends, [&refused/1, &lost/1])
    end

    test "grow with failures, also where one is lost in between", context do
      steps = [&refused/1, &refused/1, &lost/1]
      assert {[60_000, 120_000, 240_000], _} = waits(context.backends, steps)
    end

    test "are short again after one that has served", %{backends: backends} do
      serve = fn backends ->
        {:ok, _} = GrpcLb.reconcile(backends.balancer, [{"10.0.0.1:1", :value}])
        :served = GrpcLb.run(backends.balancer, fn :value -> :served end)
        backends
      end

      served = &lost(&1, serve)
      steps = [&refused/1, &refused/1, served, &refused/1, &lost/1, served]
      assert {[60_000, 120_000, 0, 60_000, 120_000, 0], backends} = waits(backends, steps)
      # What served before was another transport.
      assert {[60_000], _} = waits(backends, [&lost/1])
    end

    test "are not short again for what one has served that the next one follows", context do
      id = "10.0.0.1:1"
      backends = listed_first(context.backends, id)

      [before, after_it] =
        for _ <- 1..2 do
          {:ok, :first, ticket} = GrpcLb.checkout(backends.balancer)
          ticket
        end

      backends = left_by_first(backends, id)

      # The next one is up, and listed somewhat later.
      followed = fn backends ->
        GrpcLb.complete(before, :ok)
        backends = listed_next(backends, id)
        GrpcLb.complete(after_it, :ok)
        assert %{backends: [%{successes: 2}]} = GrpcLb.info(backends.balancer)
        backends
      end

      served = fn backends ->
        backends = listed_next(backends, id)
        :served = GrpcLb.run(backends.balancer, fn :next -> :served end)
        backends
      end

      assert {[60_000, 0], _} = waits(backends, [&lost(&1, followed), &lost(&1, served)])
    end

    test "are short again for what one has served before it is known what became of the calls of another",
         context do
      id = "10.0.0.1:1"
      backends = context.backends |> listed_first(id) |> left_by_first(id)

      served = fn backends ->
        listed_next(backends, id, fn ->
          :served = GrpcLb.run(backends.balancer, fn :next -> :served end)
        end)
      end

      assert {[0], _} = waits(backends, [&lost(&1, served)])
    end

    defp listed_first(backends, id) do
      backends = opened(backends, 1)
      {:ok, _} = GrpcLb.reconcile(backends.balancer, [{id, :first}])
      backends
    end

    defp left_by_first(backends, id) do
      pid = subchannel(backends, id)
      GrpcLb.Transport.draining(pid)
      assert_receive {:backend_draining, ^id, ^pid, :asked}, 10_000
      {:lost, backends} = backends |> Backends.draining(id, pid, :asked) |> replaced(id)
      backends
    end

    defp listed_next(backends, id, meanwhile \\ fn -> :nothing end) do
      {leaving, backends} = Backends.unlisted(backends, Backends.wanted(backends))
      next = [{id, :next, %{}}]
      {:ok, _, drained} = GrpcLb.Native.reconcile_draining(backends.balancer, next, leaving)
      meanwhile.()
      Backends.left(backends, Enum.zip(leaving, drained))
    end

    test "are short again after one that was up for as long as the wait", %{backends: backends} do
      up_for = fn ms ->
        ago = System.convert_time_unit(ms, :millisecond, :native)
        &update_in(&1.entries["10.0.0.1:1"].since, fn since -> since - ago end)
      end

      steps = [&refused/1, &lost(&1, up_for.(90_000)), &lost(&1, up_for.(240_000))]
      assert {[60_000, 120_000, 0], _} = waits(backends, steps)
    end
  end

  describe "the waits of one that leaves and comes back" do
    setup context do
      backoff = Backoff.new(%{initial: 60_000, multiplier: 2, jitter: 0, max: 3_600_000})
      backends = %{context.backends | options: %{context.options | backoff: backoff}}
      %{backends: Backends.update(backends, [@a])}
    end

    test "go on", %{backends: backends} do
      assert {[60_000, 120_000], backends} = waits(backends, [&refused/1, &refused/1])
      backends = backends |> refused() |> Backends.update([@b]) |> Backends.update([@a, @b])
      assert states(backends) == %{"10.0.0.1:1" => :backoff, "10.0.0.1:2" => :opening}
      entry = backends.entries["10.0.0.1:1"]
      assert :erlang.read_timer(entry.timer) in 200_000..240_000
      backends = Backends.timeout(backends, "10.0.0.1:1", entry.timer, :rested)
      assert {[480_000], _} = waits(backends, [&refused/1])
    end

    test "begin anew when it had worked", %{backends: backends} do
      {_waits, backends} = waits(backends, [&refused/1, &refused/1])
      ago = System.convert_time_unit(240_000, :millisecond, :native)
      backends = opened(backends, 1)
      backends = update_in(backends.entries["10.0.0.1:1"].since, &(&1 - ago))
      pid = subchannel(backends, "10.0.0.1:1")
      backends = Backends.update(backends, [])
      Process.exit(pid, :kill)
      {:expected, backends} = ended(backends, pid)
      backends = Backends.update(backends, [@a])
      assert {[60_000], _} = waits(backends, [&refused/1])
    end

    test "begin anew when it has been open for as long, also while it drained", context do
      %{backends: backends} = context
      {_waits, backends} = waits(backends, [&refused/1, &refused/1])
      ago = System.convert_time_unit(240_000, :millisecond, :native)
      backends = update_in(opened(backends, 1).entries["10.0.0.1:1"].since, &(&1 - ago))
      since = backends.entries["10.0.0.1:1"].since
      backends = backends |> Backends.update([]) |> Backends.update([@a])
      assert %{state: :up, since: ^since} = backends.entries["10.0.0.1:1"]
    end

    test "end on demand, all of them", %{backends: backends} do
      {_waits, backends} = waits(backends, [&refused/1, &refused/1])
      backends = backends |> refused() |> Backends.reconnect()
      assert states(backends) == %{"10.0.0.1:1" => :opening}
      assert {[60_000], backends} = waits(backends, [&refused/1])
      # Also of one that is being closed, and of one that has left.
      pid = subchannel(backends, "10.0.0.1:1")
      {:lost, backends} = break(opened(backends, 1), pid)
      backends = Backends.reconnect(backends)
      step({:close, 1}, :ok)
      {:expected, backends} = ended(backends, pid)
      assert states(backends) == %{"10.0.0.1:1" => :opening}
      backends = backends |> refused() |> Backends.update([]) |> Backends.reconnect()
      backends = Backends.update(backends, [@a])
      assert states(backends) == %{"10.0.0.1:1" => :opening}
      assert {[60_000], _} = waits(backends, [&refused/1])
    end
  end

  describe "with pick_first" do
    setup context do
      options = %{
        context.options
        | policy: :pick_first,
          backoff: Backoff.new(%{initial: 60_000, multiplier: 1, jitter: 0, max: 60_000})
      }

      backends = Backends.new(options, context.backends.balancer)
      %{backends: Backends.update(backends, [@a, @b])}
    end

    defp refuse(backends, port) do
      {:lost, backends} = ended(backends, step({:open, port}, {:error, :no}))
      backends
    end

    test "the next is dialled after a delay, and who has lost is ended", %{backends: backends} do
      assert states(backends) == %{"10.0.0.1:1" => :opening, "10.0.0.1:2" => :idle}
      assert_receive {:timeout, timer, {:backend, id, {:delay, _turn} = delay}}, 10_000
      backends = Backends.timeout(backends, id, timer, delay)
      assert states(backends) == %{"10.0.0.1:1" => :opening, "10.0.0.1:2" => :opening}
      slow = subchannel(backends, "10.0.0.1:1")
      backends = opened(backends, 2)
      assert {:expected, backends} = ended(backends, slow)
      assert states(backends) == %{"10.0.0.1:1" => :idle, "10.0.0.1:2" => :up}
      assert ids(backends) == ["10.0.0.1:2"]
    end

    test "who opens after another is closed", %{backends: backends} do
      options = %{backends.options | transport: {Unlinked, Secret.hide(self())}}
      backends = options |> Backends.new(backends.balancer) |> Backends.update([@a, @b])
      assert_receive {:backend_up, a, first, value, owner}, 10_000
      assert_receive {:timeout, timer, {:backend, ^a, delay}}, 10_000
      backends = Backends.timeout(backends, a, timer, delay)
      assert_receive {:backend_up, b, second, _value, _owner} when second != first, 10_000
      backends = Backends.up(backends, a, first, value, owner)
      # It has said so, and is not heard.
      assert Backends.up(backends, b, second, value, second) == backends
      assert_receive {:closed, closer} when closer not in [first, second], 10_000
      assert {:expected, backends} = ended(backends, second)
      assert states(backends) == %{"10.0.0.1:1" => :up, "10.0.0.1:2" => :idle}
      refute_received {:closed, _another}
    end

    test "waits that are ended have all dialled, one after the other", %{backends: backends} do
      backends = backends |> refuse(1) |> refuse(2)
      assert states(backends) == %{"10.0.0.1:1" => :backoff, "10.0.0.1:2" => :backoff}
      backends = Backends.reconnect(backends)
      assert states(backends) == %{"10.0.0.1:1" => :opening, "10.0.0.1:2" => :idle}
      assert %{"10.0.0.1:2" => :opening} = states(refuse(backends, 1))
    end

    test "one that drains does not come back beside another", %{backends: backends} do
      backends = backends |> opened(1) |> Backends.update([@b]) |> opened(2)
      backends = Backends.update(backends, [@a, @b])
      assert states(backends) == %{"10.0.0.1:1" => :draining, "10.0.0.1:2" => :up}
      # But it does while none is up.
      {:lost, backends} = break(backends, subchannel(backends, "10.0.0.1:2"))
      backends = Backends.update(backends, [@b, @a])
      assert states(backends) == %{"10.0.0.1:1" => :up, "10.0.0.1:2" => :closing}
    end
  end

  test "one that goes down while it drains is not taken back, but opened anew", context do
    backends = context.backends |> Backends.update([@a, @b]) |> opened(1) |> opened(2)
    pid = subchannel(backends, "10.0.0.1:1")
    backends = Backends.update(backends, [@b])
    assert {:expected, backends} = break(backends, pid)
    backends = Backends.update(backends, [@a, @b])
    assert ids(backends) == ["10.0.0.1:2"]
    step({:close, 1}, :ok)
    assert {:expected, backends} = ended(backends, pid)
    backends = opened(backends, 1)
    assert ids(backends) == ["10.0.0.1:1", "10.0.0.1:2"]
  end

  test "one that is not wanted any more while it opens is killed", context do
    backends = context.backends |> Backends.update([@a]) |> Backends.update([@b])
    pid = subchannel(backends, "10.0.0.1:1")
    assert {:expected, backends} = ended(backends, pid)
    assert states(backends) == %{"10.0.0.1:2" => :opening}
  end

  test "one that has opened when it is given up is closed", context do
    options = %{context.options | transport: {Unlinked, Secret.hide(self())}}
    backends = Backends.update(%{context.backends | options: options}, [@a])
    # It is told that it is open, and has not heard it yet.
    assert_receive {:backend_up, id, pid, _value, _owner} = up, 10_000
    send(self(), up)
    late = Backends.timeout(backends, id, backends.entries[id].timer, :deadline)
    assert {:lost, backends} = ended(late, pid)
    assert_receive {:closed, closer} when closer != pid, 10_000

    assert_receive {:timeout, timer, {:backend, ^id, :rested}}, 10_000
    backends = Backends.timeout(backends, id, timer, :rested)
    assert_receive {:backend_up, ^id, second, _value, _owner} when second != pid, 10_000
    dropped = Backends.update(backends, [])
    assert {:expected, backends} = ended(dropped, second)
    assert_receive {:closed, closer} when closer != second, 10_000
    assert describe(backends) == []
  end

  test "nothing is dialled, and nothing adopted, when the supervisor has been killed", context do
    %{backends: %{supervisor: supervisor} = backends, options: options} = context
    :ok = stop_supervised(Subchannels)
    refute Process.alive?(supervisor)
    backends = Backends.update(backends, [@a, @b])
    assert states(backends) == %{"10.0.0.1:1" => :queued, "10.0.0.1:2" => :queued}
    refute Backends.supervised?(backends)
    adopted = options |> Backends.new(backends.balancer) |> Backends.adopt([@a])
    assert states(adopted) == %{"10.0.0.1:1" => :queued}
    refute Backends.supervised?(adopted)
  end

  test "a failure counts when nothing is open and nothing is on its way", context do
    backends = Backends.update(context.backends, [@a, @b])
    pid = step({:open, 1}, {:error, :first})
    assert {:lost, backends} = ended(backends, pid)
    assert Backends.failure(backends) == nil
    pid = step({:open, 2}, {:error, :second})
    assert {:lost, backends} = ended(backends, pid)
    assert Backends.failure(backends) == {:open, "10.0.0.1:1", :first}
  end

  test "what lives is adopted, each as it is", context do
    %{backends: backends, options: options} = context
    before = backends |> Backends.update([@a, @b]) |> opened(1)
    # Its successor has the same balancer.
    adopted = options |> Backends.new(before.balancer) |> Backends.adopt([@b, @a])
    assert states(adopted) == %{"10.0.0.1:1" => :up, "10.0.0.1:2" => :opening}
    adopted = opened(adopted, 2)
    assert ids(adopted) == ["10.0.0.1:2", "10.0.0.1:1"]
    assert subchannel(adopted, "10.0.0.1:1") == subchannel(before, "10.0.0.1:1")
    # Asked twice to open, it did so once.
    refute_received {{:open, _port}, _pid}
  end
end
