defmodule GrpcLb.Test.Connections do
  @moduledoc "Connections to loopback servers, and what can be seen of them from outside."

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1, start_supervised!: 1]
  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection
  alias GrpcLb.Test.{Loopback, ScriptedResolver, TcpTransport}

  # Quick, so that a test has not to wait for what is tested elsewhere; and without checks, which fail
  # on a machine that is too busy to answer one in time.
  @defaults [
    transport: TcpTransport,
    backoff: [initial: 5, max: 50],
    check_interval: :infinity,
    drain_timeout: 5,
    # What an answer leaves out is gone, with a TTL too.
    hold_obsolete: 0,
    min_resolve_interval: 1
  ]

  @doc "The options with which tests connect, and those given."
  def opts(opts \\ []), do: Keyword.merge(@defaults, opts)

  @doc "The servers as a target."
  def static(servers), do: {:static, Enum.map(servers, &Loopback.address/1)}

  @doc "Connects and disconnects when the test ends. Takes a target, or a list of servers."
  def connect!(target, opts \\ [])

  def connect!([server | _] = servers, opts) when is_pid(server) do
    connect!(static(servers), opts)
  end

  def connect!(target, opts) do
    {:ok, handle} = Connection.connect(target, opts(opts))
    # By its name: another has that where the holder was killed, and would dial for ever.
    on_exit(fn -> Connection.disconnect(handle.name) end)
    handle
  end

  @doc "Connects to what a scripted resolver answers; returns it too."
  def connect_scripted!(answer, opts \\ []) do
    names = ScriptedResolver.start(answer)
    {connect!(names, [resolver: ScriptedResolver] ++ opts), names}
  end

  @doc "Starts a connection under the test's supervisor; returns its handle and its supervisor."
  def supervised!(opts) do
    opts = Keyword.put_new_lazy(opts(opts), :name, &make_ref/0)
    pid = start_supervised!({Connection, opts})
    {Connection.handle!(opts[:name]), pid}
  end

  @doc "Has the test told of the states of a connection from when it is ready on, which it is or will be."
  def subscribe_ready!(%{name: name} = handle) do
    with {:ok, :connecting} <- Connection.subscribe(handle),
         do: assert_receive({:grpc_lb_connection, ^name, :ready}, 10_000)
  end

  @doc "The holder of a connection."
  def holder(handle) do
    {holder, _tree} = GrpcLb.Holder.lookup({Connection.Held, handle.name})
    holder
  end

  @doc "The supervisor of a connection."
  def supervisor_of(handle) do
    {:ok, supervisor, _name} = Connection.Supervisor.find(handle.name)
    supervisor
  end

  @doc "The server of a connection."
  def server(handle), do: Connection.Server.whereis(handle.balancer)

  @doc "The server of a connection, once it is another than `before`."
  def restarted(handle, before) do
    eventually(fn -> server(handle) not in [nil, before] end)
    server(handle)
  end

  @doc "The ids in the rotation, in their order."
  def ids(handle) do
    for %{id: id, state: state} <- GrpcLb.info(handle.balancer).backends,
        state in [:ready, :ejected],
        do: id
  end

  @doc "Waits until these are the ids in the rotation. Takes servers or ids."
  def await_ids(handle, servers) do
    ids = Enum.map(servers, &if(is_pid(&1), do: Loopback.id(&1), else: &1))

    eventually(fn -> ids(handle) == ids end, fn ->
      "expected #{inspect(ids)}, have: #{inspect(GrpcLb.info(handle.balancer))}"
    end)
  end

  @doc "The names of the servers that `n` picks gave, one after the other."
  def picked(handle, n) do
    for _ <- 1..n do
      assert {:ok, {name, pid}} = Connection.pick(handle)
      assert is_pid(pid)
      name
    end
  end

  @doc "Has a server say something back, through the connection."
  def echo(handle, line \\ "hello"), do: Connection.run(handle, &TcpTransport.call(&1, line))

  @doc "Whether a process waits for a message."
  def waiting?(pid), do: Process.info(pid, :status) == {:status, :waiting}

  @doc "Waits until this many connections are open at each of the servers."
  def await_clients(servers, n) do
    eventually(fn -> Enum.all?(servers, &(Loopback.clients(&1) == n)) end, fn ->
      "expected #{n} at each, have: #{inspect(Enum.map(servers, &Loopback.clients/1))}"
    end)
  end
end
