defmodule GrpcLb.HolderTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.{Holder, Janitor}

  @moduletag capture_log: true

  # Tells the test what it is asked to do.
  defmodule Thing do
    @behaviour Holder

    @impl true
    def open(test), do: told(test, :open)

    @impl true
    def close(test) do
      told(test, :close)
      nil
    end

    @impl true
    def ended(test, test, why), do: told(test, {:ended, why.reason})

    def clean_up(test), do: told(test, :clean_up)

    defp told(test, what) do
      send(test, {what, self()})
      test
    end
  end

  setup do
    %{key: {Thing, make_ref()}}
  end

  # A supervisor with nothing but a holder, which nobody is linked to.
  defp start(key, opts \\ []) do
    child = %{id: :holder, start: {Holder, :start_link, [key, self()]}}
    {:ok, supervisor} = Supervisor.start_link([child], [strategy: :one_for_one] ++ opts)
    Process.unlink(supervisor)
    on_exit(fn -> Process.exit(supervisor, :kill) end)
    assert_receive {:open, holder}, 10_000
    %{supervisor: supervisor, holder: holder}
  end

  defp tree(key) do
    {_holder, tree} = Holder.lookup(key)
    tree
  end

  test "opens, and is found by its key", %{key: key} do
    assert Holder.lookup(key) == nil
    %{supervisor: supervisor, holder: holder} = start(key)
    eventually(fn -> tree(key).held == self() end)
    assert Holder.lookup(key) == {holder, %{supervisor: supervisor, held: self(), status: :open}}
    assert Holder.fetch!(key) == {holder, self()}
    assert Holder.publish(holder) == :ok
    assert tree(key).status == :published
  end

  test "keeps the last note", %{key: key} do
    %{holder: holder} = start(key)
    assert Holder.noted(holder) == nil
    for note <- [:first, :second], do: Holder.note(holder, note)
    assert Holder.noted(holder) == :second
  end

  test "closes once, for the first reason, and is not published any more", %{key: key} do
    %{supervisor: supervisor, holder: holder} = start(key)
    assert Holder.close(holder, :first) == :ok
    assert_received {:close, ^holder}
    assert tree(key).status == :closed
    assert Holder.publish(holder) == :ok
    assert tree(key).status == :closed
    assert Holder.close(holder, :second) == :ok
    Supervisor.stop(supervisor)
    assert_received {{:ended, :first}, ^holder}
    refute_received {:close, _holder}
    assert Holder.close(holder, :late) == :ok
  end

  test "closes when it ends, whatever stops it", %{key: {module, name}} do
    for {stop, reason} <- [
          {&Supervisor.stop/1, :shutdown},
          {&kill([&1]), :killed},
          {&Holder.stop_supervisor(&1, :normal), :shutdown}
        ] do
      key = {module, {name, stop}}
      %{supervisor: supervisor, holder: holder} = start(key)
      stop.(supervisor)
      assert_receive {:close, ^holder}, 10_000
      assert_receive {{:ended, ^reason}, ^holder}, 10_000
      Janitor.await(holder)
      assert Holder.lookup(key) == nil
    end
  end

  test "is stopped with its supervisor, when that returns", %{key: key} do
    %{supervisor: supervisor, holder: holder} = start(key)
    {holder, tree} = {holder, tree(key)}
    assert Holder.stop(holder, tree) == :ok
    assert_received {{:ended, :normal}, ^holder}
    refute Process.alive?(supervisor)
    assert Holder.lookup(key) == nil
    # Another may have been started meanwhile.
    assert Holder.stop(holder, tree) == :crashed
  end

  test "says who has the name", %{key: key} do
    %{holder: holder} = start(key)
    assert Holder.start_link(key, self()) == {:error, {:already_started, holder}}
    refute_received {:open, _another}
  end

  test "waits for one whose supervisor was killed, and for what that has left", %{key: key} do
    test = self()
    %{supervisor: supervisor, holder: before} = start(key)

    in_holder(before, fn ->
      Janitor.clean_up_with({:erlang, :apply, [fn -> hold(test) end, []]})
    end)

    :erlang.suspend_process(before)
    kill([supervisor])
    child = %{id: :holder, start: {Holder, :start_link, [key, test]}}

    starting =
      spawn_link(fn ->
        {:ok, _supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
        hold(test)
      end)

    eventually(fn -> Process.info(starting, :status) == {:status, :waiting} end)
    refute_received {:open, _early}
    :erlang.resume_process(before)
    assert_receive {:close, ^before}, 10_000
    assert_receive {:holding, cleaner}, 10_000
    {:messages, messages} = Process.info(self(), :messages)
    # On a busy machine its time may be over.
    refute List.keymember?(messages, :open, 0) and Process.alive?(cleaner)
    send(cleaner, :go_on)
    assert_receive {:open, after_it}, 10_000
    assert after_it != before
    assert_receive {:holding, ^starting}, 10_000
    send(starting, :go_on)
  end

  # The supervisor's, and so that of the whole tree, because names are lost.
  for name <- [GrpcLb.Registry, GrpcLb.Janitor] do
    test "kills its supervisor when it loses #{inspect(name)}", %{key: key} do
      %{supervisor: supervisor, holder: holder} = start(key)
      monitor = Process.monitor(supervisor)
      # As if that had ended.
      linked = if unquote(name) == Janitor, do: Process.whereis(Janitor), else: self()
      send(holder, {:EXIT, linked, :killed})
      assert_receive {:DOWN, ^monitor, :process, ^supervisor, :killed}, 10_000
      assert_receive {:close, ^holder}, 10_000
    end
  end

  test "is linked to the janitor", %{key: key} do
    %{holder: holder} = start(key)
    {:links, links} = Process.info(holder, :links)
    assert Process.whereis(Janitor) in links
  end

  defp in_holder(holder, fun) do
    :sys.replace_state(holder, fn state ->
      fun.()
      state
    end)
  end

  defp hold(test) do
    send(test, {:holding, self()})

    receive do
      :go_on -> :ok
    end
  end
end
