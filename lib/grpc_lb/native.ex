defmodule GrpcLb.Native do
  @moduledoc """
  The NIFs, one stub a function, as the Rust library offers them.

  `GrpcLb` is the face of the package: it takes backends and policies in the forms that people
  write, validates them and calls this module. Call this module directly where the last
  nanoseconds count: `GrpcLb.Native.pick/1` has the same results as `GrpcLb.pick/1` and is one
  call less away.

  `pick/1`, `pick/2`, `checkout/1`, `checkout/2`, `checkout_except/2` and `/3`, `line_up/1`, `leave_line/1`, `first_response/1`,
  `complete/4`, `slots/0`, `begin_call/2` and `/3`, `begin_call_except/4`, `complete/5`, `summary/1`, `manual_clock/0` and `live_counts/0` run on the calling scheduler and never
  wait. So does what is brief of `reconcile/2`, which goes on on a dirty CPU scheduler otherwise, and `library/0`.
  All others that are documented run on a dirty CPU scheduler. Picks and checkouts go on on one where they do not
  find a backend among some hundreds that are dead or full.

  ## Loading, and loading again

  The library is looked for in the `priv` directory of `:grpc_lb`. When the module is loaded again
  or upgraded in a running node, balancers live on: the library that made a balancer goes on to
  serve it, also after another build was loaded. `live_counts/0` counts what the build that is
  loaded now has made. Deleting and purging the module ends its balancers: they are freed like any
  garbage, but no later load of the module knows them.

  A library stays in memory as long as the VM runs. One that is built anew under the same path is
  therefore loaded by the next VM, not by `recompile/0` or `r/1` in this one; under another path, as
  in a release upgrade, it is loaded at once.
  """

  # Elixir would load the module as soon as it has compiled it, which is before its library is
  # built.
  @compile {:autoload, false}
  @on_load :load

  alias GrpcLb.{Library, LoadReport}

  @typedoc "A balancer: a reference to a NIF resource, valid on this node as long as it is held."
  @type balancer :: reference()

  @typedoc "A call in flight: a reference to a NIF resource, valid on this node."
  @type ticket :: reference()

  @typedoc "Room for the calls in flight of one process: a reference to a NIF resource, see `slots/0`."
  @type slots :: reference()

  @typedoc "A call in flight among the slots of a process."
  @type slot :: pos_integer()

  @typedoc "How a call went, see `GrpcLb.complete/3`."
  @type outcome :: :ok | :error | :transport_error | :cancelled

  @typedoc "A clock that tests move: a reference to a NIF resource, valid on this node."
  @type clock :: reference()

  @typedoc "A place in the line of those who wait for room: a reference to a NIF resource."
  @type waiter :: reference()

  @typedoc "What is left of a value that has gone, see `reconcile_draining/3`."
  @type drained :: pos_integer() | :drained | :uncounted

  @typedoc "A policy's name and all its options, see `GrpcLb.Policy`. Times are milliseconds."
  @type policy ::
          {:random, %{}}
          | {:pick_first, %{shuffle: boolean()}}
          | {:round_robin,
             %{cursor: cursor(), start: :first | :random, on_reconcile: :keep | :reset}}
          | {:weighted_round_robin, weights()}
          | {:least_request, %{choices: 2..10 | :all, bias: float()}}
          | {:peak_ewma,
             %{
               decay: pos_integer(),
               default_rtt: pos_integer(),
               penalty: non_neg_integer() | {:times, float()}
             }}
          | {:ring_hash,
             %{
               min_ring_size: pos_integer(),
               max_ring_size: pos_integer(),
               hash_balance_factor: pos_integer() | nil
             }}
          | {:maglev, %{table_size: pos_integer(), hash_balance_factor: pos_integer() | nil}}

  @typedoc "Whether a rotation is one for all callers, or one a scheduler."
  @type cursor :: :shared | :per_scheduler

  @typedoc """
  The key of a call: bytes, which are hashed, or the hash itself, an integer from -2^63 to 2^64 - 1; `nil`
  is none. `GrpcLb.pick/2` takes any term.
  """
  @type key :: binary() | integer() | nil

  @typedoc "The options of `:weighted_round_robin`; all but `:cursor` count for `:reported` only."
  @type weights :: %{
          required(:cursor) => cursor(),
          required(:weights) => :static | :reported,
          optional(:blackout_period) => non_neg_integer(),
          optional(:weight_expiration_period) => non_neg_integer(),
          optional(:weight_update_period) => pos_integer(),
          optional(:error_utilization_penalty) => float(),
          optional(:metric_names) => [String.t()],
          optional(:reports) => :per_call | :out_of_band
        }

  @typedoc """
  A backend, and what is given of its options, see `GrpcLb.Backend`.
  """
  @type backend ::
          {id :: term(), value :: term()}
          | {id :: term(), value :: term(),
             %{
               optional(:owner) => pid() | nil,
               optional(:weight) => non_neg_integer(),
               optional(:state) => GrpcLb.state() | nil,
               optional(:hash_key) => binary() | nil,
               optional(:priority) => non_neg_integer(),
               optional(:locality) => String.t() | nil,
               optional(:interned) => {page(), index :: non_neg_integer()}
             }}

  @typedoc false
  @type page :: reference()

  @typedoc false
  @type extent :: {position :: non_neg_integer(), value :: term(), words :: non_neg_integer()}

  @typedoc false
  @type retired ::
          {pages :: non_neg_integer(), words :: non_neg_integer(),
           [{number :: pos_integer(), words :: non_neg_integer()}]}

  @typedoc "What is given of the options of `GrpcLb.new/3`; the others have their defaults."
  @type settings :: %{
          optional(:owner) => pid() | nil,
          optional(:on_owner_death) => :keep | :remove,
          optional(:values) => :interned | :copied,
          optional(:subset) => %{size: pos_integer(), seed: non_neg_integer()} | nil,
          optional(:outlier_detection) => outlier_detection() | nil,
          optional(:slow_start) => slow_start() | nil,
          optional(:panic_threshold) => 0..100,
          optional(:overprovisioning_factor) => pos_integer() | nil,
          optional(:locality_weights) => %{(locality :: String.t()) => float()},
          optional(:max_requests) => non_neg_integer() | nil,
          optional(:max_requests_per_backend) => non_neg_integer() | nil,
          optional(:name) => term(),
          optional(:seed) => non_neg_integer() | nil,
          optional(:clock) => clock() | nil,
          optional(:checkout_wait) => non_neg_integer(),
          optional(:remember) => non_neg_integer()
        }

  @typedoc "What is given of the options of `GrpcLb.configure/2`; the others stay as they are."
  @type changes :: %{
          optional(:policy) => policy(),
          optional(:outlier_detection) => outlier_detection() | nil,
          optional(:slow_start) => slow_start() | nil,
          optional(:panic_threshold) => 0..100,
          optional(:overprovisioning_factor) => pos_integer() | nil,
          optional(:locality_weights) => %{(locality :: String.t()) => float()},
          optional(:max_requests) => non_neg_integer() | nil,
          optional(:max_requests_per_backend) => non_neg_integer() | nil,
          optional(:checkout_wait) => non_neg_integer(),
          optional(:remember) => non_neg_integer()
        }

  @typedoc "Slow start."
  @type slow_start :: %{
          window: pos_integer(),
          aggression: float(),
          min_weight_percent: float()
        }

  @typedoc "Outlier detection; a detection that is `nil` is off."
  @type outlier_detection :: %{
          interval: pos_integer(),
          base_ejection_time: non_neg_integer(),
          max_ejection_time: non_neg_integer(),
          max_ejection_percent: 0..100,
          strict: boolean(),
          backoff_recovery: :time | :success,
          success_rate:
            %{
              stdev_factor: non_neg_integer(),
              enforcement_percentage: 0..100,
              minimum_hosts: non_neg_integer(),
              request_volume: non_neg_integer()
            }
            | nil,
          failure_percentage:
            %{
              threshold: 0..100,
              enforcement_percentage: 0..100,
              minimum_hosts: non_neg_integer(),
              request_volume: non_neg_integer()
            }
            | nil,
          consecutive_failures:
            %{failures: pos_integer(), minimum_hosts: non_neg_integer()} | nil,
          consecutive_transport_failures: pos_integer() | nil
        }

  @typedoc "What a balancer has decided: see `GrpcLb.Telemetry`. Durations are in nanoseconds."
  @type event ::
          {about :: %{balancer: balancer(), name: term(), number: pos_integer()}, event :: atom(),
           fields :: map()}

  @typedoc "A load report: encoded, or some of its fields, see `GrpcLb.LoadReport`."
  @type load_report :: binary() | GrpcLb.LoadReport.fields()

  @doc """
  Picks a backend and returns its value.

  Runs on the calling scheduler. Takes no lock, sends no message, and runs and frees nothing of ours:
  no list, no value, no destructor. The answer is on the heap of the caller; a value that is no single
  word is copied, like a message. While most of a long list are dead, and not taken out yet, it looks for
  one that lives on a dirty scheduler. A scheduler's first pick allocates some 2 KiB. Once in 128 picks
  crossbeam-epoch does its bookkeeping, which after a change may allocate or free some 2 KiB of its own.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> GrpcLb.Native.pick(lb)
      {:ok, :a}
      iex> GrpcLb.Native.pick(lb)
      {:ok, :b}
  """
  @spec pick(balancer()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(_balancer), do: not_loaded()

  @doc """
  As `pick/1`, for a call that has a key. See `GrpcLb.pick/2`.

  Raises `ArgumentError` also when the key is none.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> GrpcLb.Native.pick(lb, "user 7")
      {:ok, "10.0.0.2:50051"}
  """
  @spec pick(balancer(), key()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(_balancer, _key), do: not_loaded()

  @doc """
  Picks a backend for a call, and counts the call as in flight. See `GrpcLb.checkout/1`.

  Runs on the calling scheduler, without a lock. Raises `ArgumentError` when `balancer` is not a
  balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> {:ok, :a, ticket} = GrpcLb.Native.checkout(lb)
      iex> GrpcLb.Native.complete(ticket, :ok, nil)
      :ok
  """
  @spec checkout(balancer()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout(_balancer), do: not_loaded()

  @doc """
  As `checkout/1`, for a call that has a key. See `GrpcLb.checkout/2`.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> {:ok, "10.0.0.2:50051", ticket} = GrpcLb.Native.checkout(lb, "user 7")
      iex> GrpcLb.Native.complete(ticket, :ok, nil)
      :ok
  """
  @spec checkout(balancer(), key()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout(_balancer, _key), do: not_loaded()

  @doc """
  As `checkout/1`, of backends whose value is none of these.

  Runs on the calling scheduler. `{:error, :unfinished}` where none was found among some hundreds, or there are more
  than 128 values, or they take more than 4,096 words: `checkout_except_thoroughly/2` looks at all. Raises
  `ArgumentError` when `balancer` is not a balancer of this node, or `values` is no proper list.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> {:ok, :b, _ticket} = GrpcLb.Native.checkout_except(lb, [:a])
      iex> GrpcLb.Native.checkout_except(lb, [:a, :b], "user 7")
      {:error, :no_backends}
  """
  @spec checkout_except(balancer(), values :: [term()]) ::
          {:ok, value :: term(), ticket()}
          | {:error, :no_backends | :closed | :overloaded | :unfinished}
  def checkout_except(_balancer, _values), do: not_loaded()

  @doc """
  As `checkout_except/2`, for a call that has a key. See `GrpcLb.checkout/2`.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> {:ok, "10.0.0.1:50051", _ticket} =
      ...>   GrpcLb.Native.checkout_except(lb, ["10.0.0.2:50051"], "user 7")
  """
  @spec checkout_except(balancer(), values :: [term()], key()) ::
          {:ok, value :: term(), ticket()}
          | {:error, :no_backends | :closed | :overloaded | :unfinished}
  def checkout_except(_balancer, _values, _key), do: not_loaded()

  @doc """
  As `checkout_except/2`, and looks at every backend. Runs on a dirty CPU scheduler.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> {:ok, :b, _ticket} = GrpcLb.Native.checkout_except_thoroughly(lb, [:a])
  """
  @spec checkout_except_thoroughly(balancer(), values :: [term()]) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout_except_thoroughly(_balancer, _values), do: not_loaded()

  @doc """
  As `checkout_except_thoroughly/2`, for a call that has a key. Runs on a dirty CPU scheduler.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> {:ok, "10.0.0.2:50051", _ticket} =
      ...>   GrpcLb.Native.checkout_except_thoroughly(lb, [], "user 7")
  """
  @spec checkout_except_thoroughly(balancer(), values :: [term()], key()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout_except_thoroughly(_balancer, _values, _key), do: not_loaded()

  @doc """
  Takes a place, for the calling process, in the line of those who wait for room. See `:checkout_wait`
  of `GrpcLb.new/3`, which `GrpcLb.run/3` does all of this for.

  `{:ok, waiter, place, milliseconds}`, or `{:error, :overloaded}` where nobody may wait. Who has a
  place calls `checkout_in_turn/2` at once, and again for every message `{:grpc_lb_room, place}`, until
  it says something else than `{:error, :overloaded}` or the time is over and `leave_line/1` is called.
  The place is given up when the process dies, or when `waiter` is garbage.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a], max_requests: 1, checkout_wait: 100)
      iex> {:ok, :a, ticket} = GrpcLb.checkout(lb)
      iex> {:ok, waiter, place, 100} = GrpcLb.Native.line_up(lb)
      iex> GrpcLb.Native.checkout_in_turn(waiter, [])
      {:error, :overloaded}
      iex> GrpcLb.complete(ticket, :ok)
      iex> receive do: ({:grpc_lb_room, ^place} -> :room)
      :room
      iex> {:ok, :a, _ticket} = GrpcLb.Native.checkout_in_turn(waiter, [])
  """
  @spec line_up(balancer()) ::
          {:ok, waiter(), place :: pos_integer(), milliseconds :: pos_integer()}
          | {:error, :overloaded}
  def line_up(_balancer), do: not_loaded()

  @doc """
  As `checkout_except/2`, for who has a place in line: `{:error, :overloaded}` too while others are
  before it. Any other answer gives the place up. See `line_up/1`.
  """
  @spec checkout_in_turn(waiter(), values :: [term()]) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout_in_turn(_waiter, _values), do: not_loaded()

  @doc """
  As `checkout_in_turn/2`, for a call that has a key.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"], checkout_wait: 100)
      iex> {:ok, waiter, _place, 100} = GrpcLb.Native.line_up(lb)
      iex> {:ok, "10.0.0.2:50051", _ticket} = GrpcLb.Native.checkout_in_turn(waiter, [], "user 7")
  """
  @spec checkout_in_turn(waiter(), values :: [term()], key()) ::
          {:ok, value :: term(), ticket()} | {:error, :no_backends | :closed | :overloaded}
  def checkout_in_turn(_waiter, _values, _key), do: not_loaded()

  @doc """
  Gives a place in line up: no message comes for it after this. See `line_up/1`.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a], checkout_wait: 100)
      iex> {:ok, waiter, _place, 100} = GrpcLb.Native.line_up(lb)
      iex> GrpcLb.checkout(lb)
      {:error, :overloaded}
      iex> GrpcLb.Native.leave_line(waiter)
      :ok
      iex> {:ok, :a, _ticket} = GrpcLb.checkout(lb)
  """
  @spec leave_line(waiter()) :: :ok
  def leave_line(_waiter), do: not_loaded()

  @doc """
  Says that the first answer of a call came. See `GrpcLb.first_response/1`.

  Runs on the calling scheduler. Raises `ArgumentError` when `ticket` is not a ticket of this node.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> {:ok, :a, ticket} = GrpcLb.Native.checkout(lb)
      iex> GrpcLb.Native.first_response(ticket)
      :ok
  """
  @spec first_response(ticket()) :: :ok
  def first_response(_ticket), do: not_loaded()

  @doc """
  Ends a call. See `GrpcLb.complete/3`, whose `{:error, reason}` is `:error` here, and
  `{:error, {:transport, reason}}` is `:transport_error`.

  `latency` is in nanoseconds; `:none` is nothing, and `nil` what was measured.

  Runs on the calling scheduler. Raises `ArgumentError` when an argument is not of its type, and has
  not ended the call then.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> {:ok, :a, ticket} = GrpcLb.Native.checkout(lb)
      iex> GrpcLb.Native.complete(ticket, :error, nil)
      :ok
      iex> GrpcLb.Native.complete(ticket, :ok, nil, 2_000_000)
      {:error, :already_completed}
  """
  @spec complete(
          ticket(),
          outcome(),
          load_report() | nil,
          latency :: non_neg_integer() | :none | nil
        ) :: :ok | {:error, :already_completed}
  def complete(ticket, outcome, load_report, latency \\ nil) do
    end_call(ticket, outcome, LoadReport.bounded!(load_report), latency)
  end

  # Runs on the calling scheduler, so what it is given must be small before it looks: a binary that does
  # not begin at a byte is copied to be looked at.
  @doc false
  @spec end_call(
          ticket(),
          outcome(),
          load_report() | nil,
          latency :: non_neg_integer() | :none | nil
        ) :: :ok | {:error, :already_completed}
  def end_call(_ticket, _outcome, _load_report, _latency), do: not_loaded()

  @doc """
  Makes room for the calls in flight of the calling process: what `GrpcLb.run/3` uses in place of tickets.

  One is enough for a process, for any number of calls at once, of any balancers. No other process can
  begin or end calls in it. When it is garbage, as it is when the process is dead, the calls in it that
  have not ended are cancelled; a process that lives on has to end each of its calls.

  Runs on the calling scheduler.

      iex> is_reference(GrpcLb.Native.slots())
      true
  """
  @spec slots() :: slots()
  def slots, do: not_loaded()

  @doc """
  As `checkout/1`, for a call that the calling process ends itself with `complete/5`. The call has a slot,
  an integer that no other call in these `slots` has, in the place of a ticket.

    * `{:ok, value, slot}`
    * `{:ok, value, ticket}` - there is no slot for the call, which is to be ended with `complete/4`:
      another build of the library made the balancer, or the search for a backend had to go on on a dirty
      scheduler
    * `{:error, :other_build}` - another build made `slots`. Calls in them are ended as ever; new ones need
      new slots.
    * any other error of `checkout/1`

  Runs on the calling scheduler. Raises `ArgumentError` when an argument is not of its type, or `slots`
  are those of another process.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> slots = GrpcLb.Native.slots()
      iex> {:ok, :a, slot} = GrpcLb.Native.begin_call(lb, slots)
      iex> GrpcLb.Native.complete(slots, slot, :ok, nil, nil)
      :ok
      iex> GrpcLb.Native.complete(slots, slot, :ok, nil, nil)
      {:error, :already_completed}
  """
  @spec begin_call(balancer(), slots()) ::
          {:ok, value :: term(), slot() | ticket()}
          | {:error, :no_backends | :closed | :overloaded | :other_build}
  def begin_call(_balancer, _slots), do: not_loaded()

  @doc """
  As `begin_call/2`, for a call that has a key.

      iex> {:ok, lb} = GrpcLb.new(:ring_hash, ["10.0.0.1:50051", "10.0.0.2:50051"])
      iex> {:ok, "10.0.0.2:50051", _slot} = GrpcLb.Native.begin_call(lb, GrpcLb.Native.slots(), "user 7")
  """
  @spec begin_call(balancer(), slots(), key()) ::
          {:ok, value :: term(), slot() | ticket()}
          | {:error, :no_backends | :closed | :overloaded | :other_build}
  def begin_call(_balancer, _slots, _key), do: not_loaded()

  @doc """
  As `begin_call/3`, and never one of these values: `{:error, :unfinished}` where `checkout_except/2` says
  so. The key may be `nil`: none.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> {:ok, :b, _slot} =
      ...>   GrpcLb.Native.begin_call_except(lb, GrpcLb.Native.slots(), [:a], nil)
  """
  @spec begin_call_except(balancer(), slots(), values :: [term()], key()) ::
          {:ok, value :: term(), slot() | ticket()}
          | {:error, :no_backends | :closed | :overloaded | :unfinished | :other_build}
  def begin_call_except(_balancer, _slots, _values, _key), do: not_loaded()

  @doc """
  Ends a call that has a slot. As `complete/4`, by the process that has begun it.

  Runs on the calling scheduler. Raises `ArgumentError` when an argument is not of its type, or `slots`
  are those of another process, and has not ended the call then.

      iex> {:ok, lb} = GrpcLb.new(:least_request, [:a])
      iex> slots = GrpcLb.Native.slots()
      iex> {:ok, :a, slot} = GrpcLb.Native.begin_call(lb, slots)
      iex> GrpcLb.Native.complete(slots, slot, :ok, %{cpu_utilization: 0.5}, 2_000_000)
      :ok
      iex> %{backends: [%{successes: 1, latency_ns: 2_000_000}]} = GrpcLb.info(lb)
  """
  @spec complete(
          slots(),
          slot(),
          outcome(),
          load_report() | nil,
          latency :: non_neg_integer() | :none | nil
        ) :: :ok | {:error, :already_completed}
  def complete(slots, slot, outcome, load_report, latency) do
    end_call(slots, slot, outcome, LoadReport.bounded!(load_report), latency)
  end

  @doc false
  @spec end_call(
          slots(),
          slot(),
          outcome(),
          load_report() | nil,
          latency :: non_neg_integer() | :none | nil
        ) :: :ok | {:error, :already_completed}
  def end_call(_slots, _slot, _outcome, _load_report, _latency), do: not_loaded()

  @doc """
  Makes a balancer. See `GrpcLb.new/3`, which takes its arguments in more forms.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type, or two
  backends have the same id.

      iex> policy = {:least_request, %{choices: 2, bias: 1.0}}
      iex> {:ok, lb} = GrpcLb.Native.new(policy, [{:only, 1, %{}}], %{max_requests: 100})
      iex> GrpcLb.Native.pick(lb)
      {:ok, 1}
  """
  @spec new(policy(), [backend()], settings()) :: {:ok, balancer()}
  def new(_policy, _backends, _settings), do: not_loaded()

  @doc """
  Replaces the list of backends. See `GrpcLb.reconcile/2`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` as `new/3` does, and has changed nothing
  then.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.reconcile(lb, [{:b, 2, %{weight: 3}}])
      {:ok, %{added: 1, removed: 1, kept: 0}}
  """
  @spec reconcile(balancer(), [backend()]) :: {:ok, GrpcLb.changes()} | {:error, :closed}
  def reconcile(_balancer, _backends), do: not_loaded()

  @doc """
  As `reconcile/2`, where the values of the backends with the ids in `leaving` go: they are offered with
  other values, or are not offered. Says for each of `leaving`, in its order, what became of the calls
  that were checked out from it:

    * a number - some are in flight. When the last has ended the calling process gets the message
      `{:grpc_lb_drained, number}`
    * `:drained` - none is in flight
    * `:uncounted` - none is, and none was ever counted, of no backend
    * `nil` - it was not listed

  Calls that are checked out from then on are told from these, also where the id stays. A value waits for
  the calls of those that it has replaced, too, as long as these have not ended.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> {:ok, 1, ticket} = GrpcLb.checkout(lb)
      iex> {:ok, %{kept: 1}, [number]} =
      ...>   GrpcLb.Native.reconcile_draining(lb, [{:a, 2, %{}}], [:a])
      iex> GrpcLb.complete(ticket, :ok)
      iex> receive do
      ...>   {:grpc_lb_drained, ^number} -> :drained
      ...> end
      :drained
  """
  @spec reconcile_draining(balancer(), [backend()], [id :: term()]) ::
          {:ok, GrpcLb.changes(), [drained() | nil]} | {:error, :closed}
  def reconcile_draining(_balancer, _backends, _leaving), do: not_loaded()

  @doc """
  Adds backends to the list. See `GrpcLb.add/2`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` as `new/3` does, and has changed nothing
  then.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.add(lb, [{:b, 2, %{weight: 3}}])
      {:ok, %{added: 1, removed: 0, kept: 1}}
  """
  @spec add(balancer(), [backend()]) :: {:ok, GrpcLb.changes()} | {:error, :closed}
  def add(_balancer, _backends), do: not_loaded()

  @doc """
  Removes backends from the list. See `GrpcLb.remove/2`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.remove(lb, [:a])
      {:ok, %{added: 0, removed: 1, kept: 0}}
  """
  @spec remove(balancer(), [id :: term()]) :: {:ok, GrpcLb.changes()} | {:error, :closed}
  def remove(_balancer, _ids), do: not_loaded()

  @doc """
  Says what the state of a backend is. See `GrpcLb.set_state/3`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.set_state(lb, :a, :draining)
      :ok
  """
  @spec set_state(balancer(), id :: term(), GrpcLb.state()) ::
          :ok | {:error, :not_found | :closed}
  def set_state(_balancer, _id, _state), do: not_loaded()

  @doc """
  Takes a load report in that came by itself. See `GrpcLb.report/3`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.report(lb, :b, "")
      {:error, :not_found}
  """
  @spec report(balancer(), id :: term(), load_report()) :: :ok | {:error, :not_found | :closed}
  def report(_balancer, _id, _load_report), do: not_loaded()

  @doc """
  Changes settings of the balancer. See `GrpcLb.configure/2`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type, or the
  policy another one than the balancer's, and has changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.configure(lb, %{max_requests: 0})
      {:ok, :changed}
      iex> GrpcLb.Native.checkout(lb)
      {:error, :overloaded}
  """
  @spec configure(balancer(), changes()) :: {:ok, :changed | :unchanged} | {:error, :closed}
  def configure(_balancer, _changes), do: not_loaded()

  @doc """
  Lists the balancers that live, of each build of the library that was loaded, the last one first. See
  `GrpcLb.all/0`.

  Runs on a dirty CPU scheduler.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> [listed | _before] = GrpcLb.Native.all()
      iex> listed |> hd() |> Map.keys() |> Enum.sort()
      [:balancer, :closed, :name, :number, :owner, :policy, :size]
      iex> GrpcLb.close(lb)
      :ok
  """
  @spec all() :: [[GrpcLb.listed()]]
  def all, do: not_loaded()

  @doc """
  As `all/0`, of those alone that have this number.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `number` is no integer from 0.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> %{number: number} = GrpcLb.Native.summary(lb)
      iex> [[%{number: ^number, size: 1}] | _before] = GrpcLb.Native.find(number)
      iex> GrpcLb.close(lb)
  """
  @spec find(number :: pos_integer()) :: [[GrpcLb.listed()]]
  def find(_number), do: not_loaded()

  # Those of one build, and the one of them with a number. The build that is loaded asks all of them.
  @doc false
  @spec listed() :: [GrpcLb.listed()]
  def listed, do: not_loaded()

  @doc false
  @spec listed_as(number :: pos_integer()) :: [GrpcLb.listed()]
  def listed_as(_number), do: not_loaded()

  @doc """
  Says what is known of the balancer without a look at its backends: its number, its policy, how many
  backends are listed, whether it is closed, whether each backend needs a text that is hashed, and
  whether values are interned, see `:values` of `GrpcLb.new/3`. A closed one lists none.

  Runs on the calling scheduler, without a lock. Raises `ArgumentError` when `balancer` is neither a
  balancer of this node nor a view of one, see `GrpcLb.all/0`.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> %{policy: :random, size: 1, closed: false, hashed: false, interned: false} =
      ...>   GrpcLb.Native.summary(lb)
  """
  @spec summary(balancer() | GrpcLb.view()) :: %{
          number: pos_integer(),
          policy: GrpcLb.Policy.name(),
          size: non_neg_integer(),
          closed: boolean(),
          hashed: boolean(),
          interned: boolean()
        }
  def summary(_balancer), do: not_loaded()

  @doc """
  The subset of a list that random subsetting (gRFC A68) takes: the positions, from 0, of the `size`
  texts whose XXH64 with this seed is lowest, lowest first; all of them where there are not more.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type.

      iex> GrpcLb.Native.subset(["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"], 1, 0)
      [1]
  """
  @spec subset([binary()], size :: non_neg_integer(), seed :: non_neg_integer()) ::
          [non_neg_integer()]
  def subset(_texts, _size, _seed), do: not_loaded()

  @doc """
  Says how many calls to a backend have ended well, as `GrpcLb.info/1` says of all; but for those that were
  in flight when `reconcile_draining/3` had it drain, which were given the value that it had then. 0 for one
  that is not listed, and when the balancer is closed.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `balancer` is not a balancer of this
  node, and when `id` is larger than an id may be.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.run(lb, fn 1 -> :ok end)
      iex> {GrpcLb.Native.successes(lb, :a), GrpcLb.Native.successes(lb, :b)}
      {1, 0}
  """
  @spec successes(balancer(), id :: term()) :: non_neg_integer()
  def successes(_balancer, _id), do: not_loaded()

  @doc """
  Describes the balancer and its backends. See `GrpcLb.info/1`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `balancer` is neither a balancer of this
  node nor a view of one, see `GrpcLb.all/0`.

      iex> {:ok, lb} = GrpcLb.new(:random, [])
      iex> GrpcLb.Native.info(lb)
      %{name: nil, policy: :random, generation: 1, closed: false, malformed_reports: 0, layers: [], table: nil, backends: []}
  """
  @spec info(balancer() | GrpcLb.view()) :: GrpcLb.info()
  def info(_balancer), do: not_loaded()

  @doc """
  The name that the balancer was given, or `nil`. See `:name` of `GrpcLb.new/3`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `balancer` is not a balancer of this
  node.

      iex> {:ok, lb} = GrpcLb.new(:random, [], name: "payments")
      iex> GrpcLb.Native.name(lb)
      "payments"
  """
  @spec name(balancer() | GrpcLb.view()) :: term()
  def name(_balancer), do: not_loaded()

  @doc """
  Closes the balancer. See `GrpcLb.close/1`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `balancer` is not a balancer of this
  node.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.close(lb)
      :ok
  """
  @spec close(balancer()) :: :ok
  def close(_balancer), do: not_loaded()

  @doc """
  As `close/1`. Gives a number if calls that were checked out are in flight: when the last has ended the
  calling process gets the message `{:grpc_lb_drained, number}`.

      iex> {:ok, lb} = GrpcLb.new(:random, a: 1)
      iex> GrpcLb.Native.close_draining(lb)
      {:ok, nil}
  """
  @spec close_draining(balancer()) :: {:ok, pos_integer() | nil}
  def close_draining(_balancer), do: not_loaded()

  @doc """
  Does what is due in all balancers: updates weights, looks for outliers, lets ejected backends back
  in, and lets new ones grow their share.

  Returns in how many milliseconds there is something to do next, or `:infinity`. The process with
  the name `GrpcLb.Ticker` is sent `:tick_due` when something gets due earlier than that. The package
  starts that process: nobody else needs to call this, and who does may have it hear too late.

  Runs on a dirty CPU scheduler.
  """
  @spec tick() :: non_neg_integer() | :infinity
  def tick, do: not_loaded()

  @doc """
  Says whether what balancers decide is to be kept for `events/0`. The package's process `GrpcLb.Herald`
  says so when it starts, and nobody else needs to call this. Of balancers on manual clocks those know
  that are made from then on. A build that is loaded later knows it from the one before.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when `listens` is no boolean.
  """
  @spec listen(listens :: boolean()) :: :ok
  def listen(_listens), do: not_loaded()

  # For one build, and whether it is so.
  @doc false
  @spec listen_to_build(boolean()) :: :ok
  def listen_to_build(_listens), do: not_loaded()

  @doc false
  @spec listened_to() :: boolean()
  def listened_to, do: not_loaded()

  @doc """
  Takes some of what balancers have decided, those of each build the oldest first, and how many there were more
  than are kept. The process with the name `GrpcLb.Herald`, which the package starts, is sent `:events` when there
  are some. It emits them, see `GrpcLb.Telemetry`: who takes them in its place has nobody hear.

  Runs on a dirty CPU scheduler.
  """
  @spec events() :: {[event()], lost :: non_neg_integer()}
  def events, do: not_loaded()

  # Those of one build, and the message that there are some.
  @doc false
  @spec events_of_build() :: {[event()], lost :: non_neg_integer()}
  def events_of_build, do: not_loaded()

  @doc false
  @spec ring_of_build() :: :ok
  def ring_of_build, do: not_loaded()

  @doc """
  Makes a clock that stands still. See `GrpcLb.Clock.manual/0`.

  Runs on the calling scheduler.

      iex> is_reference(GrpcLb.Native.manual_clock())
      true
  """
  @spec manual_clock() :: clock()
  def manual_clock, do: not_loaded()

  @doc """
  Moves such a clock on by so many milliseconds. See `GrpcLb.Clock.advance/2`.

  Runs on a dirty CPU scheduler. Raises `ArgumentError` when an argument is not of its type.

      iex> GrpcLb.Native.advance(GrpcLb.Native.manual_clock(), 1_000)
      :ok
  """
  @spec advance(clock(), ms :: non_neg_integer()) :: :ok
  def advance(_clock, _ms), do: not_loaded()

  @doc """
  Counts what the native library holds on this node, so that a test can prove that nothing leaks.

    * `:balancers` - references that were made and not yet garbage collected
    * `:snapshots` - lists of backends: one a balancer, and those that were replaced and that a
      pick was reading when they should have been freed
    * `:values` - environments in which ids and values are kept, one a backend, and names of balancers; atoms, local pids
      and ports, small integers, `[]` and binaries of up to 63 bytes need none
    * `:slots` - values that are interned: those that a balancer lists, and those that wait to be
      erased, see `:values` of `GrpcLb.new/3`
    * `:tickets` - calls in flight: tickets and slots that are neither completed nor garbage collected

  Runs on the calling scheduler.

      iex> %{balancers: _, snapshots: _, values: _, slots: _, tickets: _} = GrpcLb.Native.live_counts()
  """
  @spec live_counts() :: %{
          balancers: non_neg_integer(),
          snapshots: non_neg_integer(),
          values: non_neg_integer(),
          slots: non_neg_integer(),
          tickets: non_neg_integer()
        }
  def live_counts, do: not_loaded()

  # Values that are not copied, see GrpcLb.Interned: those that are worth a page, and how many words each takes.
  @doc false
  @spec extents([backend()]) :: [extent()]
  def extents(_backends), do: not_loaded()

  # Of those that a change would list with another value. On the calling scheduler, where little is new.
  @doc false
  @spec extents_of_new(balancer(), [backend()]) :: [extent()]
  def extents_of_new(_balancer, _backends), do: not_loaded()

  # As reconcile/2, on the calling scheduler, if each backend is listed already as it is here.
  @doc false
  @spec reconcile_listed(balancer(), [backend()]) ::
          {:ok, GrpcLb.changes()} | {:error, :closed} | :unfinished
  def reconcile_listed(_balancer, _backends), do: not_loaded()

  # Puts a page of values into :persistent_term. It is retired once nobody holds the reference, or lists a
  # value of it, and has to be erased then.
  #
  # Does nothing where all pages would have more words than `most`.
  #
  # What the native side is told to be a literal must be one. So the NIFs that tell it are private: nobody
  # can give them another term, or have two pages under one key.
  @doc false
  @spec intern(balancer() | nil, [term()], words, most :: words) :: page() | :full
        when words: non_neg_integer()
  def intern(balancer, values, words, most) do
    number = System.unique_integer([:positive])

    # Reserved first: should this process be killed, the page is erased.
    with page when page != :full <- reserve(balancer, number, words, most) do
      key = {GrpcLb.Interned, number}
      :persistent_term.put(key, List.to_tuple(for value <- values, do: {:ok, value}))
      fill_page(page, :persistent_term.get(key))
      page
    end
  end

  defp reserve(nil, number, words, most), do: reserve_page(number, words, most)

  defp reserve(balancer, number, words, most),
    do: reserve_page_of(balancer, number, words, most)

  defp reserve_page(_number, _words, _most), do: not_loaded()
  defp reserve_page_of(_balancer, _number, _words, _most), do: not_loaded()
  defp fill_page(_page, _answers), do: not_loaded()

  # The reference holds its page no longer.
  @doc false
  @spec let_go_of_page(page()) :: :ok
  def let_go_of_page(_page), do: not_loaded()

  # How much was retired in each build of the library, and is not erased yet; and the first pages of it.
  @doc false
  @spec retired_pages(at_most :: non_neg_integer()) :: [retired()]
  def retired_pages(_at_most), do: not_loaded()

  # That of one build.
  @doc false
  @spec retired_pages_of_build(at_most :: non_neg_integer()) :: retired()
  def retired_pages_of_build(_at_most), do: not_loaded()

  # The words of all pages of this build that are not erased.
  @doc false
  @spec interned_words_of_build() :: non_neg_integer()
  def interned_words_of_build, do: not_loaded()

  # The page was erased.
  @doc false
  @spec forget_page(pos_integer()) :: [:ok]
  def forget_page(_number), do: not_loaded()

  # For one build.
  @doc false
  @spec forget_page_of_build(pos_integer()) :: :ok
  def forget_page_of_build(_number), do: not_loaded()

  @of_every_module [__info__: 1, module_info: 0, module_info: 1]

  # Those of the others bound what end_call/4 and /5 are given, and intern/4 alone calls the private ones.
  @doc false
  @spec stubs() :: [{atom(), arity()}]
  def stubs do
    # Not by __info__/1: newer versions of Elixir load the module to compile that.
    others = [complete: 3, complete: 4, complete: 5, intern: 4, stubs: 0]
    :erlang.get_module_info(__MODULE__, :exports) -- (@of_every_module ++ others)
  end

  @doc """
  The version of the native library, and the number of what it and this module call each other by. The
  application does not start where they are not its own.

  Runs on the calling scheduler.

      iex> {version, _abi} = GrpcLb.Native.library()
      iex> version == to_string(Application.spec(:grpc_lb, :vsn))
      true
  """
  @spec library() :: {version :: String.t(), abi :: pos_integer()}
  def library, do: not_loaded()

  defp load do
    Library.note(:erlang.load_nif(Library.path(), 0))
  end

  defp not_loaded, do: :erlang.nif_error(:nif_not_loaded)
end
