defmodule GrpcLb.KeeperTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.Keeper

  doctest Keeper

  # Claims in its init, as holders do, and tells the test.
  defmodule Holder do
    use GenServer

    def start_link({test, _key} = arg) do
      GenServer.start_link(__MODULE__, {arg, GrpcLb.KeeperTest.maker(test), self()})
    end

    @impl true
    def init({{test, key}, {make, release}, starter}) do
      result = Keeper.claim(key, make, release)
      send(test, {:claimed, self(), starter, result})
      {:ok, key}
    end

    @impl true
    def handle_call(fun, _from, key), do: {:reply, fun.(), key}

    @impl true
    def handle_cast({:end, reason}, key), do: {:stop, reason, key}
  end

  @doc "What is kept is a process linked to the keeper."
  def maker(test) do
    make = fn -> spawn_link(fn -> Process.sleep(:infinity) end) end
    release = fn kept, reason -> send(test, {:released, kept, reason}) end
    {make, release}
  end

  setup do
    %{key: make_ref()}
  end

  defp claim(key) do
    {make, release} = maker(self())
    Keeper.claim(key, make, release)
  end

  # A holder in a process that is no supervisor.
  defp hold(key) do
    test = self()

    pid =
      spawn(fn ->
        {make, release} = maker(test)
        send(test, {:claimed, self(), test, Keeper.claim(key, make, release)})

        receive do
          {:exit, reason} -> exit(reason)
        end
      end)

    assert_receive {:claimed, ^pid, _starter, {:ok, keeper, kept, :new}}, 10_000
    %{pid: pid, keeper: keeper, kept: kept}
  end

  # A holder under a supervisor.
  defp supervise(key, opts \\ []) do
    child = Supervisor.child_spec({Holder, {self(), key}}, opts)
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    Process.unlink(supervisor)
    on_exit(fn -> Process.exit(supervisor, :kill) end)
    assert_receive {:claimed, pid, ^supervisor, {:ok, keeper, kept, :new}}, 10_000
    %{supervisor: supervisor, pid: pid, keeper: keeper, kept: kept}
  end

  defp assert_released(kept, reason) do
    assert_receive {:released, ^kept, ^reason}, 10_000
  end

  defp await_dead(pid) do
    monitor = Process.monitor(pid)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 10_000
  end

  describe "claim/3" do
    test "makes the thing once", %{key: key} do
      assert {:ok, keeper, kept, :new} = claim(key)
      assert Process.alive?(kept)
      assert Keeper.whereis(key) == keeper
      assert Keeper.holder(keeper) == {:ok, self()}
    end

    test "refuses a key that somebody holds", %{key: key} do
      %{pid: holder} = hold(key)
      assert claim(key) == {:error, {:already_started, holder}}
    end

    test "exits when the thing cannot be made, and leaves the key free", %{key: key} do
      ExUnit.CaptureLog.capture_log(fn ->
        assert {{%RuntimeError{message: "no"}, _stack}, _call} =
                 catch_exit(Keeper.claim(key, fn -> raise "no" end, fn _kept, _reason -> :ok end))
      end)

      assert {:ok, _keeper, _kept, :new} = claim(key)
    end

    @tag :concurrency
    test "of many at once, one has it", %{key: key} do
      test = self()

      results =
        together(20, fn _ ->
          {make, release} = maker(test)
          result = Keeper.claim(key, make, release)
          # Holds it until all have claimed.
          send(test, :done)
          eventually(fn -> Process.info(test, :message_queue_len) >= {:message_queue_len, 20} end)
          result
        end)

      assert [{:ok, _keeper, _kept, :new}] = Enum.filter(results, &match?({:ok, _, _, _}, &1))
      assert Enum.count(results, &match?({:error, {:already_started, _}}, &1)) == 19
    end
  end

  describe "what is kept" do
    test "is seen once it is published, until it is released", %{key: key} do
      {:ok, keeper, kept, :new} = claim(key)
      assert Keeper.fetch(key) == :error
      assert Keeper.publish(keeper) == :ok
      assert Keeper.fetch(key) == {:ok, keeper, kept}
      assert Keeper.release(keeper, :because) == :ok
      assert_released(kept, :because)
      assert Keeper.fetch(key) == :error
      assert Keeper.whereis(key) == nil
      assert Keeper.release(keeper, :again) == :ok
      refute_received {:released, _kept, :again}
      assert {:ok, _keeper, _kept, :new} = claim(key)
    end

    test "is not found any more while it is released, and the key is not free yet", %{key: key} do
      test = self()

      release = fn kept, _reason ->
        send(test, {:releasing, self(), Keeper.fetch(key)})

        receive do
          {:go_on, ^kept} -> send(test, :released)
        end
      end

      {:ok, keeper, kept, :new} = Keeper.claim(key, &make_ref/0, release)
      Keeper.publish(keeper)
      ending = Task.async(fn -> Keeper.release(keeper, :over) end)
      assert_receive {:releasing, ^keeper, :error}, 10_000
      assert Keeper.whereis(key) == keeper

      next =
        Task.async(fn -> Keeper.claim(key, fn -> send(test, :made) end, fn _, _ -> :ok end) end)

      eventually(fn -> Process.info(keeper, :message_queue_len) != {:message_queue_len, 0} end)
      refute_received :made
      send(keeper, {:go_on, kept})
      assert {:ok, _keeper, :made, :new} = Task.await(next)
      assert Task.await(ending) == :ok
      # In this order.
      assert_received :released
      assert_received :made
    end

    test "is released when its holder ends on purpose, also under a supervisor", %{key: key} do
      for reason <- [:normal, :shutdown, {:shutdown, :done}] do
        %{pid: pid, kept: kept} = hold({key, reason})
        send(pid, {:exit, reason})
        assert_released(kept, reason)

        %{pid: pid, kept: kept} = supervise({key, reason}, restart: :temporary)
        GenServer.cast(pid, {:end, reason})
        assert_released(kept, reason)
      end
    end

    test "outlives a successor that could not start its children", %{key: key} do
      reason = {:shutdown, {:failed_to_start_child, :worker, :boom}}

      # The first one that could not, has nothing worth keeping.
      %{pid: pid, kept: kept} = supervise({key, :first}, restart: :temporary)
      GenServer.cast(pid, {:end, reason})
      assert_released(kept, reason)

      %{pid: pid, kept: kept} = supervise(key)
      kill([pid])
      assert_receive {:claimed, second, _starter, {:ok, _, ^kept, {:taken_over, nil}}}, 10_000
      GenServer.cast(second, {:end, reason})
      assert_receive {:claimed, _third, _starter, {:ok, _, ^kept, {:taken_over, nil}}}, 10_000
      refute_received {:released, ^kept, _reason}
    end

    test "is released when its holder is killed and no supervisor had started it", %{key: key} do
      %{pid: pid, kept: kept, keeper: keeper} = hold(key)
      kill([pid])
      assert_released(kept, :killed)
      await_dead(keeper)
    end

    test "goes with the keeper", %{key: key} do
      %{keeper: keeper, kept: kept} = hold(key)
      kill([keeper])
      await_dead(kept)
      assert {:ok, _keeper, other, :new} = claim(key)
      assert other != kept
    end

    test "is released when its holder died before it had claimed", %{key: key} do
      # As if it was killed between the two steps of a claim.
      dead = spawn(fn -> :ok end)
      await_dead(dead)
      {:ok, keeper} = DynamicSupervisor.start_child(GrpcLb.Keepers, {Keeper, {key, dead}})
      await_dead(keeper)
      assert {:ok, _keeper, _kept, :new} = claim(key)
    end
  end

  describe "a holder that a supervisor starts again" do
    test "takes over, with the last note", %{key: key} do
      %{supervisor: supervisor, pid: pid, keeper: keeper, kept: kept} = supervise(key)
      GenServer.call(pid, fn -> Keeper.publish(keeper) end)
      kill([pid])
      assert_receive {:claimed, second, ^supervisor, result}, 10_000
      assert result == {:ok, keeper, kept, {:taken_over, nil}}
      assert Keeper.holder(keeper) == {:ok, second}
      assert Keeper.fetch(key) == {:ok, keeper, kept}

      GenServer.call(second, fn ->
        Keeper.note(keeper, :first)
        Keeper.note(keeper, :second)
      end)

      kill([second])
      assert_receive {:claimed, third, ^supervisor, result}, 10_000
      assert result == {:ok, keeper, kept, {:taken_over, :second}}
      assert Process.alive?(kept)
      assert Keeper.release(keeper, :over) == :ok
      assert_released(kept, :over)
      kill([supervisor, third])
    end

    @tag :concurrency
    test "takes over when it claims before the news of the death is there", %{key: key} do
      %{supervisor: supervisor, pid: pid, keeper: keeper, kept: kept} = supervise(key)
      # The keeper acts on neither until it has both, the claim first.
      :ok = :sys.suspend(keeper)
      :ok = :sys.suspend(supervisor)
      parent = supervisor
      {make, release} = maker(self())

      task =
        Task.async(fn ->
          Process.put(:"$ancestors", [parent])
          Keeper.claim(key, make, release)
        end)

      eventually(fn -> match?({:message_queue_len, n} when n > 0, queue(keeper)) end)
      Process.exit(pid, :kill)
      eventually(fn -> not Process.alive?(pid) end)
      :ok = :sys.resume(keeper)
      assert Task.await(task) == {:ok, keeper, kept, {:taken_over, nil}}
      kill([supervisor])
    end

    defp queue(pid), do: Process.info(pid, :message_queue_len)

    test "finds nothing when the holder had ended on purpose", %{key: key} do
      %{supervisor: supervisor, pid: pid, kept: kept} = supervise(key)
      GenServer.cast(pid, {:end, :normal})
      assert_released(kept, :normal)
      assert_receive {:claimed, _second, ^supervisor, {:ok, _keeper, other, :new}}, 10_000
      assert other != kept
    end

    test "does not come when the supervisor ends", %{key: key} do
      %{supervisor: supervisor, pid: pid, keeper: keeper, kept: kept} = supervise(key)
      :ok = :sys.suspend(supervisor)
      kill([pid])
      # The keeper waits for it.
      eventually(fn -> Keeper.holder(keeper, 0) == {:error, :timeout} end)
      refute_received {:released, _kept, _reason}
      kill([supervisor])
      assert_released(kept, :killed)
      assert Keeper.whereis(key) == nil
    end

    test "is waited for, and nobody else gets the key", %{key: key} do
      %{supervisor: supervisor, pid: pid, keeper: keeper} = supervise(key)
      :ok = :sys.suspend(supervisor)
      kill([pid])
      eventually(fn -> Keeper.holder(keeper, 0) == {:error, :timeout} end)
      waiting = for _ <- 1..3, do: Task.async(fn -> Keeper.holder(keeper) end)
      assert claim(key) == {:error, {:already_started, keeper}}
      :ok = :sys.resume(supervisor)

      assert_receive {:claimed, second, ^supervisor, {:ok, ^keeper, _, {:taken_over, nil}}},
                     10_000

      assert Enum.uniq(Task.await_many(waiting)) == [{:ok, second}]
    end

    test "is not waited for when its supervisor is gone, also before the news of that", context do
      %{supervisor: supervisor, pid: pid, keeper: keeper, kept: kept} = supervise(context.key)
      :ok = :sys.suspend(supervisor)
      kill([pid])
      eventually(fn -> Keeper.holder(keeper, 0) == {:error, :timeout} end)
      # The keeper acts on neither until it has both, the claim first.
      :ok = :sys.suspend(keeper)
      {make, release} = maker(self())
      claiming = Task.async(fn -> Keeper.claim(context.key, make, release) end)
      eventually(fn -> match?({:message_queue_len, n} when n > 0, queue(keeper)) end)
      kill([supervisor])
      :ok = :sys.resume(keeper)
      assert {:ok, another, _kept, :new} = Task.await(claiming)
      assert another != keeper
      assert_released(kept, :killed)
    end

    test "is not asked for for longer than the timeout when the keeper is busy", %{key: key} do
      %{keeper: keeper, pid: pid} = hold(key)
      :ok = :sys.suspend(keeper)
      assert Keeper.holder(keeper, 0) == {:error, :timeout}
      :ok = :sys.resume(keeper)
      assert Keeper.holder(keeper, 0) == {:ok, pid}
    end

    test "is not waited for for ever", %{key: key} do
      %{pid: pid, keeper: keeper, kept: kept} = supervise(key, restart: :temporary)
      kill([pid])
      eventually(fn -> Keeper.holder(keeper, 0) == {:error, :timeout} end)
      waiting = Task.async(fn -> Keeper.holder(keeper) end)
      assert_released(kept, :not_taken_over)
      assert Task.await(waiting) == {:error, :released}
    end
  end
end
