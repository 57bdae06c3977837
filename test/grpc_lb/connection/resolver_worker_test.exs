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
