defmodule GrpcLb.Pool do
  @moduledoc """
  A routing pool: many callers share the pool's members, and each pick chooses one.

  A checkout pool (poolboy, `NimblePool`, DBConnection) lends a resource to one caller at a time. A
  routing pool lends nothing: any number of callers use a member at once, and the pool only
  decides which. Members are processes, each with a value that picks return: its pid, a socket, a
  table, whatever callers need. A pick is one `:persistent_term.get/2` and one native call in the
  caller's own process. No process, no registry and no table is asked, and the cost does not grow
  with the number of members.

  It is the wrong tool when a member can serve only one caller at a time: nothing keeps two
  callers from picking the same one.

  A pool can look at the load, the latency and the failures of its members: with policies such as
  `:least_request`, and with `:outlier_detection` and the like. These see the calls that are made with
  `call/3`, `run/3`, or `checkout/1` and `GrpcLb.complete/3`. `run/3` costs a tenth of a microsecond more than
  a pick, a ticket a third of a microsecond.

  ## In a supervision tree

      children = [
        {GrpcLb.Pool, name: MyPool, size: 10, worker: {MyClient, {"10.0.0.1", 4000}}}
      ]

  The pool starts and restarts its workers, and that is all: they join by themselves, when they
  have what callers need, and leave while they have not.

      defmodule MyClient do
        use GenServer

        def handle_info(:connected, state) do
          # An error would say that the pool is stopping, and its workers with it.
          GrpcLb.Pool.join(MyPool, value: state.socket)
          {:noreply, state}
        end

        def handle_info(:disconnected, state) do
          GrpcLb.Pool.leave(MyPool)
          {:noreply, state}
        end
      end

  What is known of a member that leaves is kept for its pid, 60 seconds by default, see `:remember`: one
  that is ejected and joins again is ejected still. A worker that dies is forgotten: the one that is
  started in its place has another pid, and is new.

  A member that dies has left, natively and at once: no process has to notice. Any process of the
  node can join, worker or not, so a pool need not have workers.

  At once means: when the VM tells the process's watchers of its death, of which the balancer is one.
  It tells them in the order in which they began to watch. Whoever has monitored a member since it
  joined and has heard of its death does not pick it any more; whoever had monitored it before it
  joined can hear of it a moment earlier. And the VM frees the ETS tables of a process before it tells
  anybody that it is dead, which takes about a second with a million rows. A member that owns such
  tables, or that wants to serve no caller while it ends, leaves before it stops.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :pool_doc)
      iex> GrpcLb.Pool.pick(:pool_doc)
      {:error, :no_backends}
      iex> GrpcLb.Pool.join(:pool_doc, value: "10.0.0.1")
      :ok
      iex> GrpcLb.Pool.pick(:pool_doc)
      {:ok, "10.0.0.1"}
      iex> GrpcLb.Pool.leave(:pool_doc)
      :ok
      iex> GrpcLb.Pool.pick(:pool_doc)
      {:error, :no_backends}

  ## What fails, and what then

      pool supervisor (one_for_one)
      |- holder: owns the balancer and the name
      |- cluster (rest_for_one), only with scope: :cluster
      |  |- the :pg scope
      |  `- the feed: tells other nodes of members here, lists theirs here
      |- workers (one_for_one)
      |  |- {MyClient, 1}
      |  `- ...
      `- gate: closes the balancer and drains before the others are stopped

  The balancer, and with it the membership, belongs to the holder.

    * A worker dies: it has left. Its supervisor starts it again, the others do not notice.
    * The workers' supervisor dies, and all workers with it: they have left. Others are started, and
      join. Members that are not workers stay.
    * The feed dies: all members are picked as before. A new feed reads from the balancer and from
      the scope what it has to know.
    * The scope dies, and the feed with it: here all members are picked as before. A new scope hears
      from the other nodes who their members are; those of a connected node that has not answered
      after two seconds are not picked until it does. The other nodes do not pick this node's members
      until they hear from the new scope.
    * The holder or the pool's supervisor is killed, the pool stops, or it gives up because it had to
      restart too much: the name stands for no pool any more. When the supervisor above starts the pool
      again it is empty. Where the child spec says `restart: :transient` it does so only after a kill of
      the pool's supervisor: to supervisors the others are ends in order.

  A pool that stops, by `stop/1` or because its supervisor stops it, refuses picks first. Its workers go on
  until the calls that are counted have ended, see `:drain_timeout`, and are not started again meanwhile. A
  supervisor gives a pool, as any child that is a supervisor, `:infinity` for that, unless the child
  specification says otherwise with `:shutdown`. In a cluster the other nodes no longer pick the members of
  a pool that stops; calls of theirs that are in flight are counted there, and not waited for here.

  Workers join a pool that starts empty as they start. Members that are not workers are not told.
  One that must stay a member monitors the pool's supervisor, which is registered under the pool's
  name and ends with the pool, and joins again once `join/2` finds a pool of that name; to join where
  it still is a member does no harm.

  ## In a cluster

  With `scope: :cluster` a pick chooses among the members of the pools of this name on all
  connected nodes. Membership is OTP's own, a scope of `:pg` that the pool starts: a node that goes
  down takes its members out, and what a net split took comes back when it heals. Each node
  balances by itself, by the calls that it makes, and knows of a change elsewhere a moment after it.
  Processes join on their own node. A member's value travels to the other nodes, so it has to mean
  something there: a pid does, a socket or a table does not. It needs OTP 25.1.

  ## Options

  #{GrpcLb.Pool.Options.docs()}

  What `GrpcLb.new/3` calls a backend is a member here.
  """

  alias GrpcLb.{Call, Line, Native, Secret, Slots, Text, Waiters}
  alias GrpcLb.Pool.{Feed, Handle, Membership, NoMembersError, Options, Request}

  @cast_options [
    key: [type: :any, default: nil, doc: "the key of the call, see `pick/2`."]
  ]
  @cast_prepared GrpcLb.Options.prepare(@cast_options)

  @call_options [
                  timeout: [
                    type: {:or, {:ms, 0}, :infinity},
                    default: 5_000,
                    doc: "the time in milliseconds that a member has to answer, or `:infinity`."
                  ]
                ] ++ @cast_options
  @call_prepared GrpcLb.Options.prepare(@call_options)

  @typedoc "The name of a pool."
  @type name :: atom()

  @typedoc "A member: its process, what picks return, its share beside the others, see `GrpcLb.info/1`."
  @type member :: %{pid: pid(), value: term(), weight: non_neg_integer()}

  @typedoc "A pool as it is at one moment, see `info/1`."
  @type info :: %{
          name: name(),
          policy: GrpcLb.Policy.t(),
          scope: :node | :cluster,
          local_share: number() | nil,
          size: non_neg_integer(),
          layers: [GrpcLb.layer_info()],
          members: [member_info()]
        }

  @typedoc "A member as it is at one moment, see `info/1`."
  @type member_info :: %{
          pid: pid(),
          value: term(),
          state: :ready | :ejected,
          priority: non_neg_integer(),
          locality: String.t() | nil,
          weight: non_neg_integer(),
          current_weight: float() | nil,
          table_share: float() | nil,
          in_flight: non_neg_integer(),
          oldest_in_flight: non_neg_integer() | nil,
          latency_ns: non_neg_integer() | nil,
          picks: non_neg_integer(),
          successes: non_neg_integer(),
          failures: non_neg_integer(),
          ejected_until: non_neg_integer() | nil,
          ejected_by: GrpcLb.ejection_rule() | nil,
          times_ejected: non_neg_integer()
        }

  @doc """
  The child spec of a pool, with the id `{GrpcLb.Pool, name}`. Takes the options of `start_link/1`.

      iex> GrpcLb.Pool.child_spec(name: MyPool).id
      {GrpcLb.Pool, MyPool}
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    %Options{name: name} = Options.validate!(opts)

    %{
      id: {__MODULE__, name},
      start: {Secret, :start, [__MODULE__, :start_link, Secret.hide([opts])]},
      type: :supervisor
    }
  end

  @doc """
  Starts a pool, linked to the calling process. Returns the pid of its supervisor, which is
  registered under the pool's name.

  For the options see the top of this page.

    * `{:ok, pid}`
    * `{:error, {:already_started, pid}}` - a process is registered under the name
    * `{:error, reason}` - a worker did not start, `reason` is what `Supervisor` says about it

  Raises `ArgumentError` when an option is missing, unknown or has a wrong value, and when the name
  is the key of a `:persistent_term` entry that is not a pool's.

      iex> {:ok, supervisor} = GrpcLb.Pool.start_link(name: :start_doc, policy: :random)
      iex> GrpcLb.Pool.start_link(name: :start_doc)
      {:error, {:already_started, supervisor}}

      iex> GrpcLb.Pool.start_link(name: "my pool")
      ** (ArgumentError) option :name of a pool must be an atom other than nil, true, false and :undefined, got: "my pool"
  """
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts) do
    %Options{name: name} = options = Options.validate!(opts)

    if Handle.taken?(name) do
      raise ArgumentError,
            "option :name of a pool must not be the key of a :persistent_term entry of " <>
              "somebody else, got: #{inspect(name)}"
    end

    GrpcLb.Pool.Supervisor.start_link(options)
  end

  @doc """
  Stops a pool: closes its balancer and erases its name, waits for the calls in flight, for `:drain_timeout`
  at most, and then ends its workers.

  The name can be used again when this has returned. A pool in a supervision tree is stopped with
  `Supervisor.terminate_child/2`: after this function its supervisor would start it again.

    * `:ok`
    * `{:error, :not_running}`

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :stop_doc)
      iex> GrpcLb.Pool.stop(:stop_doc)
      :ok
      iex> GrpcLb.Pool.stop(:stop_doc)
      {:error, :not_running}
      iex> GrpcLb.Pool.pick(:stop_doc)
      {:error, :not_running}
  """
  @spec stop(name()) :: :ok | {:error, :not_running}
  def stop(pool) do
    with {:ok, handle} <- Handle.fetch(pool), do: GrpcLb.Pool.Supervisor.stop(handle)
  end

  @doc """
  Makes the calling process a member, or changes its value and weight if it is one already.

  With a pid as second argument, makes that process a member: the same as `join(pool, pid, [])`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :join_doc)
      iex> GrpcLb.Pool.join(:join_doc)
      :ok
      iex> GrpcLb.Pool.pick(:join_doc) == {:ok, self()}
      true
      iex> GrpcLb.Pool.join(:join_doc, value: :better, weight: 2)
      :ok
      iex> GrpcLb.Pool.members(:join_doc)
      {:ok, [%{pid: self(), value: :better, weight: 2}]}
  """
  @spec join(name(), keyword() | pid()) :: :ok | {:error, :not_running | :noproc}
  def join(pool, opts_or_pid \\ [])
  def join(pool, pid) when is_pid(pid), do: join(pool, pid, [])
  def join(pool, opts), do: join(pool, self(), opts)

  @doc """
  Makes `pid`, a process of this node, a member, or changes its value and weight.

  Every pick on this node that starts after this returns can choose it. With `scope: :cluster`
  other nodes follow a moment later, and joins and leaves wait for one process of the pool, the feed,
  without a limit: as long as the distribution holds it up, because a connected node does not take
  what it is sent, they do not return. Picks never wait for it.

  ## Options

  #{Options.member_docs()}

  Returns

    * `:ok`
    * `{:error, :noproc}` - the process is dead
    * `{:error, :not_running}` - there is no pool of this name

  Raises `ArgumentError` when an argument is malformed, and has changed nothing then.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :join_pid_doc)
      iex> {:ok, agent} = Agent.start_link(fn -> 0 end)
      iex> GrpcLb.Pool.join(:join_pid_doc, agent, value: :counter)
      :ok
      iex> Agent.stop(agent)
      iex> GrpcLb.Pool.join(:join_pid_doc, agent, value: :counter)
      {:error, :noproc}
  """
  @spec join(name(), pid(), keyword()) :: :ok | {:error, :not_running | :noproc}
  def join(pool, pid, opts) do
    member = Options.member!(local!(pid), opts)

    with {:ok, handle} <- Handle.fetch(pool) do
      Membership.join(handle, member)
    end
  end

  @doc """
  Makes a process of this node, by default the calling one, leave. No pick on this node that starts
  after this returns chooses it. With `scope: :cluster` it waits as `join/3` does.

    * `:ok` - it is no member; it need not have been one
    * `{:error, :not_running}` - there is no pool of this name

  Raises `ArgumentError` when `pid` is not a pid of this node.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :leave_doc)
      iex> GrpcLb.Pool.join(:leave_doc)
      iex> GrpcLb.Pool.leave(:leave_doc)
      :ok
      iex> GrpcLb.Pool.leave(:leave_doc)
      :ok
  """
  @spec leave(name(), pid()) :: :ok | {:error, :not_running}
  def leave(pool, pid \\ self()) do
    pid = local!(pid)

    with {:ok, handle} <- Handle.fetch(pool) do
      Membership.leave(handle, pid)
    end
  end

  @doc """
  Picks a member and returns its value.

    * `{:ok, value}`
    * `{:error, :no_backends}` - the pool has none; with `strict: false`, also where all are ejected, see
      `:outlier_detection`
    * `{:error, :not_running}` - there is no pool of this name

  The member was one when the pick began, and can have died since.

  Nothing is known of the call that is made then. What looks at load, latency or failures needs calls
  that are made with `call/3`, `run/3` or `checkout/1`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :pick_doc)
      iex> GrpcLb.Pool.pick(:pick_doc)
      {:error, :no_backends}
      iex> GrpcLb.Pool.join(:pick_doc, value: 1)
      iex> GrpcLb.Pool.pick(:pick_doc)
      {:ok, 1}
      iex> GrpcLb.Pool.pick(:no_such_pool)
      {:error, :not_running}
  """
  @spec pick(name()) :: {:ok, value :: term()} | {:error, :no_backends | :not_running}
  def pick(pool) when is_atom(pool) do
    case :persistent_term.get(pool, nil) do
      {GrpcLb.Pool, balancer, _handle} -> in_pool(Native.pick(balancer))
      _other -> {:error, :not_running}
    end
  end

  def pick(other), do: Handle.not_a_pool!(other)

  defp in_pool({:error, :no_backends}), do: {:error, :no_backends}
  defp in_pool({:error, :closed}), do: {:error, :not_running}
  defp in_pool(found_or_overloaded), do: found_or_overloaded

  @doc """
  Picks a member for a key: with `policy: :ring_hash` the same one each time, and with any other policy
  as `pick/1`, which takes no notice of the key. See `GrpcLb.pick/2`.

  With `scope: :cluster` all nodes choose the same member for a key, once they have heard of the same
  members. A member's place is that of its pid: the keys of one that is started anew go elsewhere.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :pick_key_doc, policy: :ring_hash)
      iex> GrpcLb.Pool.join(:pick_key_doc, value: 1)
      iex> GrpcLb.Pool.pick(:pick_key_doc, "customer 7")
      {:ok, 1}
  """
  @spec pick(name(), key :: term()) ::
          {:ok, value :: term()} | {:error, :no_backends | :not_running}
  def pick(pool, key) when is_atom(pool) do
    case :persistent_term.get(pool, nil) do
      {GrpcLb.Pool, balancer, _handle} -> in_pool(GrpcLb.pick(balancer, key))
      _other -> {:error, :not_running}
    end
  end

  def pick(other, _key), do: Handle.not_a_pool!(other)

  @doc """
  As `pick/2`, with options. The key may be `nil`: none.

  ## Options

  #{Call.wait_docs()} By default not at all.

  Those who wait are served in the order in which they came.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :pick_wait_doc)
      iex> GrpcLb.Pool.pick(:pick_wait_doc, nil, wait_for_ready: 10)
      {:error, :no_backends}
      iex> waiting = Task.async(fn -> GrpcLb.Pool.pick(:pick_wait_doc, nil, wait_for_ready: 5_000) end)
      iex> GrpcLb.Pool.join(:pick_wait_doc, value: 1)
      iex> Task.await(waiting)
      {:ok, 1}
  """
  @spec pick(name(), key :: term(), wait_for_ready: timeout() | false) ::
          {:ok, value :: term()} | {:error, :no_backends | :not_running}
  def pick(pool, key, opts) do
    pick = &GrpcLb.pick(&1, key)
    pool |> in_balancer(pick) |> or_wait(pool, Call.wait!(opts, "pick/3"), pick)
  end

  @doc """
  Picks a member and returns its value, or raises `GrpcLb.Pool.NoMembersError`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :pick_bang_doc)
      iex> GrpcLb.Pool.pick!(:pick_bang_doc)
      ** (GrpcLb.Pool.NoMembersError) pool :pick_bang_doc has no members
  """
  @spec pick!(name()) :: value :: term()
  def pick!(pool) do
    case pick(pool) do
      {:ok, value} -> value
      {:error, reason} -> raise NoMembersError, pool: pool, reason: reason
    end
  end

  @doc """
  Picks a member for a call, counts the call as in flight, and returns a ticket to end it with.

  It is `pick/1` for policies and options that look at calls, see `GrpcLb.checkout/1`, and every ticket
  is to be completed with `GrpcLb.complete/3`. Where the call is made in one function, `run/3` and
  `call/3` do both.

  A ticket that is lost, because nobody completes it, holds its place under `:max_requests` until the
  process that has it dies or collects its garbage, which one that is idle does not do for a long time.

    * `{:ok, value, ticket}`
    * `{:error, :no_backends}` - the pool has none; with `strict: false`, also where all are ejected
    * `{:error, :overloaded}` - as many calls are in flight as `:max_requests` allows, or as
      `:max_requests_per_backend` does at every member, or others wait in line, see `:checkout_wait`
    * `{:error, :not_running}` - there is no pool of this name

      iex> {:ok, _supervisor} =
      ...>   GrpcLb.Pool.start_link(name: :checkout_doc, policy: :least_request, max_requests: 1)
      iex> GrpcLb.Pool.join(:checkout_doc, value: 1)
      iex> {:ok, 1, ticket} = GrpcLb.Pool.checkout(:checkout_doc)
      iex> GrpcLb.Pool.checkout(:checkout_doc)
      {:error, :overloaded}
      iex> GrpcLb.complete(ticket, :ok)
      :ok
  """
  @spec checkout(name()) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :not_running | :overloaded}
  def checkout(pool), do: in_balancer(pool, &Native.checkout/1)

  defp in_balancer(pool, fun) when is_atom(pool) do
    case :persistent_term.get(pool, nil) do
      {GrpcLb.Pool, balancer, _handle} -> in_pool(fun.(balancer))
      _other -> {:error, :not_running}
    end
  end

  defp in_balancer(other, _fun), do: Handle.not_a_pool!(other)

  # After all else: what need not wait has nothing of it.
  defp or_wait({:error, :no_backends}, pool, wait, fun) when wait not in [nil, false, 0] do
    attempt = fn ->
      with {:error, :no_backends} <- in_balancer(pool, fun), do: :wait
    end

    with {:ok, handle} <- Handle.fetch(pool),
         {:error, :timeout} <- Waiters.await(handle.waiters, 1, wait, attempt),
         do: {:error, :no_backends}
  end

  defp or_wait(found_or_error, _pool, _wait, _fun), do: found_or_error

  @doc """
  Checks out a member for a key: `checkout/1` with the choice of `pick/2`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :checkout_key_doc)
      iex> GrpcLb.Pool.join(:checkout_key_doc, value: 1)
      iex> {:ok, 1, _ticket} = GrpcLb.Pool.checkout(:checkout_key_doc, "customer 7")
  """
  @spec checkout(name(), key :: term()) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :not_running | :overloaded}
  def checkout(pool, key), do: in_balancer(pool, &GrpcLb.checkout(&1, key))

  @doc """
  As `checkout/2`, with the options of `pick/3`. The key may be `nil`: none.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :checkout_wait_doc)
      iex> GrpcLb.Pool.checkout(:checkout_wait_doc, nil, wait_for_ready: false)
      {:error, :no_backends}
  """
  @spec checkout(name(), key :: term(), wait_for_ready: timeout() | false) ::
          {:ok, value :: term(), GrpcLb.ticket()}
          | {:error, :no_backends | :not_running | :overloaded}
  def checkout(pool, key, opts) do
    checkout = &GrpcLb.checkout(&1, key)
    pool |> in_balancer(checkout) |> or_wait(pool, Call.wait!(opts, "checkout/3"), checkout)
  end

  @doc """
  Checks out a member, calls `fun` with its value, and completes the call.

  Returns what `fun` returned, or the error of `checkout/1`, and `fun` was not called then. With
  `:checkout_wait` it may wait for room first. How the call went is seen from the result as `GrpcLb.run/3` sees it: `:error` and tuples that begin with it are
  failures, and so are a raise, an exit and a throw, which go on as they were.

  ## Options

  #{Call.docs_to_wait()} By default not at all.

  Raises `ArgumentError` when an argument is malformed, before a member is checked out.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :run_doc)
      iex> GrpcLb.Pool.run(:run_doc, fn n -> n + 1 end)
      {:error, :no_backends}
      iex> GrpcLb.Pool.join(:run_doc, value: 41)
      iex> GrpcLb.Pool.run(:run_doc, fn n -> n + 1 end)
      42
      iex> GrpcLb.Pool.run(:run_doc, fn _n -> :timeout end, outcome: &{:error, &1})
      :timeout
      iex> %{members: [%{successes: 1, failures: 1}]} = GrpcLb.Pool.info(:run_doc)
  """
  @spec run(name(), (value :: term() -> result), keyword()) ::
          result | {:error, :no_backends | :not_running | :overloaded}
        when result: term()
  def run(pool, fun, opts \\ []) do
    options = Call.read_to_wait!(fun, opts)
    slots = Slots.own()

    with {:ok, value, call} <- begin(pool, slots, options.key, options.wait_for_ready),
         do: Call.make(pool, slots, call, value, fun, options)
  end

  defp begin(pool, slots, key, wait) do
    with {:error, :no_backends} = none <- begin_in_line(pool, slots, key),
         # Whoever waits for room holds up nobody who waits for a member.
         {:error, :overloaded} <- or_wait(none, pool, wait, &Slots.begin(&1, slots, key)),
         do: begin_in_line(pool, slots, key)
  end

  defp begin_in_line(pool, slots, key), do: in_balancer(pool, &Line.begin(&1, slots, key))

  @doc """
  Checks out a member, calls it with `GenServer.call/3`, and completes the call.

  ## Options

  #{GrpcLb.Options.docs(@call_options)}

  A timeout can also be given in the place of the options.

  Members' values have to be what `GenServer.call/3` takes: pids, as they are by default, or names. Raises
  `ArgumentError` for one that is not.

    * `{:ok, reply}`; a reply that is `{:ok, value}` itself is not put into another
    * `{:error, reason}` - a reply that is this
    * `{:error, {:exit, reason}}` - the call failed, `reason` is what `GenServer.call/3` exited with
      and says whom it called and why it ended
    * `{:error, :no_backends}`, `{:error, :overloaded}`, `{:error, :not_running}`, see `checkout/1`

  A call that exits has failed, and so has one with a reply that `run/3` would take for a failure, such
  as `{:error, reason}`: policies and options that look at failures see both.

  A member that calls its own pool does not get itself: it is passed over, also where its value is a name
  of the calling process, and no failure is counted for it. If there is no other the answer is `{:error,
  :no_backends}`. `pick/1`, `checkout/1` and `run/3` do give a member itself: what is made of it is up to
  the caller.

  With `:checkout_wait` the call may wait for room first, and `timeout` begins after that.

  A member that is found dead, which is the exit reason `:noproc`, did not get the request: another
  one is picked, once. So it is with a member of a node that is not connected any more, once for
  each such node; if picks still choose members of it then, one that can be reached is taken at
  random. A call that has reached a member is never made again, not when it times out and
  not when the member dies. Only a member that itself exits with the bare reason `:noproc` in the
  middle of a call looks like one that was dead before.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :call_doc)
      iex> {:ok, agent} = Agent.start_link(fn -> 7 end)
      iex> GrpcLb.Pool.join(:call_doc, agent)
      iex> GrpcLb.Pool.call(:call_doc, {:get, fn n -> n end})
      {:ok, 7}
      iex> GrpcLb.Pool.call(:call_doc, {:get, fn n -> n end}, key: "customer 7", timeout: 1_000)
      {:ok, 7}
      iex> GrpcLb.Pool.call(:call_doc, {:get, fn n -> {:error, n} end})
      {:error, 7}
  """
  @spec call(name(), request :: term(), timeout() | [timeout: timeout(), key: term()]) ::
          {:ok, reply :: term()}
          | {:error, :no_backends | :not_running | :overloaded | {:exit, reason :: term()}}
          | {:error, reason :: term()}
  def call(pool, request, opts_or_timeout \\ [])

  def call(pool, request, opts) when is_list(opts) do
    options = GrpcLb.Options.validate!(opts, @call_prepared, "call/3")
    call(pool, request, options, _passed_over = [])
  end

  def call(pool, request, timeout) do
    call(pool, request, %{timeout: timeout!(timeout), key: nil}, [])
  end

  # passed_over: :dead when a dead member was, and the nodes that were not connected.
  defp call(pool, request, options, passed_over) do
    slots = Slots.own()

    with {:ok, server, call} <- begin_at_other(pool, slots, options.key, passed_over) do
      case make(slots, call, server, request, options.timeout) do
        {:ok, reply} ->
          Request.answer(reply)

        {:unsent, why, reason} ->
          if why in passed_over do
            {:error, {:exit, reason}}
          else
            pass_over(pool, why)
            call(pool, request, options, [why | passed_over])
          end

        {:exit, reason} ->
          {:error, {:exit, reason}}
      end
    end
  end

  # The feed takes the members of a lost node out, but it can be busy, and a call has no time to wait
  # for it. As long as such members are picked, one that can be reached is taken from the list.
  defp begin_at_other(pool, slots, key, passed_over) do
    with {:ok, server, call} <- begin_except(pool, slots, [self()], key) do
      if passed_over == [] or connected?(server) do
        {:ok, server, call}
      else
        # The call is counted for another member. To end it again changes nothing.
        Slots.finish(slots, call, :cancelled, nil)

        with {:ok, members} <- listed(pool) do
          reachable =
            for %{value: value} <- members, connected?(value) and not self?(value), do: value

          {:ok, if(reachable == [], do: server, else: Enum.random(reachable)), call}
        end
      end
    end
  end

  # Nobody can call itself: the policy chooses among the others.
  defp begin_except(pool, slots, servers, key) do
    with {:ok, server, call} <- in_balancer(pool, &Line.begin_except(&1, slots, servers, key)) do
      # A value can be a name of this process.
      if self?(server) do
        Slots.finish(slots, call, :cancelled, nil)
        begin_except(pool, slots, [server | servers], key)
      else
        {:ok, server, call}
      end
    end
  end

  defp self?(pid) when is_pid(pid), do: pid == self()

  defp self?(name) when is_atom(name), do: Process.whereis(name) == self()
  defp self?({name, node}) when is_atom(name) and node == node(), do: self?(name)
  defp self?({:global, _term} = name), do: GenServer.whereis(name) == self()
  defp self?({:via, _module, _term} = name), do: GenServer.whereis(name) == self()
  defp self?(_no_server), do: false

  defp make(slots, call, server, request, timeout) do
    result = try_call(server, request, timeout)
    Slots.finish(slots, call, Call.native_outcome!(outcome(result)), nil)
    result
  catch
    # Not an exit: that of the call is a result.
    kind, reason ->
      Slots.finish(slots, call, :error, nil)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp outcome({:ok, reply}), do: Call.outcome(reply)
  defp outcome({:unsent, _where, reason}), do: {:error, {:transport, reason}}
  defp outcome(not_answered), do: {:error, not_answered}

  defp try_call(server, request, timeout) do
    if connected?(Request.server!(server)) do
      {:ok, GenServer.call(server, request, timeout)}
    else
      # What GenServer.call/3 would say, after it had tried to connect.
      reason = {{:nodedown, node(server)}, {GenServer, :call, [server, request, timeout]}}
      {:unsent, {:node, node(server)}, reason}
    end
  catch
    :exit, {:noproc, {GenServer, :call, _args}} = reason -> {:unsent, :dead, reason}
    :exit, reason -> {:exit, reason}
  end

  # A value can be the pid of a process on a hidden node.
  defp connected?(server) when is_pid(server) do
    node(server) == node() or node(server) in Node.list(:connected)
  end

  defp connected?(_name), do: true

  # A dead process of a connected node has left already, or its node says so just now.
  defp pass_over(_pool, :dead), do: :ok

  # A node can have many members, and all of them would have to be passed over.
  defp pass_over(pool, {:node, node}) do
    with {:ok, handle} <- Handle.fetch(pool), do: Feed.unreachable(handle, node)
  end

  @doc """
  Picks a member and sends it a request with `GenServer.cast/2`: nobody hears what becomes of it, and it is
  not counted as a call.

  ## Options

  #{GrpcLb.Options.docs(@cast_options)}

    * `:ok` - it was sent; the member can have died since it was picked
    * `{:error, :no_backends}`, `{:error, :not_running}`, see `pick/1`

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :cast_doc)
      iex> GrpcLb.Pool.cast(:cast_doc, {:update, fn n -> n + 1 end})
      {:error, :no_backends}
      iex> {:ok, agent} = Agent.start_link(fn -> 7 end)
      iex> GrpcLb.Pool.join(:cast_doc, agent)
      iex> GrpcLb.Pool.cast(:cast_doc, {:cast, fn n -> n + 1 end})
      :ok
      iex> Agent.get(agent, & &1)
      8
  """
  @spec cast(name(), request :: term(), key: term()) ::
          :ok | {:error, :no_backends | :not_running}
  def cast(pool, request, opts \\ []) do
    %{key: key} = GrpcLb.Options.validate!(opts, @cast_prepared, "cast/3")

    with {:ok, server} <- in_balancer(pool, &pick_by(&1, key)),
         do: GenServer.cast(Request.server!(server), request)
  end

  defp pick_by(balancer, nil), do: Native.pick(balancer)
  defp pick_by(balancer, key), do: GrpcLb.pick(balancer, key)

  @doc """
  Checks out a member and sends it a request, as `:gen_server.send_request/2` does: the answer is waited for
  with `receive_response/2`, or is found among the messages of a process with `check_response/2`. The call
  counts as in flight until then, or until the request is garbage.

  ## Options

  #{GrpcLb.Options.docs(@cast_options)}

    * `{:ok, request}` - see `GrpcLb.Pool.Request`
    * `{:error, :no_backends}`, `{:error, :overloaded}`, `{:error, :not_running}`, see `checkout/1`

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :send_request_doc)
      iex> {:ok, agent} = Agent.start_link(fn -> 7 end)
      iex> GrpcLb.Pool.join(:send_request_doc, agent)
      iex> {:ok, request} = GrpcLb.Pool.send_request(:send_request_doc, {:get, fn n -> n end})
      iex> GrpcLb.Pool.receive_response(request)
      {:ok, 7}
  """
  @spec send_request(name(), request :: term(), key: term()) ::
          {:ok, Request.t()} | {:error, :no_backends | :not_running | :overloaded}
  def send_request(pool, request, opts \\ []) do
    %{key: key} = GrpcLb.Options.validate!(opts, @cast_prepared, "send_request/3")

    with {:ok, server, ticket} <- in_balancer(pool, &GrpcLb.checkout(&1, key)),
         do: {:ok, Request.send(server, request, ticket)}
  end

  @doc """
  Waits for the answer to a request of the calling process, and completes the call.

    * `{:ok, reply}`, `{:error, reason}` - as `call/3`
    * `{:error, {:exit, :timeout}}` - none came in so many milliseconds; it is thrown away when it comes
    * `{:error, {:exit, reason}}` - the member died, or was dead

  Raises `ArgumentError` when an argument is malformed.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :receive_response_doc)
      iex> GrpcLb.Pool.join(:receive_response_doc)
      iex> {:ok, request} = GrpcLb.Pool.send_request(:receive_response_doc, :to_myself)
      iex> GrpcLb.Pool.receive_response(request, 10)
      {:error, {:exit, :timeout}}
  """
  @spec receive_response(Request.t(), timeout()) ::
          {:ok, reply :: term()} | {:error, {:exit, reason :: term()} | (reason :: term())}
  def receive_response(request, timeout \\ 5_000) do
    Request.wait(Request.check!(request), timeout!(timeout))
  end

  @doc """
  Whether a message is the answer to a request of the calling process: `:no_reply`, or what
  `receive_response/2` returns, and the call is completed then. Raises `ArgumentError` when `request` is none.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :check_response_doc)
      iex> {:ok, agent} = Agent.start_link(fn -> 7 end)
      iex> GrpcLb.Pool.join(:check_response_doc, agent)
      iex> {:ok, request} = GrpcLb.Pool.send_request(:check_response_doc, {:get, fn n -> n end})
      iex> GrpcLb.Pool.check_response(:something_else, request)
      :no_reply
      iex> receive do: (message -> GrpcLb.Pool.check_response(message, request))
      {:ok, 7}
  """
  @spec check_response(message :: term(), Request.t()) ::
          :no_reply
          | {:ok, reply :: term()}
          | {:error, {:exit, reason :: term()} | (reason :: term())}
  def check_response(message, request), do: Request.check(message, Request.check!(request))

  @doc """
  Sends a message to every member's process, whatever its value is. Returns `:ok`, also when there
  is none, or `{:error, :not_running}`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :broadcast_doc)
      iex> GrpcLb.Pool.join(:broadcast_doc)
      iex> GrpcLb.Pool.broadcast(:broadcast_doc, :reload)
      :ok
      iex> receive do: (message -> message)
      :reload
  """
  @spec broadcast(name(), message :: term()) :: :ok | {:error, :not_running}
  def broadcast(pool, message) do
    with {:ok, members} <- listed(pool) do
      # No connection is made: a node that is not connected has no members.
      Enum.each(members, &Process.send(&1.pid, message, [:noconnect]))
    end
  end

  @doc """
  Lists the members, for people and tests: it copies all of them.

  Returns `{:ok, members}` or `{:error, :not_running}`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :members_doc)
      iex> GrpcLb.Pool.join(:members_doc, value: "10.0.0.1")
      iex> GrpcLb.Pool.members(:members_doc)
      {:ok, [%{pid: self(), value: "10.0.0.1", weight: 1}]}
  """
  @spec members(name()) :: {:ok, [member()]} | {:error, :not_running}
  def members(pool) do
    with {:ok, members} <- listed(pool) do
      {:ok, Enum.map(members, &Map.take(&1, [:pid, :value, :weight]))}
    end
  end

  @doc """
  Describes the pool as it is now, for people and tests. Raises `ArgumentError` when there is none of this
  name.

  `:name`, `:policy` and `:scope` are as they were given, `:size` is how many workers it has, and
  `:local_share` is 1 with `prefer: :local`. `:layers` and what is said of a member are described at
  `GrpcLb.info/1`.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :info_doc)
      iex> GrpcLb.Pool.join(:info_doc, value: 1)
      iex> GrpcLb.Pool.pick(:info_doc)
      iex> GrpcLb.Pool.info(:info_doc)
      %{
        name: :info_doc,
        policy: :round_robin,
        scope: :node,
        local_share: nil,
        size: 0,
        layers: [
          %{priority: 0, locality: nil, share: 1.0, backends: 1, healthy: 1, panics: false}
        ],
        members: [
          %{
            pid: self(),
            value: 1,
            state: :ready,
            priority: 0,
            locality: nil,
            weight: 1,
            current_weight: 1.0,
            table_share: nil,
            in_flight: 0,
            oldest_in_flight: nil,
            latency_ns: nil,
            picks: 1,
            successes: 0,
            failures: 0,
            ejected_until: nil,
            ejected_by: nil,
            times_ejected: 0
          }
        ]
      }
  """
  @spec info(name()) :: info()
  def info(pool) do
    with {:ok, %Handle{options: options} = handle} <- Handle.fetch(pool),
         {:ok, info} <- Membership.info(handle) do
      options
      |> Map.take([:name, :policy, :scope, :local_share, :size])
      |> Map.merge(Map.take(info, [:layers, :members]))
    else
      {:error, :not_running} -> raise ArgumentError, "there is no pool #{inspect(pool)}"
    end
  end

  @doc """
  Changes settings of a pool that is running, without losing anything that is known of its members.
  Options are those of `GrpcLb.configure/2`, and `reports: :out_of_band` is refused as when a pool
  starts.

    * `{:ok, :changed}`
    * `{:ok, :unchanged}` - they were these already
    * `{:error, :not_running}`

  A pool that is started again has the options of its child spec. `info/1` shows those, too. Raises
  `ArgumentError` when an option is wrong, and has changed nothing then.

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :configure_doc, max_requests: 0)
      iex> GrpcLb.Pool.join(:configure_doc, value: 1)
      iex> GrpcLb.Pool.checkout(:configure_doc)
      {:error, :overloaded}
      iex> GrpcLb.Pool.configure(:configure_doc, max_requests: 1)
      {:ok, :changed}
      iex> {:ok, 1, _ticket} = GrpcLb.Pool.checkout(:configure_doc)
  """
  @spec configure(name(), keyword()) :: {:ok, :changed | :unchanged} | {:error, :not_running}
  def configure(pool, opts) do
    with {:ok, handle} <- Handle.fetch(pool) do
      Options.changes!(opts)

      with {:error, :closed} <- GrpcLb.configure(handle.balancer, opts),
           do: {:error, :not_running}
    end
  end

  @doc """
  Waits until the pool has at least `n` members. `timeout` is in milliseconds, or `:infinity`.

  Members join by themselves, so a pool that has started need not have any yet. Nothing is polled:
  who joins tells the processes that wait.

    * `:ok` - it had `n` members a moment ago
    * `{:error, :timeout}`
    * `{:error, :not_running}` - there is no pool of this name, or it stopped meanwhile

      iex> {:ok, _supervisor} = GrpcLb.Pool.start_link(name: :await_doc)
      iex> GrpcLb.Pool.await_members(:await_doc, 1, 10)
      {:error, :timeout}
      iex> GrpcLb.Pool.join(:await_doc)
      iex> GrpcLb.Pool.await_members(:await_doc, 1, 10)
      :ok
  """
  @spec await_members(name(), non_neg_integer(), timeout()) ::
          :ok | {:error, :timeout | :not_running}
  def await_members(pool, n, timeout \\ 5_000) do
    GrpcLb.Options.argument!("n", {:integer, from: 0}, n)
    timeout = timeout!(timeout)

    with {:ok, handle} <- Handle.fetch(pool) do
      enough = fn -> if Membership.count(handle) >= n, do: :ok, else: :wait end
      Waiters.await(handle.waiters, n, timeout, enough)
    end
  end

  defp listed(pool) do
    with {:ok, handle} <- Handle.fetch(pool), do: Membership.list(handle)
  end

  defp local!(pid) when is_pid(pid) and node(pid) == node(), do: pid

  defp local!(other) do
    raise ArgumentError,
          "pid must be a pid of this node (a process joins on its own node), " <>
            "got: #{Text.show(other)}"
  end

  defp timeout!(timeout) do
    GrpcLb.Options.argument!("timeout", {:or, {:ms, 0}, :infinity}, timeout)
  end
end
