defmodule GrpcLb.Test.Peer.ConnectionLeaks do
  @moduledoc "What `GrpcLb.Stress.ConnectionLeakTest` has done in a VM of its own."

  import GrpcLb.Test.Connections,
    only: [opts: 1, static: 1, await_ids: 2, await_clients: 2, server: 1]

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers, only: [kill: 1, together: 2]

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver}

  @doc """
  What there is in this VM. Processes are counted by what they were started with, so that a
  difference says what is left.
  """
  def inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)

    %{
      processes: Enum.frequencies_by(Process.list(), &started_with/1),
      ports: Enum.frequencies_by(Port.list(), &(Port.info(&1, :name) || :closing)),
      ets: length(:ets.all()),
      names: Enum.sort(Process.registered()),
      registered: Registry.count(GrpcLb.Registry),
      native: GrpcLb.Native.live_counts()
    }
  end

  defp started_with(pid) do
    case Process.info(pid, [:dictionary, :initial_call]) do
      [dictionary: dictionary, initial_call: call] -> dictionary[:"$initial_call"] || call
      nil -> :ended
    end
  end

  @doc "Runs `n` cycles of `what`. Returns what there was before any connection, and what there is after."
  def around(what, n) do
    # What raises and is killed here is meant to.
    :logger.set_primary_config(:level, :none)
    servers = for _ <- 1..3, do: Loopback.start()
    before = inventory()
    apply(__MODULE__, what, [servers, n])
    {before, settled(servers, before)}
  end

  # What was made may take a moment to end.
  defp settled(servers, before) do
    await_clients(servers, 0)
    deadline = System.monotonic_time(:millisecond) + 30_000
    wait_for(before, deadline)
  end

  defp wait_for(before, deadline) do
    now = inventory()

    if now == before or System.monotonic_time(:millisecond) > deadline do
      now
    else
      receive do
      after
        20 -> wait_for(before, deadline)
      end
    end
  end

  def connect_and_disconnect(servers, n) do
    target = static(servers)

    for i <- 1..n do
      {:ok, handle} = Connection.connect(target, opts(name: {:cycle, i}))
      {:ok, _} = Connection.pick(handle)
      :ok = Connection.disconnect(handle)
      {:error, :closed} = Connection.pick(handle)
    end
  end

  def connect_at_once(servers, n) do
    target = static(servers)

    for _ <- 1..n do
      together(20, fn _ ->
        {:ok, handle} = Connection.connect(target, opts([]))
        {:ok, _} = Connection.pick(handle)
        :ok = Connection.disconnect(handle)
      end)
    end
  end

  def supervised(servers, n) do
    for i <- 1..n do
      opts = opts(name: {:cycle, i}, target: static(servers))
      {:ok, supervisor} = Supervisor.start_link([{Connection, opts}], strategy: :one_for_one)
      :ok = Connection.await_ready({:cycle, i})
      Supervisor.stop(supervisor)
    end
  end

  def killed_without_supervisor(servers, n) do
    for i <- 1..n do
      test = self()

      starter =
        spawn(fn ->
          Process.flag(:trap_exit, true)
          opts = opts(name: {:cycle, i}, target: static(servers))
          {:ok, pid} = Connection.start_link(opts)
          send(test, {:pid, pid})
          Process.sleep(:infinity)
        end)

      pid =
        receive do
          {:pid, pid} -> pid
        end

      # Some before they are ready, some after.
      if rem(i, 2) == 0, do: :ok = Connection.await_ready({:cycle, i})
      kill([pid])
      kill([starter])
    end
  end

  def killed_with_supervisor(servers, n) do
    for i <- 1..n do
      opts = opts(name: {:cycle, i}, target: static(servers))
      {:ok, supervisor} = Supervisor.start_link([{Connection, opts}], strategy: :one_for_one)
      :ok = Connection.await_ready({:cycle, i})
      handle = Connection.handle!({:cycle, i})
      kill([server(handle)])
      await_ids(handle, servers)
      {:ok, _} = Connection.pick(handle)

      # Each way to end it.
      case rem(i, 3) do
        0 ->
          Supervisor.stop(supervisor)

        1 ->
          Process.unlink(supervisor)
          kill([supervisor])

        2 ->
          :ok = Connection.disconnect(handle)
          Supervisor.stop(supervisor)
      end
    end
  end

  def failed_connects(servers, n) do
    Enum.each(servers, &Loopback.become(&1, :refuse))
    names = ScriptedResolver.start(fn -> raise "no" end)

    for i <- 1..n do
      {:error, {:open, _id, :econnrefused}} =
        Connection.connect(static(servers), opts(name: {:cycle, i}))

      resolving = opts(name: {:cycle, i}, resolver: ScriptedResolver)
      {:error, _reason} = Connection.connect(names, resolving)
    end

    GenServer.stop(names)
    Enum.each(servers, &Loopback.become(&1, :echo))
  end

  def shrinking(servers, n) do
    names = ScriptedResolver.start(servers)
    {:ok, handle} = Connection.connect(names, opts(resolver: ScriptedResolver))

    for i <- 1..n do
      some = Enum.take(servers, 1 + rem(i, 3))
      ScriptedResolver.set(names, some)
      Connection.resolve_now(handle)
      await_ids(handle, some)
    end

    :ok = Connection.disconnect(handle)
    GenServer.stop(names)
  end

  def killed_transports(servers, n) do
    {:ok, handle} = Connection.connect(static(servers), opts([]))
    await_ids(handle, servers)

    for _ <- 1..n do
      {:ok, {_name, pid}} = Connection.pick(handle)
      kill([pid])
      await_ids(handle, servers)
    end

    :ok = Connection.disconnect(handle)
  end

  def dropped_while_connecting(servers, n) do
    for i <- 1..n do
      pid =
        spawn(fn ->
          {:ok, handle} = Connection.connect(static(servers), opts(name: {:cycle, i}))
          Connection.disconnect(handle)
        end)

      :erlang.yield()
      kill([pid])
      # It may have got as far as to be a connection of its own.
      eventually(fn ->
        Connection.disconnect({:cycle, i})
        Connection.handle({:cycle, i}) == {:error, :not_found}
      end)
    end
  end

  @doc "Kills what all connections stand on, one after the other, under a connection."
  def killed_foundations(servers, 1) do
    # Three deaths in five seconds are as many as an application's supervisor bears.
    for name <- [GrpcLb.Connections, GrpcLb.Janitor, GrpcLb.Registry] do
      {:ok, handle} = connect_when_possible(static(servers))
      kill([Process.whereis(name)])
      eventually(fn -> Connection.pick(handle) == {:error, :closed} end)
      await_clients(servers, 0)
    end

    {:ok, handle} = connect_when_possible(static(servers))
    {:ok, _} = Connection.pick(handle)
    :ok = Connection.disconnect(handle)
  end

  # What was killed is not there until it is made anew.
  defp connect_when_possible(target) do
    Connection.connect(target, opts([]))
  rescue
    ArgumentError -> connect_when_possible(target)
  catch
    :exit, _reason -> connect_when_possible(target)
  end
end
