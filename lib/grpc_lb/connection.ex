defmodule GrpcLb.Connection do
  @moduledoc """
  A connection to all backends of a target: it resolves the target, opens a transport to every
  backend, keeps a balancer over those that are open, and follows what changes.

      {:ok, connection} =
        GrpcLb.Connection.connect("dns:///api.example.com:50051", transport: MyApp.Transport)

      GrpcLb.Connection.run(connection, fn transport -> MyApp.Transport.call(transport, request) end)

      :ok = GrpcLb.Connection.disconnect(connection)

  Or in a supervision tree, where it starts at once and connects when it can:

      children = [
        {GrpcLb.Connection,
         name: MyApp.Api, target: "dns:///api.example.com:50051", transport: MyApp.Transport}
      ]

      GrpcLb.Connection.handle!(MyApp.Api)

  A handle is a small struct with the balancer's reference in it. A pick through it asks no process
  and reads no table.

  Policies and options that look at load, latency or failures see the calls that are made with `run/2`,
  `run/3`, or `checkout/1` and `GrpcLb.complete/3`, and not those for which `pick/1` gave a transport.

  ## What it does by itself

    * A new resolution: what is new is opened, as many as `:max_dials` allows at the same time and the
      others in order as those are done; what is gone leaves the rotation first
      and is closed when its calls in flight have ended, see `:drain_timeout`; what stays is not touched. The backends are listed in the
      order of the resolution. An endpoint that is in it twice is listed once, with both weights.
    * The host name is part of an endpoint: the same address under another name is opened anew, as a
      backend with an id of its own, and the one before drains.
    * What an answer with a TTL leaves out is held for a while, as long as its transport is open, see
      `:hold_obsolete`: many name servers list a part of what there is, and another part the next time.
    * A resolution that knows a part of the answer, see `t:GrpcLb.Resolver.resolution/0`: what it does
      not know stays as it was. One SERVFAIL takes no backends out.
    * A resolution that fails: the last known backends stay, and it is tried again after a backoff. The
      same after one that is empty, unless `:on_empty` says to drop them.
    * A TTL is over: the target is resolved again, a tenth of it sooner or later, so that clients which
      were started together do not ask together.
    * A transport goes down: it leaves the rotation at once, is opened again, and the target is resolved
      again, unless its resolver is in a backoff of its own. The first attempt comes at once, and when
      that fails the waits of `:backoff` begin. What is known of the backend, its counts, its latency, an ejection,
      stays with it for as long as the target has its address: who fails and crashes does not come
      back as if it was new.
    * A transport says that it takes no new calls, as at HTTP/2's GOAWAY, see `GrpcLb.Transport`: another
      is opened at once, and the old one is closed when its calls in flight have ended. Both are of the
      same backend, with one id and one set of counts.
    * A transport is opened and lost again and again, as behind a proxy that accepts and hangs up: the
      waits grow as if it could not be opened. They are short again after a transport that worked:
      a call through it succeeded (which `pick/1` does not know), or it was open for as long as the
      wait that was next. An address that leaves the answer and comes back has what is left of its
      wait, unless that was longer ago than the longest. `reconnect/1` ends all waits.
    * No transport is open: picks say `{:error, :no_backends}`, or wait, see below, and go on when one is
      open again.

  ## Waiting

  `pick/3`, `checkout/3` and `run/3` take `wait_for_ready:`, gRPC's [wait for
  ready](https://github.com/grpc/grpc/blob/master/doc/wait-for-ready.md): while nothing can be picked the
  caller waits, for so many milliseconds or `:infinity`, and says `{:error, :no_backends}` after
  that. Nothing is polled. Those who wait are served in the order in which they came, each picks for
  itself, and the next when the one before has; a caller that dies leaves its place. A call that finds a backend
  at once has nothing of it.

  Without the option, and so with `pick/1`, `checkout/1` and `run/2` too, calls wait in one case: the
  connection is connecting for the first time, as one that `start_link/1` has just started. They wait
  for `:connect_timeout` at most, and fail as soon as the state is `:transient_failure`, see `state/1`.
  gRPC queues such calls also whenever a connection that was ready is connecting again; here those fail at once,
  like in `:transient_failure`. `wait_for_ready: false`, or 0, never waits.

  Where every backend is ejected and none may be picked, see `strict:` of `:outlier_detection`, a call
  that waits tries again when its time is over. `GrpcLb.pick/1` and its like, which have no connection,
  never wait.

  ## Whom it dials

  With all policies but one there is a transport to every backend. With `:pick_first` there is one
  transport in all, as gRFC A62 has it: backends are dialled in order, with `shuffle: true` in that which
  they have drawn, and the first that opens is the one. While it is up nobody else is dialled; when it is
  lost the connection begins with the first again. Then `max_requests_per_backend` has no other backend
  to go to.

  A backend may have several addresses, see `:alternatives` of `GrpcLb.Address`. One transport to it is
  enough, whichever address it is to, and the backend is the same one after it was reached at another.

  In both cases those of which one is enough are dialled by happy eyeballs (gRFC A61, RFC 8305): families
  take turns, IPv6 and IPv4, the next dial begins 250 ms after the one before or when that has failed, and
  when one opens the others are ended. What they have opened is closed. When all have been dialled, each
  that has failed is dialled again after its own backoff.

  Two things are other than in A61 and A62. There a lost connection is dialled again when somebody
  picks; here at once. There none is dialled again before all have failed once; here before all have
  been dialled.

  ## What it logs

  A warning when a backend begins to fail, because it cannot be connected to or a check says so, and when a
  resolution does; a notice when it is well again; nothing in between, however often it is tried. A
  connection that is lost and opened again at once is not told. The metadata has `:name`, `:target`,
  `:backend` with the id of a backend, `:reason`, and `application: :grpc_lb`:
  `Logger.put_application_level(:grpc_lb, :none)` turns it off. `GrpcLb.Telemetry` has every attempt.

  Neither these nor the reports of supervisors and of processes that crash show the options of transports
  and resolvers, or the values of transports. Of what a module raises, throws or exits with, the kind is
  logged; a reason that it returns is logged as it is.

  ## Its balancer

  The field `balancer` of a handle is for what this module has no function for: `GrpcLb.info/1` says
  what is counted for each backend, `GrpcLb.report/3` takes load reports that did not come with a call.
  A backend's id is that of its address, see `GrpcLb.Address.id/1`, with the host name behind it where
  two names lead to one address: `"10.0.0.1:50051/b.example"`. One whose transport is down is
  listed as `:connecting` or `:down`, and has no value once the connection knows.

  Leave the list and the states to the connection. It makes both with `GrpcLb.reconcile/2` and
  `GrpcLb.set_state/3` itself, and undoes or is confused by what others change. To end it, use
  `disconnect/2`, not `GrpcLb.close/1`.

  ## When its processes die

      connection (rest_for_one)
      |- holder: owns the balancer and the name
      |- subchannels: one process for each transport
      `- server: resolves, opens, reconciles

    * The server dies: picks go on from the last known backends. A new server takes over all that is
      open, and the handle stays valid.
    * The supervisor of the subchannels dies: the transports are closed. A new one opens them again, and
      the handle stays valid.
    * The holder dies, or the supervisor of them all: the balancer is closed, and so are the transports.
      A new connection is started under the name, by the supervisor of the connection or by the one
      above. Its handle is another: fetch it again with `handle/1`.
    * They die more than 20 times in 5 seconds: the connection ends. To the supervisor above this is an
      end in order, as that of any supervisor: with the `:transient` of `child_spec/1` it does not start
      it again, with `:permanent` it does, but also after `disconnect/2`.

  A connection in a supervision tree needs its name to be found again: `child_spec/1` makes one if none
  is given. One that `connect/2` made is under a supervisor of the library. It is not linked to who
  connected, and lives until it is disconnected; when its supervisor is killed, it has ended.

  ## When it ends

  The balancer is closed first, so that picks say `{:error, :closed}`. Then the calls in flight end in
  peace, those of transports that drain too: as soon as the last that is counted has ended, or
  `:drain_timeout` is over, all transports are closed, at once and together. A transport has 3 seconds to
  close.

  So it is when `disconnect/2` ends it, when its supervisor does, and when the application stops. A
  supervisor gives it the time: to a child that is a supervisor itself, as a connection is, it gives
  `:infinity`, unless the child specification says otherwise with `:shutdown`.

  ## Options

  #{GrpcLb.Connection.Options.docs()}

  The examples below use this transport, for which every address is well:

      defmodule MyApp.Transport do
        @behaviour GrpcLb.Transport

        @impl true
        def open(address, _opts), do: {:ok, "to " <> GrpcLb.Address.id(address)}

        @impl true
        def close(_value), do: :ok
      end
  """

  alias GrpcLb.{Call, Holder, Line, Name, Native, Secret, Slots, Text, Waiters}
  alias GrpcLb.Connection.{Connectivity, Held, Options, Server, States, Waiting}

  @resolve_now [
    reset_backoff: [
      type: {:one_of, [false, true]},
      default: false,
      doc: """
      whether all waits that failures have made begin anew: that of the resolver, and those of the
      backends, as `reconnect/1` has them.
      """
    ]
  ]

  @disconnect_options [
    drain_timeout: [
      type: {:or, {:or, {:ms, 0}, :infinity}, nil},
      default: nil,
      doc: "for how many milliseconds at most. By default the connection's own `:drain_timeout`."
    ]
  ]

  @enforce_keys [:name, :balancer]
  defstruct [:name, :balancer]

  @typedoc "A handle: what picks need. It stays valid when the connection's server is started again after a crash."
  @type t :: %__MODULE__{name: name(), balancer: GrpcLb.balancer()}

  @typedoc "Any term."
  @type name :: term()

  @typedoc "See `state/1`."
  @type state :: Connectivity.state()

  @typedoc "A connection by its handle, its name, or its supervisor, which `start_link/1` returns. A name is looked up before a process."
  @type ref :: t() | name() | pid()

  @typedoc """
  Why `connect/2` failed.

    * `{:resolve, reason}` - the target could not be resolved. The reason is the resolver's, or
      `:timeout`, or what its process ended with
    * `:no_addresses` - the resolver knows none
    * `{:open, id, reason}` - no transport could be opened; this one failed first. The reason is the
      transport's, see `GrpcLb.Transport`, or `:timeout`
    * `{:already_started, pid}` - there is a connection with this name
    * `:timeout` - `:ready_timeout` is over
    * `:closed` - somebody disconnected it meanwhile, or killed it
  """
  @type connect_error ::
          {:resolve, term()}
          | :no_addresses
          | {:open, id :: String.t(), term()}
          | {:already_started, pid()}
          | :timeout
          | :closed

  @doc """
  Connects, and returns when a pick can succeed: as soon as one transport is open. Others join the
  rotation as they open.

  Addresses are tried as the moduledoc says, and one that fails again after its backoff, as long as
  others are on their way. When no transport is open and none is on its way, or the target cannot be
  resolved, it fails with the first error, and nothing is left of it. Likewise when the calling
  process dies.

    * `{:ok, handle}`
    * `{:error, reason}`, see `t:connect_error/0`

  Raises `ArgumentError` when the target or an option is wrong.

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.pick(connection)
      {:ok, "to 10.0.0.1:50051"}
      iex> GrpcLb.Connection.disconnect(connection)
      :ok

      iex> GrpcLb.Connection.connect("ipv4:10.0.0.1:50051",
      ...>   transport: MyApp.Transport,
      ...>   connect_timeout: -1
      ...> )
      ** (ArgumentError) option :connect_timeout must be a number of milliseconds from 1 to 4294967295, got: -1
  """
  @spec connect(target :: term(), keyword()) :: {:ok, t()} | {:error, connect_error()}
  def connect(target, opts) do
    options = Options.new!(target, opts)

    with {:ok, balancer} <- __MODULE__.Supervisor.connect(options) do
      {:ok, %__MODULE__{name: options.name, balancer: balancer}}
    end
  end

  @doc """
  Starts a connection, linked to the calling process, and returns at once. It retries until it is
  connected. Returns the pid of its supervisor.

  Takes the options of `connect/2`, with `:target` among them.

    * `{:ok, pid}`
    * `{:error, {:already_started, pid}}` - there is a connection with this name

  Raises `ArgumentError` when an option is wrong.

      iex> {:ok, pid} =
      ...>   GrpcLb.Connection.start_link(target: "ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.await_ready(pid)
      :ok
      iex> GrpcLb.Connection.disconnect(pid)
      :ok
  """
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts), do: opts |> Options.new!() |> __MODULE__.Supervisor.start_link()

  @doc """
  The child specification of a connection, for a supervisor.

  Its id is `{GrpcLb.Connection, name}`. It is `:transient`: started again when it is killed, and not
  when it is disconnected.

      iex> spec = {GrpcLb.Connection, name: :api, target: "ipv4:10.0.0.1:50051", transport: MyApp.Transport}
      iex> %{id: id, restart: restart} = Supervisor.child_spec(spec, [])
      iex> {id, restart}
      {{GrpcLb.Connection, :api}, :transient}
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    # The name has to be the same after a restart.
    opts = Options.put_name(opts)

    %{
      id: {__MODULE__, opts[:name]},
      start: {Secret, :start, [__MODULE__, :start_link, Secret.hide([opts])]},
      restart: :transient,
      type: :supervisor
    }
  end

  @doc """
  Waits until a pick can succeed and `state/1` says `:ready`, at most `timeout` milliseconds.

    * `:ok`
    * `{:error, :timeout}`
    * `{:error, :closed}` - there is no such connection, or it ended meanwhile

  A timeout of 0 asks whether it is ready now.

      iex> GrpcLb.Connection.await_ready(:nobody)
      {:error, :closed}
  """
  @spec await_ready(ref(), timeout()) :: :ok | {:error, :timeout | :closed}
  def await_ready(connection, timeout \\ 15_000)

  def await_ready(connection, timeout) do
    timeout = GrpcLb.Options.argument!("timeout", {:or, {:ms, 0}, :infinity}, timeout)

    with {holder, %{status: status, held: held} = tree} when status != :closed <-
           find(connection),
         :ok <- not_in_server!(held.balancer),
         false <- closed_by_somebody?(holder, tree) do
      ready = fn ->
        ready? = Enum.any?(GrpcLb.info(held.balancer).backends, &(&1.state in [:ready, :ejected]))
        # The server says so a moment after it has changed the list.
        if ready? and States.get(held.states) == :ready, do: :ok, else: :wait
      end

      with {:error, :not_running} <- Waiters.await(held.waiters, 1, timeout, ready),
           do: {:error, :closed}
    else
      _closed_or_none -> {:error, :closed}
    end
  end

  # With the handle, and not by the holder's death: that ends the connection.
  defp closed_by_somebody?(holder, %{held: %{balancer: balancer}} = tree) do
    closed? = GrpcLb.closed?(balancer) and Process.alive?(holder)

    if closed? do
      Holder.close(holder, {:shutdown, :balancer_closed})
      Holder.stop(holder, tree)
    end

    closed?
  end

  @doc """
  The state of a connection, as in gRPC's
  [connectivity semantics](https://github.com/grpc/grpc/blob/master/doc/connectivity-semantics-and-api.md).
  Reads a table and asks no process.

    * `:ready` - a transport is open
    * `:connecting` - none is, and one is on its way that has not failed since it was open, or the target
      is being resolved for the first time
    * `:transient_failure` - all have failed, or the target could not be resolved. It stays so while they
      are tried again, until one is open: it does not go to and fro between the attempts.
    * `:shutdown` - the connection has ended, or there is none
    * `:idle` - never, as a connection does not wait for a call to connect. It is here because gRPC has it.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.state(connection)
      :ready
      iex> GrpcLb.Connection.disconnect(connection)
      iex> GrpcLb.Connection.state(connection)
      :shutdown
  """
  @spec state(ref()) :: state()
  def state(connection) do
    case find(connection) do
      {_holder, %{status: status, held: held}} when status != :closed -> States.get(held.states)
      _closed_or_none -> :shutdown
    end
  end

  @doc """
  Has the calling process told when the state of a connection changes, with a message

      {:grpc_lb_connection, name, state}

  for each change after the state that this returns: none is missed, and none is told twice. To call it
  again changes nothing. `name` is that of the connection, also where `connection` is a handle.

    * `{:ok, state}` - the state now, see `state/1`
    * `{:error, :closed}` - there is no such connection

  It goes on when the connection's server is started again, and ends with the process, with
  `unsubscribe/1`, and with the connection: `:shutdown` is the last message. Should a supervisor start
  another connection under the name, subscribe to that.

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport, name: :watched)
      iex> GrpcLb.Connection.subscribe(connection)
      {:ok, :ready}
      iex> GrpcLb.Connection.disconnect(connection)
      iex> receive do: (message -> message)
      {:grpc_lb_connection, :watched, :shutdown}
  """
  @spec subscribe(ref()) :: {:ok, state()} | {:error, :closed}
  def subscribe(connection) do
    case find(connection) do
      {_holder, %{held: held}} -> States.subscribe(held.states)
      nil -> {:error, :closed}
    end
  end

  @doc """
  Ends what `subscribe/1` began. Messages that have been sent are not taken back.

      iex> GrpcLb.Connection.unsubscribe(:nobody)
      :ok
  """
  @spec unsubscribe(ref()) :: :ok
  def unsubscribe(connection) do
    case find(connection) do
      {_holder, %{held: held}} -> States.unsubscribe(held.states)
      nil -> :ok
    end
  end

  @doc """
  Finds the handle of a connection by its name or its supervisor. Reads a table and asks no process, so
  it is cheap; a pick through a handle that was kept is cheaper.

    * `{:ok, handle}`
    * `{:error, :not_found}` - there is none, or `connect/2` has not returned yet

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport, name: :api)
      iex> GrpcLb.Connection.handle(:api) == {:ok, connection}
      true
      iex> GrpcLb.Connection.disconnect(:api)
      iex> GrpcLb.Connection.handle(:api)
      {:error, :not_found}
  """
  @spec handle(name() | pid()) :: {:ok, t()} | {:error, :not_found}
  def handle(ref) do
    case find(ref) do
      {_holder, %{status: :published, held: %{name: name, balancer: balancer}}} ->
        {:ok, %__MODULE__{name: name, balancer: balancer}}

      _unpublished_or_none ->
        {:error, :not_found}
    end
  end

  @doc """
  Finds the handle of a connection like `handle/1`, or raises `ArgumentError`.

      iex> GrpcLb.Connection.handle!(:nobody)
      ** (ArgumentError) there is no connection :nobody
  """
  @spec handle!(name() | pid()) :: t()
  def handle!(name) do
    case handle(name) do
      {:ok, handle} -> handle
      {:error, :not_found} -> raise ArgumentError, "there is no connection #{Text.show(name)}"
    end
  end

  @doc """
  Picks a backend and returns the value of its transport. As `GrpcLb.pick/1`, and as cheap: nothing is
  known of the call that is made then.

    * `{:ok, value}`
    * `{:error, :no_backends}` - no transport is open at the moment, see "Waiting" above
    * `{:error, :closed}` - the connection has ended

  Raises `ArgumentError` when `handle` is none.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.pick(connection)
      {:ok, "to 10.0.0.1:50051"}
      iex> GrpcLb.Connection.disconnect(connection)
      iex> GrpcLb.Connection.pick(connection)
      {:error, :closed}
  """
  @spec pick(t()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(%__MODULE__{balancer: balancer} = handle) do
    with {:error, :no_backends} <- Native.pick(balancer),
         do: Waiting.attempt(handle, nil, fn -> Native.pick(balancer) end)
  end

  def pick(other), do: no_handle!(other)

  @doc """
  Picks a backend for a key: with `policy: :ring_hash` the same one each time, and with any other policy
  as `pick/1`, which takes no notice of the key. See `GrpcLb.pick/2`.

  All clients with the same addresses choose the same backend for a key, gRPC's and Envoy's too: the
  ids of the backends are their addresses. One that is resolved and not connected has its place, and
  its keys go on to the next while it is not.

  Returns and raises what `pick/1` does.

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051",
      ...>     transport: MyApp.Transport,
      ...>     policy: :ring_hash
      ...>   )
      iex> GrpcLb.Connection.pick(connection, "user 7")
      {:ok, "to 10.0.0.1:50051"}
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec pick(t(), key :: term()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(handle, key), do: pick(handle, key, [])

  @doc """
  As `pick/2`, with options. The key may be `nil`: none.

  ## Options

  #{Call.wait_docs()}

  See "Waiting" at the top of this page.

      iex> {:ok, _pid} =
      ...>   GrpcLb.Connection.start_link(
      ...>     name: :late,
      ...>     target: "ipv4:10.0.0.1:50051",
      ...>     transport: MyApp.Transport
      ...>   )
      iex> connection = GrpcLb.Connection.handle!(:late)
      iex> GrpcLb.Connection.pick(connection, nil, wait_for_ready: 5_000)
      {:ok, "to 10.0.0.1:50051"}
      iex> GrpcLb.Connection.pick(connection, nil, wait_for_ready: true)
      ** (ArgumentError) option :wait_for_ready of pick/3 must be a number of milliseconds from 0 to 4294967295, or :infinity, or false, or nil, got: true
  """
  @spec pick(t(), key :: term(), wait_for_ready: timeout() | false) ::
          {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(%__MODULE__{balancer: balancer} = handle, key, opts) do
    wait = Call.wait!(opts, "pick/3")

    with {:error, :no_backends} <- GrpcLb.pick(balancer, key),
         do: Waiting.attempt(handle, wait, fn -> GrpcLb.pick(balancer, key) end)
  end

  def pick(other, _key, _opts), do: no_handle!(other)

  @doc """
  Picks a backend for a call, counts the call as in flight, and returns a ticket to end it with, see
  `GrpcLb.checkout/1`.

  Every ticket is to be completed with `GrpcLb.complete/3`. Where the call is made in one function,
  `run/3` does both.

    * `{:ok, value, ticket}`
    * `{:error, :no_backends}` - no transport is open at the moment
    * `{:error, :overloaded}` - as many calls are in flight as `:max_requests` allows, or as
      `:max_requests_per_backend` does at every backend, or others wait in line, see `:checkout_wait`
    * `{:error, :closed}` - the connection has ended

  Raises `ArgumentError` when `handle` is none.

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051",
      ...>     transport: MyApp.Transport,
      ...>     policy: :least_request,
      ...>     max_requests: 1
      ...>   )
      iex> {:ok, "to 10.0.0.1:50051", ticket} = GrpcLb.Connection.checkout(connection)
      iex> GrpcLb.Connection.checkout(connection)
      {:error, :overloaded}
      iex> GrpcLb.complete(ticket, :ok)
      :ok
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec checkout(t()) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :closed | :overloaded}
  def checkout(%__MODULE__{balancer: balancer} = handle) do
    with {:error, :no_backends} <- Native.checkout(balancer),
         do: Waiting.attempt(handle, nil, fn -> Native.checkout(balancer) end)
  end

  def checkout(other), do: no_handle!(other)

  @doc """
  Checks out a backend for a key: `checkout/1` with the choice of `pick/2`.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> {:ok, "to 10.0.0.1:50051", ticket} = GrpcLb.Connection.checkout(connection, "user 7")
      iex> GrpcLb.complete(ticket, :ok)
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec checkout(t(), key :: term()) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :closed | :overloaded}
  def checkout(handle, key), do: checkout(handle, key, [])

  @doc """
  As `checkout/2`, with the options of `pick/3`. The key may be `nil`: none.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> {:ok, "to 10.0.0.1:50051", ticket} =
      ...>   GrpcLb.Connection.checkout(connection, nil, wait_for_ready: :infinity)
      iex> GrpcLb.complete(ticket, :ok)
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec checkout(t(), key :: term(), wait_for_ready: timeout() | false) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :closed | :overloaded}
  def checkout(%__MODULE__{balancer: balancer} = handle, key, opts) do
    wait = Call.wait!(opts, "checkout/3")

    with {:error, :no_backends} <- GrpcLb.checkout(balancer, key),
         do: Waiting.attempt(handle, wait, fn -> GrpcLb.checkout(balancer, key) end)
  end

  def checkout(other, _key, _opts), do: no_handle!(other)

  @doc """
  Checks out a backend, calls `fun` with its value, completes the call, and returns what `fun`
  returned: `run(handle, fun, [])`.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.run(connection, &String.upcase/1)
      "TO 10.0.0.1:50051"
      iex> GrpcLb.Connection.disconnect(connection)
      iex> GrpcLb.Connection.run(connection, &String.upcase/1)
      {:error, :closed}
  """
  @spec run(t(), (value :: term() -> result)) ::
          result | {:error, :no_backends | :closed | :overloaded}
        when result: term()
  def run(handle, fun), do: run(handle, fun, [])

  @doc """
  As `run/2`, with options.

  Returns what `fun` returned, or the error of `checkout/1`, and `fun` was not called then. How the call
  went is seen from the result as `GrpcLb.run/3` sees it: `:error` and tuples that begin with it are
  failures, and so are a raise, an exit and a throw, which go on as they were.

  ## Options

  #{Call.docs_to_wait()}

  Raises `ArgumentError` when an argument is malformed.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> GrpcLb.Connection.run(connection, fn _value -> :timeout end, outcome: &{:error, &1})
      :timeout
      iex> GrpcLb.Connection.run(connection, &String.length/1, key: "user 7")
      17
      iex> %{backends: [%{successes: 1, failures: 1}]} = GrpcLb.info(connection.balancer)
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec run(t(), (value :: term() -> result), keyword()) ::
          result | {:error, :no_backends | :closed | :overloaded}
        when result: term()
  def run(%__MODULE__{balancer: balancer} = handle, fun, opts) do
    options = Call.read_to_wait!(fun, opts)
    slots = Slots.own()

    with {:ok, value, call} <-
           begin(handle, balancer, slots, options.key, options.wait_for_ready),
         do: Call.make(balancer, slots, call, value, fun, options)
  end

  def run(other, _fun, _opts), do: no_handle!(other)

  defp begin(handle, balancer, slots, key, wait) do
    with {:error, :no_backends} <- Line.begin(balancer, slots, key),
         # Whoever waits for room holds up nobody who waits for a backend.
         {:error, :overloaded} <-
           Waiting.attempt(handle, wait, fn -> Slots.begin(balancer, slots, key) end),
         do: Line.begin(balancer, slots, key)
  end

  @doc """
  Asks for a resolution now, and returns at once.

  It is done as soon as `:min_resolve_interval` allows. Asking again meanwhile, or for a connection
  that does not exist, changes nothing.

  ## Options

  #{GrpcLb.Options.docs(@resolve_now)}

  Raises `ArgumentError` when an option is wrong.

      iex> GrpcLb.Connection.resolve_now(:nobody)
      :ok

      iex> GrpcLb.Connection.resolve_now(:nobody, reset_backoff: true)
      :ok
  """
  @spec resolve_now(ref(), keyword()) :: :ok
  def resolve_now(connection, opts \\ []) do
    %{reset_backoff: reset?} = GrpcLb.Options.validate!(opts, @resolve_now)
    casts = if reset?, do: [:reset_backoff, :reconnect, :resolve_now], else: [:resolve_now]
    Enum.each(casts, &cast(connection, &1))
  end

  @doc """
  Has all backends that wait for their backoff be opened now, and returns at once. Their waits begin anew,
  as if nothing had failed before: for when it is known that what was wrong is over, such as the network.
  gRPC calls it to reset the connect backoff. Those whose transport is up are left alone.

  For a connection that does not exist it does nothing. `resolve_now/2` with `reset_backoff: true` does the
  same and resolves the target too.

      iex> GrpcLb.Connection.reconnect(:nobody)
      :ok
  """
  @spec reconnect(ref()) :: :ok
  def reconnect(connection), do: cast(connection, :reconnect)

  defp cast(connection, request) do
    with {_holder, %{held: %{balancer: balancer}}} <- find(connection),
         do: GenServer.cast(Server.via(balancer), request)

    :ok
  end

  @doc """
  Ends a connection: closes its balancer, so that picks fail, waits for the calls in flight, and then closes
  its transports. On return these are closed, and the name is free. Does nothing when there is no such
  connection.

  It waits for the calls that were made with `run/3` or `checkout/1`, until the last has ended, at most for
  `drain_timeout`. A process that calls it while a call of its own is in flight waits for all of that time.

  One in a supervision tree is not started again, see `child_spec/1`.

  ## Options

  #{GrpcLb.Options.docs(@disconnect_options)}

      iex> GrpcLb.Connection.disconnect(:nobody)
      :ok

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> {:ok, _value, _ticket} = GrpcLb.Connection.checkout(connection)
      iex> GrpcLb.Connection.disconnect(connection, drain_timeout: 0)
      :ok
  """
  @spec disconnect(ref(), keyword()) :: :ok
  def disconnect(connection, opts \\ []) do
    %{drain_timeout: timeout} = GrpcLb.Options.validate!(opts, @disconnect_options)
    end_it(connection, timeout)
  end

  defp end_it(connection, timeout) do
    stopped =
      case find(connection) do
        {holder, %{held: %{balancer: balancer}} = tree} ->
          not_in_server!(balancer)
          Holder.stop(holder, tree, timeout)

        nil ->
          stop_without_holder(connection)
      end

    # One that crashed may have been started again.
    if stopped == :crashed, do: end_it(connection, timeout), else: :ok
  end

  # A handle is that of the connection that was found, or of none.
  defp stop_without_holder(%__MODULE__{}), do: :error

  # When the holder was killed, it is about to be started again.
  defp stop_without_holder(connection) do
    with {:ok, supervisor, _name} <- __MODULE__.Supervisor.find(connection),
         false <- supervisor in Process.get(:"$ancestors", []) do
      Holder.stop_supervisor(supervisor, :normal)
    end
  end

  @doc """
  Changes settings of a connection that is in use, without losing anything that is known of its
  backends. Options, results and errors are those of `GrpcLb.configure/2`.

  A connection whose holder is started again has the options that it was first started with. Raises
  `ArgumentError` also when there is no such connection.

      iex> {:ok, connection} =
      ...>   GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport, max_requests: 1)
      iex> {:ok, _value, first} = GrpcLb.Connection.checkout(connection)
      iex> GrpcLb.Connection.checkout(connection)
      {:error, :overloaded}
      iex> GrpcLb.Connection.configure(connection, max_requests: 2)
      {:ok, :changed}
      iex> {:ok, _value, second} = GrpcLb.Connection.checkout(connection)
      iex> for ticket <- [first, second], do: GrpcLb.complete(ticket, :ok)
      iex> GrpcLb.Connection.disconnect(connection)
      iex> GrpcLb.Connection.configure(connection, max_requests: 3)
      {:error, :closed}
  """
  @spec configure(ref(), keyword()) :: {:ok, :changed | :unchanged} | {:error, :closed}
  def configure(%__MODULE__{balancer: balancer}, opts), do: GrpcLb.configure(balancer, opts)
  def configure(ref, opts), do: configure(handle!(ref), opts)

  @doc """
  Describes a connection as it is now, for people and tests. It asks the connection's server.

    * `:name`, `:target` - as they were given
    * `:ready` - whether there is a backend to pick
    * `:resolution` - the last one: `:pending`, `:ok` or `{:error, reason}`
    * `:backends` - a map for each, in the order of the last resolution, with
      * `:id`, `:address`
      * `:state` - of its transport, that of the furthest where it has several addresses:
        * `:up`
        * `:unhealthy` - it is open and out of the rotation, see `GrpcLb.Transport`
        * `:opening` - it is being opened
        * `:queued` - it is to be opened, when others have been, see `:max_dials`
        * `:backoff` - it could not be opened, or was lost, and is tried again later
        * `:idle` - it is not needed: with `:pick_first` another is up, or has its turn first
        * `:closing` - it is being closed
      * `:error` - why its transport failed last, or is unhealthy; `nil` while it is `:up`

    After these come the transports that have left, each with its backend's `:id`, its `:address`, and
    the `:state` `:draining`, while calls in flight end, or `:closing`.

  Raises `ArgumentError` when there is no such connection.

      iex> {:ok, connection} = GrpcLb.Connection.connect("ipv4:10.0.0.1:50051", transport: MyApp.Transport)
      iex> %{ready: true, resolution: :ok, backends: [backend]} = GrpcLb.Connection.info(connection)
      iex> {backend.id, backend.state, backend.error}
      {"10.0.0.1:50051", :up, nil}
      iex> GrpcLb.Connection.disconnect(connection)
      :ok
  """
  @spec info(ref()) :: %{
          name: name(),
          target: term(),
          ready: boolean(),
          resolution: :pending | :ok | {:error, reason :: term()},
          backends: [
            %{
              id: String.t(),
              address: GrpcLb.Address.t(),
              state:
                :up | :unhealthy | :opening | :queued | :backoff | :idle | :closing | :draining,
              error: term()
            }
          ]
        }
  def info(connection) do
    case find(connection) do
      {holder, %{supervisor: supervisor, held: %{balancer: balancer}}} ->
        not_in_server!(balancer)

        try do
          supervisor |> __MODULE__.Supervisor.server() |> GenServer.call(:info, :infinity)
        catch
          :exit, _it_has_ended ->
            # The holder of one whose supervisor was killed is found until it has cleaned up.
            unless Process.alive?(supervisor), do: GrpcLb.Janitor.await(holder)
            info(connection)
        end

      nil ->
        raise ArgumentError, "there is no connection #{Text.show(connection)}"
    end
  end

  # Its holder, and what that has registered. A handle means its own connection, and not the next one
  # of its name.
  defp find(%__MODULE__{name: name, balancer: balancer}) do
    case lookup(name) do
      {_holder, %{held: %{balancer: ^balancer}}} = found -> found
      _another_or_none -> nil
    end
  end

  defp find(ref) do
    case {lookup(ref), ref} do
      {nil, pid} when is_pid(pid) ->
        with {:ok, ^pid, name} <- __MODULE__.Supervisor.find(pid),
             {_holder, %{supervisor: ^pid}} = found <- lookup(name) do
          found
        else
          _another_or_none -> nil
        end

      {found_or_none, _name} ->
        found_or_none
    end
  end

  # For a handler that runs in the holder, when that ends, there is none any more.
  defp lookup(name) do
    case Holder.lookup({Held, Name.check!(name)}) do
      {holder, %{held: %Held{}} = tree} when holder != self() -> {holder, tree}
      _starting_or_none -> nil
    end
  end

  defp not_in_server!(balancer) do
    if Server.whereis(balancer) == self() do
      raise ArgumentError,
            "a telemetry handler cannot wait for the connection in whose process it runs"
    end

    :ok
  end

  defp no_handle!(other) do
    raise ArgumentError,
          "expected a handle, a %GrpcLb.Connection{}, which GrpcLb.Connection.handle!/1 finds by name or " <>
            "pid, got: #{Text.show(other)}"
  end
end
