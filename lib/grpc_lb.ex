defmodule GrpcLb do
  # From here, and not from the current folder: `r GrpcLb` in IEx compiles this in the user's.
  @readme Path.expand("../README.md", __DIR__)
  @external_resource @readme
  @moduledoc @readme
             |> File.read!()
             |> String.split("<!-- MDOC !-->")
             |> Enum.fetch!(1)

  alias GrpcLb.{Backend, Call, Interned, Key, LoadReport, Native, Options, Policy, Settings, Top}
  alias GrpcLb.Look.{Description, Sample, Terminal}

  @typedoc """
  A balancer. A bare reference: keep it in a struct, in a process's state, in an ETS table. It
  lives as long as it is held somewhere, and means nothing on other nodes.
  """
  @type balancer :: Native.balancer()

  @typedoc """
  A view of a balancer, see `all/0`. A bare reference of this node that does not keep the balancer alive,
  and by which it can be looked at alone: with `info/1`, `describe/1`, `size/1` and `closed?/1`. Once the
  balancer has gone it looks like one that is closed.
  """
  @type view :: reference()

  @typedoc "A balancer that lives, see `all/0`."
  @type listed :: %{
          balancer: view(),
          number: pos_integer(),
          name: term(),
          policy: Policy.name(),
          owner: pid() | nil,
          size: non_neg_integer(),
          closed: boolean()
        }

  @typedoc """
  What a change of the list did: how many ids were listed anew, are listed no longer, and were and
  still are.
  """
  @type changes :: %{
          added: non_neg_integer(),
          removed: non_neg_integer(),
          kept: non_neg_integer()
        }

  @typedoc """
  A call in flight, made by `checkout/1` and ended by `complete/3`. A bare reference of this node,
  which any process may complete.
  """
  @type ticket :: Native.ticket()

  @typedoc "How a call went, see `complete/3`."
  @type outcome :: :ok | {:error, reason :: term()} | :cancelled

  @typedoc "What can be said of a backend with `set_state/3`, in gRPC's terms and Envoy's."
  @type state :: :ready | :connecting | :transient_failure | :draining

  @typedoc "A balancer as it is at one moment, see `info/1`."
  @type info :: %{
          name: term(),
          policy: Policy.name(),
          generation: pos_integer(),
          closed: boolean(),
          malformed_reports: non_neg_integer(),
          layers: [layer_info()],
          table: %{entries: non_neg_integer(), bytes: non_neg_integer()} | nil,
          backends: [backend_info()]
        }

  @typedoc "The backends of one locality of one priority, see `info/1`."
  @type layer_info :: %{
          priority: non_neg_integer(),
          locality: String.t() | nil,
          share: float(),
          backends: pos_integer(),
          healthy: non_neg_integer(),
          panics: boolean()
        }

  @typedoc "Which detection has ejected a backend, see `:outlier_detection` in `new/3`."
  @type ejection_rule ::
          :success_rate
          | :failure_percentage
          | :consecutive_failures
          | :consecutive_transport_failures

  @typedoc "A backend as it is at one moment, see `info/1`."
  @type backend_info :: %{
          id: term(),
          value: term(),
          state: state() | :ejected | :down,
          owner: pid() | nil,
          in_subset: boolean(),
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
          ejected_by: ejection_rule() | nil,
          times_ejected: non_neg_integer()
        }

  @complete_options [
    load_report: [
      type: :any,
      default: nil,
      doc: "what the backend said of its load, see `GrpcLb.LoadReport`; `nil` is nothing."
    ],
    latency: [
      type: {:or, {:or, {:integer, from: 0, to: 0xFFFFFFFFFFFFFFFF}, :none}, nil},
      default: nil,
      doc: """
      how long the backend took, in nanoseconds, where the caller knows better; `:none` where how long it
      took was up to the caller, and says nothing of the backend. By default the time from `checkout/1` to
      `first_response/1`, or else to now.
      """
    ]
  ]
  @complete_prepared Options.prepare(@complete_options)

  @doc """
  Makes a balancer.

  `policy` is one of those in `GrpcLb.Policy`, with or without options. `backends` is a list of
  any length, each in one of the forms of `GrpcLb.Backend`.

  ## Options

  #{Settings.docs()}

  What takes time, which is outlier detection, slow start and weights from load reports, is done as
  long as the application `:grpc_lb` runs. It does wherever it is a dependency; in a script or a
  release's `eval`, start it with `Application.ensure_all_started(:grpc_lb)`.

  Raises `ArgumentError` when an argument is malformed or two backends have the same id.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, ["10.0.0.1", "10.0.0.2"])
      iex> GrpcLb.pick(lb)
      {:ok, "10.0.0.1"}

      iex> {:ok, lb} = GrpcLb.new({:pick_first, shuffle: true}, [{:a, 1}, {:b, 2}], owner: self())
      iex> {:ok, value} = GrpcLb.pick(lb)
      iex> value in [1, 2]
      true

      iex> {:ok, _lb} =
      ...>   GrpcLb.new(:least_request, [:a, :b, :c],
      ...>     outlier_detection: [failure_percentage: [threshold: 20], consecutive_failures: 5],
      ...>     slow_start: [window: 30_000],
      ...>     panic_threshold: 50,
      ...>     max_requests_per_backend: 100
      ...>   )

      iex> GrpcLb.new({:round_robin, cursor: :mine}, [])
      ** (ArgumentError) option :cursor of :round_robin must be :shared or :per_scheduler, got: :mine

      iex> GrpcLb.new(:random, [], max_requests: -1)
      ** (ArgumentError) option :max_requests must be an integer from 0 to 4294967295, or nil, got: -1
  """
  @spec new(Policy.t(), [Backend.form()], keyword()) :: {:ok, balancer()}
  def new(policy, backends, opts \\ []) do
    policy = Policy.to_native(policy)
    settings = Settings.to_native(opts, policy)
    hashed? = Policy.sticky?(elem(policy, 0)) or settings.subset != nil
    backends = Backend.to_native(backends, hashed?: hashed?)

    case settings.values do
      :copied -> Native.new(policy, backends, settings)
      :interned -> Interned.new(backends, &Native.new(policy, &1, settings))
    end
  end

  @doc """
  Picks a backend and returns its value.

  Any number of processes may pick at the same time; none waits for another or for a reconcile.
  The cost does not depend on the number of backends.

  Nothing is known of the call that is made then. What looks at load, latency or failures needs
  calls that are made with `run/3` or `checkout/1`.

    * `{:ok, value}`
    * `{:error, :no_backends}` - the list is empty, or no backend in it is ready
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> for _ <- 1..3, do: GrpcLb.pick(lb)
      [{:ok, :a}, {:ok, :b}, {:ok, :a}]

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [])
      iex> GrpcLb.pick(lb)
      {:error, :no_backends}

      iex> GrpcLb.pick("oops")
      ** (ArgumentError) argument 1 is not a balancer: expected the reference that GrpcLb.new/3 returned on this node, got a binary; GrpcLb.Connection.handle!/1 finds a connection by name
  """
  @spec pick(balancer()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  defdelegate pick(balancer), to: Native

  @doc """
  Picks a backend for a key: with `:ring_hash` the same one each time, and with any other policy as
  `pick/1`, which takes no notice of the key.

  `GrpcLb.Policy.sticky?/1` says of a policy whether keys count. Where they do not, equal keys spread
  over all backends.

  A key is

    * a binary: its XXH64 is the hash that picks go by, as with gRPC and Envoy. 1 MiB at most.
    * an integer: it is the hash itself, modulo 2^64, for who has one already. A number such as a user's
      is none: small ones lie side by side, and all lead to one backend. Give `"7"`, or `{:user, 7}`.
    * `nil`: none. The call goes to any backend.
    * any other term: the XXH64 of its external form, `:erlang.term_to_binary(key, [:deterministic,
      minor_version: 2])`. Terms of atoms, numbers, binaries, tuples, lists and maps have the same on every
      node, as have pids, ports and references of any node. Functions have it only where the same
      build of their module is loaded. 1 and 1.0 are two keys, and so are a binary and a charlist.

  Returns and raises what `pick/1` does, and raises for a key that is too long.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> for _ <- 1..3, do: GrpcLb.pick(lb, "user 7")
      [{:ok, "10.0.0.2:50051"}, {:ok, "10.0.0.2:50051"}, {:ok, "10.0.0.2:50051"}]
      iex> GrpcLb.pick(lb, {:user, 7}) == GrpcLb.pick(lb, {:user, 7})
      true

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> for _ <- 1..3, do: GrpcLb.pick(lb, "user 7")
      [{:ok, :a}, {:ok, :b}, {:ok, :a}]
  """
  @spec pick(balancer(), key :: term()) ::
          {:ok, value :: term()} | {:error, :no_backends | :closed}
  # What most keys are, without a call more.
  def pick(balancer, key) when is_binary(key) and byte_size(key) < 1_000,
    do: Native.pick(balancer, key)

  def pick(balancer, key), do: Native.pick(balancer, Key.to_native(key))

  @doc """
  Picks a backend for a call, counts the call as in flight, and returns a ticket to end it with.

  It is `pick/1` for policies and options that look at calls: `:least_request`, `:peak_ewma`, outlier
  detection, limits, load reports. Every ticket is to be completed, with `complete/3`, by whatever
  process. Where the call is made in one function, `run/3` does both.

    * `{:ok, value, ticket}`
    * `{:error, :no_backends}` - the list is empty, or no backend in it is ready
    * `{:error, :overloaded}` - as many calls are in flight as `:max_requests` allows, or as
      `:max_requests_per_backend` does at every backend, or others wait in line, see `:checkout_wait`
    * `{:error, :closed}` - the balancer is closed

  A ticket whose holder dies, or that nobody holds any more, counts as cancelled when it is garbage
  collected: no call stays in flight for good. A process that has lost its ticket and is idle collects
  no garbage, and until it does, or dies, the call is in flight: it counts for `:max_requests`,
  `:max_requests_per_backend` and policies that look at calls in flight. `:oldest_in_flight` of
  `info/1` shows that; `:erlang.garbage_collect/1` ends it. A ticket that is kept in a place that lives on, such as
  an ETS table, is held. Tickets can be sent to other processes of the node.

  The latency of the call is measured from here to `complete/3`, or to `first_response/1`.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a], max_requests: 1)
      iex> {:ok, :a, ticket} = GrpcLb.checkout(lb)
      iex> GrpcLb.checkout(lb)
      {:error, :overloaded}
      iex> GrpcLb.complete(ticket, :ok)
      :ok
      iex> {:ok, :a, _ticket} = GrpcLb.checkout(lb)
  """
  @spec checkout(balancer()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  defdelegate checkout(balancer), to: Native

  @doc """
  Checks out a backend for a key: `checkout/1` with the choice of `pick/2`.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> {:ok, "10.0.0.2:50051", _ticket} = GrpcLb.checkout(lb, "user 7")
  """
  @spec checkout(balancer(), key :: term()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout(balancer, nil), do: Native.checkout(balancer)
  def checkout(balancer, key), do: Native.checkout(balancer, Key.to_native(key))

  @doc """
  Says that the first answer of a call came, where the call goes on after it: a stream, a long poll.

  The latency of the call is measured to here, at once, however long it goes on and however it is
  completed. Until then it is in flight. What is said after the first time changes nothing, nor does what is said after `complete/3`.

  Raises `ArgumentError` when `ticket` is not a ticket of this node.

      iex> {:ok, lb} = GrpcLb.new(:peak_ewma, [:a])
      iex> {:ok, :a, ticket} = GrpcLb.checkout(lb)
      iex> GrpcLb.first_response(ticket)
      :ok
      iex> GrpcLb.complete(ticket, :ok)
      :ok
  """
  @spec first_response(ticket()) :: :ok
  defdelegate first_response(ticket), to: Native

  @doc """
  Ends a call, and says how it went.

  `outcome` is one of

    * `:ok` - the backend did its work. An answer that the caller does not like, such as one that says
      that there is no such record, is also one.
    * `{:error, {:transport, reason}}` - the way to the backend failed: no connection, or one that was
      lost. Outlier detection counts that apart from other failures, too, see `new/3`.
    * `{:error, reason}` - the backend failed. Reasons are for readers of the code; but for the one
      above they are not looked at.
    * `:cancelled` - the caller gave up, or it is not known how the call went. Counts neither as a
      success nor as a failure. With `:peak_ewma`, that it lasted so long can raise the latency of its
      backend, and never lowers it.

  Returns

    * `:ok`
    * `{:error, :already_completed}` - this or another process has done that before; nothing was
      counted now

  The call is also ended as usual when its backend has left the list or the balancer is closed.

  Raises `ArgumentError` when an argument or the report is malformed; the call is still in flight then.

  ## Options

  #{Options.docs(@complete_options)}

  ## Examples

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> {:ok, :a, ticket} = GrpcLb.checkout(lb)
      iex> GrpcLb.complete(ticket, {:error, :timeout}, load_report: %{cpu_utilization: 0.7})
      :ok
      iex> GrpcLb.complete(ticket, :ok)
      {:error, :already_completed}
      iex> %{backends: [%{in_flight: 0, successes: 0, failures: 1}]} = GrpcLb.info(lb)

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> {:ok, :a, chat} = GrpcLb.checkout(lb)
      iex> GrpcLb.complete(chat, :ok, latency: :none)
      iex> %{backends: [%{successes: 1, latency_ns: nil}]} = GrpcLb.info(lb)
      iex> {:ok, :a, timed_elsewhere} = GrpcLb.checkout(lb)
      iex> GrpcLb.complete(timed_elsewhere, :ok, latency: 2_000_000)
      iex> %{backends: [%{successes: 2, latency_ns: 2_000_000}]} = GrpcLb.info(lb)

      iex> GrpcLb.complete(make_ref(), :done)
      ** (ArgumentError) outcome must be :ok, {:error, reason} or :cancelled, got: :done
  """
  @spec complete(ticket(), outcome(),
          load_report: LoadReport.t() | nil,
          latency: non_neg_integer() | :none | nil
        ) :: :ok | {:error, :already_completed}
  def complete(ticket, outcome, opts \\ [])

  def complete(ticket, outcome, []),
    do: Native.complete(ticket, Call.native_outcome!(outcome), nil, nil)

  def complete(ticket, outcome, opts) do
    outcome = Call.native_outcome!(outcome)
    options = Options.validate!(opts, @complete_prepared, "complete/3")
    report = options.load_report && LoadReport.to_native(options.load_report)
    Native.complete(ticket, outcome, report, options.latency)
  end

  @doc """
  Begins a call of a backend, calls `fun` with its value, and ends the call.

  It does what `checkout/1` and `complete/3` do, at less than half of their cost: the call stays in this
  process, and needs no ticket. `fun` may run other calls. With `:checkout_wait` it may wait for room first, see
  `new/3`.

  Returns what `fun` returned, or the error of `checkout/1`: `{:error, :no_backends}`,
  `{:error, :closed}` or `{:error, :overloaded}`, and `fun` was not called.

  When `fun` raises, exits or throws, the call has failed, and the exception goes on as it was. When
  the process is killed, the call counts as cancelled. When one of the functions in `opts` raises, or
  returns something malformed, the call counts as cancelled, and the exception goes on.

  ## Options

  #{Call.docs()}

  Raises `ArgumentError` when an argument is malformed, before a backend is checked out.

      iex> {:ok, lb} = GrpcLb.new(:least_request, a: 1)
      iex> GrpcLb.run(lb, fn value -> {:ok, value + 1} end)
      {:ok, 2}
      iex> GrpcLb.run(lb, fn _value -> {:error, :refused} end)
      {:error, :refused}
      iex> GrpcLb.run(lb, fn _value -> %{status: 503} end,
      ...>   outcome: fn
      ...>     %{status: status} when status >= 500 -> {:error, status}
      ...>     _response -> :ok
      ...>   end
      ...> )
      %{status: 503}
      iex> %{backends: [%{successes: 1, failures: 2}]} = GrpcLb.info(lb)
  """
  @spec run(balancer(), (value :: term() -> result), keyword()) ::
          result | {:error, :no_backends | :closed | :overloaded}
        when result: term()
  def run(balancer, fun, opts \\ [])
  def run(balancer, fun, []), do: Call.run(balancer, [], fun)
  def run(balancer, fun, opts), do: Call.run(balancer, opts, fun)

  @doc """
  Takes in a load report that did not come with a call, such as one from a stream of gRPC's
  `OpenRcaService`.

  It counts for `{:weighted_round_robin, weights: :reported}`, see `GrpcLb.Policy`, and is ignored
  elsewhere. `report` is described in `GrpcLb.LoadReport`.

    * `:ok` - also when the report was ignored
    * `{:error, :not_found}` - no backend with this id is listed
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when `balancer` is not a balancer of this node, or the report is malformed and
  not a binary.

      iex> policy = {:weighted_round_robin, weights: :reported, reports: :out_of_band}
      iex> {:ok, lb} = GrpcLb.new(policy, [:a, :b])
      iex> GrpcLb.report(lb, :a, %{rps_fractional: 120, cpu_utilization: 0.4})
      :ok
      iex> GrpcLb.report(lb, :c, %{rps_fractional: 120, cpu_utilization: 0.4})
      {:error, :not_found}
  """
  @spec report(balancer(), id :: term(), LoadReport.t()) :: :ok | {:error, :not_found | :closed}
  def report(balancer, id, report) do
    Native.report(balancer, id, LoadReport.to_native(report))
  end

  @doc """
  Says what the state of a backend is. Only ready ones are picked.

    * `:ready` - it can be picked. So is every backend that is new in the list.
    * `:connecting` - it cannot be picked yet
    * `:transient_failure` - it cannot be reached at the moment. It is picked in a panic only, see
      `:panic_threshold` in `new/3`.
    * `:draining` - it is to end: it gets no new calls, and those in flight end as usual, see
      `:in_flight` in `info/1`

  The state belongs to the id: a reconcile that keeps the id keeps it. A backend whose owner is dead
  stays `:down`, whatever is said of it. One that gets ready again starts slowly with `:slow_start`.

    * `:ok` - also when that was its state
    * `{:error, :not_found}` - no backend with this id is listed
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when an argument is malformed.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> GrpcLb.set_state(lb, :a, :draining)
      :ok
      iex> for _ <- 1..2, do: GrpcLb.pick(lb)
      [{:ok, :b}, {:ok, :b}]
      iex> GrpcLb.set_state(lb, :c, :ready)
      {:error, :not_found}
  """
  @spec set_state(balancer(), id :: term(), state()) ::
          :ok | {:error, :not_found | :closed}
  defdelegate set_state(balancer, id, state), to: Native

  @doc """
  Replaces the list of backends.

  Every pick that starts after this returns sees the new list, and every pick sees one list whole:
  the old or the new. An id that was listed before keeps what was counted for it; its value, owner
  and weight become the new ones. A backend that stays as it was costs no copy.

    * `{:ok, %{added: a, removed: r, kept: k}}` - numbers of ids
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when an argument is malformed or two backends have the same id, and has
  changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> GrpcLb.reconcile(lb, [:b, :c, :d])
      {:ok, %{added: 2, removed: 1, kept: 1}}

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.reconcile(lb, [:b, {:b, :other}])
      ** (ArgumentError) backends 0 and 1 have the same id
  """
  @spec reconcile(balancer(), [Backend.form()]) :: {:ok, changes()} | {:error, :closed}
  def reconcile(balancer, backends) do
    summary = Native.summary(balancer)
    Interned.reconcile(balancer, Backend.to_native(backends, hashed?: summary.hashed), summary)
  end

  @doc """
  Adds backends at the end of the list, and leaves the others as they are.

  An id that is listed already stays where it is and becomes what is given here, as in
  `reconcile/2`. The cost is about that of the backends that are added, also in a long list; but
  `:pick_first` looks the list through.

    * `{:ok, %{added: a, removed: r, kept: k}}` - numbers of ids; `r` is 0 unless an id that was
      listed came with a dead owner and `on_owner_death: :remove`
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` as `reconcile/2` does, and has changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.add(lb, [:b, {:c, 3}])
      {:ok, %{added: 2, removed: 0, kept: 1}}
      iex> GrpcLb.add(lb, [{:c, 4}])
      {:ok, %{added: 0, removed: 0, kept: 3}}
      iex> for _ <- 1..3, do: GrpcLb.pick(lb)
      [{:ok, :a}, {:ok, :b}, {:ok, 4}]
  """
  @spec add(balancer(), [Backend.form()]) :: {:ok, changes()} | {:error, :closed}
  def add(balancer, backends) do
    Interned.change(balancer, to_native(balancer, backends), &Native.add(balancer, &1))
  end

  defp to_native(balancer, backends) do
    Backend.to_native(backends, hashed?: Native.summary(balancer).hashed)
  end

  @doc """
  Removes the backends with these ids, and leaves the others as they are.

  Ids that are not listed are passed over. The cost is about that of the backends that are removed,
  also in a long list; but `:pick_first` looks the list through. In exchange `:round_robin` goes on
  in an order that differs from the list's: the last of the rotation takes the place of the one
  that was removed, until the next `reconcile/2`. The same holds for a backend whose owner dies.

    * `{:ok, %{added: 0, removed: r, kept: k}}` - numbers of ids; `k` are listed after it
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when an argument is malformed.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
      iex> GrpcLb.remove(lb, [:a, :not_there])
      {:ok, %{added: 0, removed: 1, kept: 2}}
  """
  @spec remove(balancer(), [id :: term()]) :: {:ok, changes()} | {:error, :closed}
  defdelegate remove(balancer, ids), to: Native

  @doc """
  Lists all balancers of this node that live, in the order in which they were made: a map for each, with

    * `:balancer` - a view of it: a reference to look at it by, with `info/1`, `describe/1`, `size/1` and
      `closed?/1`. It does not keep the balancer alive, and is not the reference that `new/3` returned, which is what
      calls and changes need
    * `:number` - tells it from every other, also from those that have gone. After a hot upgrade to
      another build of the native library balancers of the two may have the same
    * `:name` - what `new/3` was given as such, `nil` if nothing
    * `:policy` - the policy's name
    * `:owner` - the pid that was given as `:owner`; of a connection or a pool the process that holds it
    * `:size`, `:closed` - see `size/1` and `closed?/1`. One that is closed lives until nothing refers to
      it any more

  It takes no balancer's lock, and looks at none of their backends.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b], name: "payments", owner: self())
      iex> [mine] = for listed <- GrpcLb.all(), listed.owner == self(), do: listed
      iex> {mine.name, mine.policy, mine.size, mine.closed}
      {"payments", :round_robin, 2, false}
      iex> GrpcLb.info(mine.balancer) == GrpcLb.info(lb)
      true
  """
  @spec all() :: [listed()]
  def all, do: Native.all() |> Enum.reverse() |> Enum.concat()

  @doc """
  Describes the balancer and its backends as they are now.

    * `:name` - what `new/3` was given as such, `nil` if nothing
    * `:policy` - the policy's name
    * `:generation` - how often the list that picks see was replaced; 1 after `new/3`
    * `:closed` - whether it was closed
    * `:malformed_reports` - how many load reports could not be decoded
    * `:layers` - a map for each locality of each priority that has a backend, by priority, with
      * `:priority`, `:locality`
      * `:share` - which part of the picks it has, 0.0 to 1.0. Where all are full or dead that serve,
        others have picks, too
      * `:backends`, `:healthy` - how many are listed; and how many of them are ready, and not ejected
      * `:panics` - whether so few are healthy that those are picked that are not, see `:panic_threshold`
    * `:table` - of a policy that hashes the `:entries` of its table, and the `:bytes` that it takes; `nil`
      with any other
    * `:backends` - a map for each backend, in the order of the list, with
      * `:id`, `:value` - as they were given
      * `:state` - what `set_state/3` said last, `:ready` if nothing. Or `:ejected`, of one that is ready
        but was ejected, see `:outlier_detection` in `new/3`. Or `:down` when its owner is dead: it stays
        listed, and is not picked, until it is removed or comes with an owner that lives
      * `:owner` - the pid whose death takes it out of the rotation; `nil` if there is none, and
        once it is dead
      * `:in_subset` - whether it is used: `false` of those that a `:subset` leaves out
      * `:priority`, `:locality` - as they were given
      * `:weight` - the integer that was given
      * `:current_weight` - the float that picks go by: the given weight or the one made from load
        reports, and less in a slow start. `nil` while reports are awaited; 0.0 for the weight 0.
      * `:table_share` - with a policy that hashes the part of its layer's keys that its entries in the
        table have, 0.0 to 1.0; 0.0 of one that cannot be picked, whose keys go to others. `nil` with any
        other policy
      * `:in_flight` - calls that were checked out and have not ended
      * `:oldest_in_flight` - for how many milliseconds the oldest of those has been in flight, `nil` if
        there is none. Exact to some 10 milliseconds, but that it may be longer by as much as calls took
        that began before it. A ticket that was lost shows here, see `checkout/1`
      * `:latency_ns` - how long calls to it take, in nanoseconds: a mean in which the past fades.
        Cancelled calls do not count in it, nor do failed ones. Where more than some hundred calls a second
        go to a backend, one is timed in 1 to 10 milliseconds. With `:peak_ewma`, which compares it, all
        are; failed calls count with `penalty`, cancelled ones and those that wait can raise it, and
        what is bad is believed step by step, see `GrpcLb.Policy`. `nil` before the first answer.
      * `:picks` - how often it was picked since its id was first listed. Picks without a ticket
        count with `:round_robin`, whose cursor knows them without a write at the pick. Elsewhere
        only checkouts count.
      * `:successes`, `:failures` - calls that were completed so; cancelled ones are neither
      * `:ejected_until` - in how many milliseconds it has been left out for long enough: it is let in
        again at the first sweep after that, or at once where the transport had failed. 0 while it waits
        for that sweep; the later of the two where it is ejected for both. `nil` when it is not ejected.
      * `:ejected_by` - which detection has ejected it, by the name of its option; one that goes by how calls
        end, where it is ejected for both. `nil` when it is not ejected
      * `:times_ejected` - how often it was ejected, for whatever it was

  It takes the writer's lock and copies every backend: for people and tests, not for every call.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [a: 1])
      iex> GrpcLb.pick(lb)
      iex> GrpcLb.info(lb)
      %{
        name: nil,
        policy: :round_robin,
        generation: 1,
        closed: false,
        malformed_reports: 0,
        layers: [
          %{priority: 0, locality: nil, share: 1.0, backends: 1, healthy: 1, panics: false}
        ],
        table: nil,
        backends: [
          %{
            id: :a,
            value: 1,
            state: :ready,
            owner: nil,
            in_subset: true,
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
  @spec info(balancer() | view()) :: info()
  defdelegate info(balancer), to: Native

  @doc """
  Prints a balancer and its backends for a person to read: a block of text, as wide as the terminal.

  It is `info/1` in words. `share` is the part that a backend had of the picks that were counted, or, after
  `~`, what weights say where none was, or the table of a policy that hashes. `busy` are calls in flight. Of one that is ejected it says for how long
  still, and why: for failures in a `row`, because calls do not reach it (`net`), for its `rate` of failures, or
  for one that is worse than that of its `peers`.

  Of more than #{Sample.most()} backends so many are shown, those first that are not well; counts of all are above.

  Returns `:ok`. IEx's `i` says of a balancer that it is a reference, which no library can change.

  Raises `ArgumentError` when `balancer` is neither a balancer of this node nor a view of one.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, ["10.0.0.1:50051"])
      iex> ExUnit.CaptureIO.capture_io(fn -> GrpcLb.describe(lb) end) =~ "10.0.0.1:50051"
      true
  """
  @spec describe(balancer() | view()) :: :ok
  def describe(balancer) do
    balancer
    |> Sample.of()
    |> Description.block(Terminal.columns(), Terminal.there?())
    |> Terminal.write()
  end

  @doc """
  Shows a balancer as a table that lives, in IEx, in a remote console of a release, or as
  `mix grpc_lb.top`: a row a backend, once a second. 80 columns are enough.

  `what` is a balancer, a view of one, or options. Without a balancer those of the node are listed, to
  pick one by its number; where there is one alone, it is shown.

  | column | what is in it |
  | --- | --- |
  | `backend` | its id |
  | `state` | why it is not picked, and the time that is left of an ejection and its reason, as in `describe/1` |
  | `weight` | as it was given, and as it is now |
  | `share` | its part of the picks that were counted since the last look; after `~` what weights say where there were none, or the table of a policy that hashes |
  | `picks/s` | picks, or checkouts, see `:picks` in `info/1` |
  | `busy` | calls in flight |
  | `latency` | `:latency_ns` in `info/1` |
  | `fails` | calls that failed, ever; red if some did since the last look |

  | key | what it does |
  | --- | --- |
  | `q` | quits |
  | `p` | stands still, and goes on |
  | `s` | sorts by the next column |
  | `b` | lists balancers: the number of one and Enter shows it |
  | `j`, `k`, arrows | scroll |

  In a shell keys need Enter after them, since the shell has the keyboard. Where there is no terminal the
  table is printed once, as plain text.

  Of more than #{Sample.most()} backends so many are shown, as by `describe/1`.

  It reads `info/1` alone, once a look. Returns `:ok`, or `{:error, why}` with a text where the first look at
  another node fails: it is not there, or has no `:grpc_lb`. Raises `ArgumentError` when `what` is neither.

  ## Options

  #{Top.docs()}

      iex> {:ok, lb} = GrpcLb.new(:round_robin, ["10.0.0.1:50051"])
      iex> ExUnit.CaptureIO.capture_io(fn -> GrpcLb.top(lb) end) =~ "10.0.0.1:50051"
      true
  """
  @spec top(balancer() | view() | keyword()) :: :ok | {:error, why :: String.t()}
  def top(what \\ []), do: Top.run(what)

  @doc """
  Changes settings of a balancer that is in use, without losing anything that is known of its
  backends: counts, calls in flight, latencies, weights, ejections.

  `opts` are those of `new/3` that can change. What is not given stays as it is; `nil` switches off
  what can be off.

    * `:policy` - the balancer's policy, alone or with options, see `GrpcLb.Policy`. All its options
      are replaced: those that are not given get their defaults. It cannot become another policy.
    * `:outlier_detection` - `nil` lets all ejected backends back in. A new one judges backends by
      calls that end from now on.
    * `:slow_start`
    * `:panic_threshold` - 0 is off
    * `:overprovisioning_factor`, `:locality_weights` - `%{}` has all weigh 1
    * `:max_requests`, `:max_requests_per_backend` - for calls that begin after this returns; those
      in flight go on. `:max_requests` counts the calls that began under such a limit.
    * `:checkout_wait` - for those who begin to wait after this returns
    * `:remember` - for backends that are removed after this returns

  Every pick that starts after this returns goes by the new settings.

    * `{:ok, :changed}`
    * `{:ok, :unchanged}` - they were these already
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` as `new/3` does, and has changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a, :b], max_requests: 1_000)
      iex> GrpcLb.configure(lb, policy: {:least_request, choices: 3}, slow_start: [window: 10_000])
      {:ok, :changed}
      iex> GrpcLb.configure(lb, max_requests: nil)
      {:ok, :changed}
      iex> GrpcLb.configure(lb, max_requests: nil)
      {:ok, :unchanged}

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.configure(lb, slow_start: [window: 10_000])
      ** (ArgumentError) option :slow_start goes with :weighted_round_robin or :least_request or :peak_ewma or :random only, got it with :round_robin
  """
  @spec configure(balancer(), keyword()) :: {:ok, :changed | :unchanged} | {:error, :closed}
  def configure(balancer, opts) do
    %{policy: policy} = Native.summary(balancer)
    Native.configure(balancer, Settings.changes_to_native(opts, policy))
  end

  @doc """
  Counts the backends that are listed, whatever their state. A closed balancer lists none.

  Takes no lock and does not look at the backends: it can be asked at every call. The count is that
  after the last change that has returned, or after a later one. A backend whose owner has just died
  counts until it is removed, with `on_owner_death: :remove`; with `:keep` it stays listed.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> GrpcLb.size(lb)
      2
      iex> GrpcLb.set_state(lb, :a, :draining)
      iex> GrpcLb.size(lb)
      2
      iex> GrpcLb.close(lb)
      iex> GrpcLb.size(lb)
      0
  """
  @spec size(balancer() | view()) :: non_neg_integer()
  def size(balancer), do: Native.summary(balancer).size

  @doc """
  Whether the balancer is closed: by `close/1`, or because its owner died.

  A balancer without backends is not closed: its picks say `{:error, :no_backends}`, and it takes
  new ones. Takes no lock.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [])
      iex> {GrpcLb.closed?(lb), GrpcLb.size(lb)}
      {false, 0}
      iex> GrpcLb.close(lb)
      iex> {GrpcLb.closed?(lb), GrpcLb.size(lb)}
      {true, 0}
  """
  @spec closed?(balancer() | view()) :: boolean()
  def closed?(balancer), do: Native.summary(balancer).closed

  @doc """
  Closes the balancer for good and lets go of its backends.

  Every pick that starts after this returns says `{:error, :closed}`. Closing again changes
  nothing. A balancer that nobody holds any more need not be closed.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.close(lb)
      :ok
      iex> GrpcLb.pick(lb)
      {:error, :closed}
      iex> GrpcLb.reconcile(lb, [:b])
      {:error, :closed}
  """
  @spec close(balancer()) :: :ok
  defdelegate close(balancer), to: Native
end
