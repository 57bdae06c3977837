defmodule GrpcLb.Test.Peer.Heralding do
  @moduledoc "What `GrpcLb.HeraldTest` has done in a VM of its own, whose processes can be killed."

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1]

  alias GrpcLb.{Herald, Native}

  @doc "Has balancers tell of refusals, forgets them, and waits until none is left."
  def forget do
    for n <- 1..100, do: refuse({:forgotten, n})
    :erlang.garbage_collect()
    eventually(fn -> Native.live_counts().balancers == 0 end)
  end

  @doc "Kills the process, and sees what is told then."
  def tell_after_death do
    # What dies here is meant to.
    :logger.set_primary_config(:level, :none)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    herald = Process.whereis(Herald)
    :ok = :sys.suspend(herald)
    # It waits for who comes next.
    lb = refuse(:left)
    kill([herald])
    await(:left, lb)
    eventually(fn -> Process.whereis(Herald) not in [nil, herald] end)
    for message <- [:strange, {:events, 1}], do: send(Herald, message)
    await(:right, refuse(:right))
  end

  @doc """
  Has events decided by processes that are killed in the middle of it, each time at another moment. Says of which
  nothing was told first, or `nil`.
  """
  def kill_who_decides do
    :logger.set_primary_config(:level, :none)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    Enum.find(1..300, &(decide(&1) == :nothing_told))
  end

  defp decide(n) do
    clock = GrpcLb.Clock.manual()
    detection = [consecutive_failures: 1, base_ejection_time: 1_000, interval: 1]
    opts = [name: n, clock: clock, outlier_detection: [max_ejection_percent: 100] ++ detection]
    {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], opts)
    GrpcLb.run(lb, fn :a -> :error end)
    {pid, monitor} = spawn_monitor(fn -> GrpcLb.Clock.advance(clock, 2_000) end)
    spin(System.monotonic_time(:microsecond) + :rand.uniform(1_500))
    Process.exit(pid, :kill)
    receive(do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok))
    # What is left of it. It waits for a turn that was under way.
    GrpcLb.Clock.advance(clock, 2_000)

    told =
      receive do
        {:event, [:grpc_lb, :backend, :unejected], _measurements, %{name: ^n}} -> :ok
      after
        10_000 -> :nothing_told
      end

    # It was held until now: a clock holds none.
    :ok = GrpcLb.close(lb)
    told
  end

  defp spin(until), do: System.monotonic_time(:microsecond) > until or spin(until)

  defp await(name, lb) do
    receive do
      {:event, [:grpc_lb, :balancer, :overloaded], _count, %{name: ^name, balancer: ^lb}} -> :ok
    after
      10_000 -> :nothing_told
    end
  end

  @doc "Kills it until its supervisor gives up, and has a balancer and a connection go on."
  def outlive do
    :logger.set_primary_config(:level, :none)
    before = for {id, pid, _, _} <- Supervisor.which_children(GrpcLb.Supervisor), do: {id, pid}
    kill_all()
    eventually(fn -> Supervisor.which_children(GrpcLb.Supervisor) |> ends?(before) end)
    {:error, :overloaded} = GrpcLb.checkout(refuse(:after_the_end))
    # With what it comes after it comes again.
    kill([Process.whereis(GrpcLb.Ticker)])
    eventually(fn -> Process.whereis(Herald) != nil end)
  end

  defp kill_all do
    case Process.whereis(Herald) do
      nil -> :ok
      herald -> kill([herald])
    end

    # The supervisor has done what it does when it answers.
    case List.keyfind(Supervisor.which_children(GrpcLb.Supervisor), Herald, 0) do
      {_id, supervisor, _type, _modules} when is_pid(supervisor) -> kill_all()
      _given_up -> :ok
    end
  end

  # The others have not been touched.
  defp ends?(children, before) do
    now = for {id, pid, _, _} <- children, do: {id, pid}
    List.keyfind(now, Herald, 0) == {Herald, :undefined} and length(before -- now) == 1
  end

  @doc "Has it tell of what throws when it is shown, and by a malformed setting."
  def tell_of_unshowable do
    :logger.set_primary_config(:level, :notice)
    :logger.remove_handler(:default)
    Application.put_env(:grpc_lb, :log, [{:panic_left, :error} | :x])
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    herald = Process.whereis(Herald)

    for n <- 1..10 do
      name = {n, %GrpcLb.Test.Unshowable{}}
      :ok = await(name, refuse(name))
    end

    ^herald = Process.whereis(Herald)
    :ok
  end

  @doc "Has a handler hang. Says of whom is logged until it is ended, and what is logged of that."
  def hang do
    Application.put_env(:grpc_lb, :log, hung: :error)
    :logger.remove_handler(:default)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    GrpcLb.Test.Logs.attach()
    stuck("first", self())
    refuse("first")
    receive do: (:stuck -> :ok)
    kept = for name <- ["second", "third"], do: refuse(name)
    told = logged([])
    [:ok, :ok] = for {name, lb} <- Enum.zip(["second", "third"], kept), do: await(name, lb)
    told
  end

  # In the order in which it was.
  defp logged(names) do
    receive do
      {:log, %{meta: %{domain: [:grpc_lb], name: name}}} ->
        logged(names ++ [name])

      {:log, %{level: :error, msg: {:string, text}, meta: %{domain: [:grpc_lb]}}} ->
        {names, text}
    after
      20_000 -> {names, "nothing"}
    end
  end

  # Hangs for the events of a balancer with this name, and says when it does.
  defp stuck(name, test) do
    hang = fn _event, _measurements, metadata, _config ->
      if metadata[:name] == name do
        send(test, :stuck)
        Process.sleep(:infinity)
      end
    end

    apply(:telemetry, :attach, [:stuck, :_, hang, nil])
  end

  @doc "Has more happen than waits for a handler, and says how much is told and how much is lost."
  def wait do
    GrpcLb.Test.Telemetry.install()
    {me, clock} = {self(), GrpcLb.Clock.manual()}

    gate = fn event, _measurements, _metadata, _config ->
      if event == [:grpc_lb, :slow_start, :entered] do
        send(me, {:gate, self()})
        receive(do: (:open -> :ok))
      end
    end

    apply(:telemetry, :attach, [:gate, :_, gate, nil])
    opts = [slow_start: [window: 1_000_000], clock: clock]
    {:ok, lb} = GrpcLb.new(:random, [], opts)
    {:ok, _changes} = GrpcLb.add(lb, [0])
    GrpcLb.Clock.advance(clock, 1)
    # While the first has not been handled the rest comes, of which none is lost on the way.
    first = gated()

    for n <- 1..2_000//50 do
      {:ok, _changes} = GrpcLb.add(lb, Enum.to_list(n..(n + 49)))
      GrpcLb.Clock.advance(clock, 1)
      _state = :sys.get_state(Herald)
    end

    GrpcLb.Test.Telemetry.attach_all()
    apply(:telemetry, :detach, [:gate])
    send(first, :open)
    {told, lost} = count(0, 0, 2_000)
    {told + 1, lost}
  end

  defp gated do
    receive(do: ({:gate, pid} -> pid))
  end

  @doc "Gives the node a name, after which events have the balancer as it is then."
  def name_node do
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    :logger.set_primary_config(:level, :none)
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: :before, max_requests: 0)
    {:error, :overloaded} = GrpcLb.checkout(lb)
    :ok = await(:before, lb)
    # Without a port of its own it needs no epmd.
    options = %{name_domain: :longnames, dist_listen: false}
    {:ok, _pid} = :net_kernel.start(:"heralding@127.0.0.1", options)
    {:error, :overloaded} = GrpcLb.checkout(lb)
    :ok = await(:before, lb)
    %{policy: :round_robin} = GrpcLb.info(lb)
    :ok
  end

  @doc "Has a balancer decide more than is kept, and says how much is told and how much is lost."
  def lose do
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Telemetry.attach_all()
    {:ok, lb} = GrpcLb.new(:random, [], slow_start: [window: 1_000_000])
    {:ok, _changes} = GrpcLb.add(lb, Enum.to_list(1..1_000))
    count(0, 0, 1_000)
  end

  defp count(told, lost, all) when told + lost == all, do: {told, lost}

  defp count(told, lost, all) do
    receive do
      {:event, [:grpc_lb, :slow_start, :entered], _measurements, _metadata} ->
        count(told + 1, lost, all)

      {:event, [:grpc_lb, :events, :lost], %{count: count}, _none} ->
        count(told, lost + count, all)
    after
      10_000 -> {told, lost}
    end
  end

  @doc "What nobody listens to is not kept."
  def tell_nobody do
    :ok = Supervisor.terminate_child(GrpcLb.Supervisor, Herald)
    :ok = Native.listen(false)
    refuse(:unheard)
    :infinity = Native.tick()
    Native.events()
  end

  @doc "Runs a guide in which a handler is attached."
  def run_guide(code, guide) do
    # What is logged is part of the guide, and not of the output of tests.
    :logger.set_primary_config(:level, :none)
    GrpcLb.Test.Telemetry.install()
    GrpcLb.Test.Guide.run(code, guide)
  end

  defp refuse(name) do
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests: 0)
    {:error, :overloaded} = GrpcLb.checkout(lb)
    lb
  end
end
