defmodule GrpcLb.Test.ScriptedResolver do
  @moduledoc """
  A resolver that answers what a test has set last. The target is the process that holds the answer,
  which `start/1` makes; every call of `resolve` tells the test `{:resolving, pid}`.

  An answer is a list of addresses or servers, or a function that is run by whoever resolves.
  """

  @behaviour GrpcLb.Resolver
  use GenServer

  alias GrpcLb.Test.Loopback

  @doc "Starts what holds the answer; it ends with the calling process, the test."
  def start(answer) do
    {:ok, names} = GenServer.start_link(__MODULE__, {answer, self()})
    names
  end

  @doc "Sets what the next resolutions answer."
  def set(names, answer), do: GenServer.call(names, {:set, answer})

  @doc "A resolution of these addresses or servers."
  def resolution(addresses, ttl \\ nil) do
    addresses =
      Enum.map(addresses, fn
        server when is_pid(server) -> Loopback.address(server)
        address -> address
      end)

    %{addresses: addresses, ttl: ttl}
  end

  @impl GrpcLb.Resolver
  def resolve(names, _opts) do
    case GenServer.call(names, :answer) do
      fun when is_function(fun) -> fun.()
      addresses -> {:ok, resolution(addresses)}
    end
  end

  @impl GenServer
  def init(state), do: {:ok, state}

  @impl GenServer
  def handle_call({:set, answer}, _from, {_answer, test}), do: {:reply, :ok, {answer, test}}

  def handle_call(:answer, {pid, _tag}, {answer, test} = state) do
    send(test, {:resolving, pid})
    {:reply, answer, state}
  end
end

defmodule GrpcLb.Test.PushingResolver do
  @moduledoc """
  A `GrpcLb.Test.ScriptedResolver` that can push: `watch` tells the test `{:watching, pid}`, and
  what the test sends there with `push/2` is pushed.
  """

  @behaviour GrpcLb.Resolver

  alias GrpcLb.Test.ScriptedResolver

  @impl true
  defdelegate resolve(names, opts), to: ScriptedResolver

  @impl true
  def watch(_names, opts, push) do
    test = Keyword.fetch!(opts, :test)
    pid = spawn_link(fn -> forward(push) end)
    send(test, {:watching, pid})
    {:ok, pid}
  end

  defp forward(push) do
    receive do
      {:push, answer} ->
        :ok = push.(answer)
        forward(push)
    end
  end

  @doc "Has a watching process push an answer: addresses or servers, or any term as it is."
  def push(watcher, addresses) when is_list(addresses) do
    push(watcher, {:ok, ScriptedResolver.resolution(addresses)})
  end

  def push(watcher, answer) do
    send(watcher, {:push, answer})
    :ok
  end
end
