defmodule GrpcLb.Connection.ResolverWorkerTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.ResolverWorker
  alias GrpcLb.Secret

  # Gives the test what to push with.
  defmodule Pushing do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(_test, opts), do: opts[:answer]

    @impl true
    def watch(test, _opts, push) do
      send(test, {:push, push})
      {:ok, test}
    end
  end

  # Has more to come; gives the test what to say it with.
  defmodule Completing do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(_test, _opts), do: raise("the other one is there")

    @impl true
    def resolve(test, opts, push) do
      send(test, {:push, push})
      opts[:answer]
    end
  end

  # Watches with a process that the test ends.
  defmodule Watching do
    @behaviour GrpcLb.Resolver

    @impl true
    def resolve(_test, _opts), do: {:error, :none}

    @impl true
    def watch(test, _opts, _push) do
      pid = spawn_link(fn -> receive do: (:end -> :ok) end)
      send(test, {:watching, pid})
      {:ok, pid}
    end
  end

  test "lets out what completes a resolution, but not once there is another one" do
    good = {:ok, %{addresses: [], ttl: nil}}
    worker = ResolverWorker.start_link({Completing, Secret.hide(answer: good)}, self())
    assert_receive {:push, push}, 10_000
    assert_receive {:resolved, ^worker, ^good}, 10_000

    for {pushed, result} <- [
          {good, good},
          {:rubbish, {:error, {:bad_resolution, :rubbish}}}
        ] do
      assert push.(pushed) == :ok
      assert_receive {:completed, ^worker, ^result}, 10_000
    end

    ResolverWorker.resolve(worker)
    assert_receive {:push, second}, 10_000
    assert_receive {:resolved, ^worker, ^good}, 10_000
    push.({:error, :of_before})
    second.(good)
    assert_receive {:completed, ^worker, ^good}, 10_000
    refute_received {:completed, _worker, _result}
  end

  test "ends with what watches, and says that this was no failure" do
    Process.flag(:trap_exit, true)
    worker = ResolverWorker.start_link({Watching, Secret.hide([])}, self())
    assert_receive {:watching, watcher}, 10_000
    assert_receive {:resolved, ^worker, {:error, :none}}, 10_000
    send(watcher, :end)
    assert_receive {:EXIT, ^worker, {:shutdown, :watch_ended}}, 10_000
  end

  test "lets out nothing but resolutions and errors, also of what is pushed" do
    good = {:ok, %{addresses: [], ttl: nil}}
    worker = ResolverWorker.start_link({Pushing, Secret.hide(answer: :rubbish)}, self())
    assert_receive {:push, push}, 10_000
    assert_receive {:resolved, ^worker, {:error, {:bad_resolution, :rubbish}}}, 10_000

    for {pushed, result} <- [
          {good, good},
          {{:error, :lost}, {:error, :lost}},
          {:rubbish, {:error, {:bad_resolution, :rubbish}}}
        ] do
      assert push.(pushed) == :ok
      assert_receive {:pushed, ^worker, ^result}, 10_000
    end

    ResolverWorker.resolve(worker)
    assert_receive {:resolved, ^worker, {:error, _reason}}, 10_000
  end
end
