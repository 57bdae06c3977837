defmodule GrpcLb.Settings do
  # The options of GrpcLb.new/3, as data.
  @moduledoc false

  alias GrpcLb.{Backend, Name, Native, Options, Policy, Text}

  @percent {:integer, from: 0, to: 100}
  @count {:integer, from: 0, to: 0xFFFFFFFF}

  @gates [
    minimum_hosts: [
      type: @count,
      default: 5,
      doc: "ejects none while fewer backends than this have enough calls."
    ],
    request_volume: [
      type: @count,
      doc: "the calls that a backend needs in the interval to be judged."
    ]
  ]

  @enforcement_percentage [
    type: @percent,
    default: 100,
    doc: "the chance, in percent, that a backend which is to be ejected really is."
  ]

  @success_rate [
    stdev_factor: [
      type: @count,
      default: 1_900,
      doc: """
      how far below the mean of all is too far, in thousandths of the standard deviation.
      """
    ],
    enforcement_percentage: @enforcement_percentage,
    minimum_hosts: @gates[:minimum_hosts],
    request_volume: [{:default, 100} | @gates[:request_volume]]
  ]

  @failure_percentage [
    threshold: [
      type: @percent,
      default: 85,
      doc: """
      a backend is ejected when more than this share of its calls fail, in percent. 100 is when all of
      them do; with `strict: false` it is never, as gRFC A50 has it.
      """
    ],
    enforcement_percentage: @enforcement_percentage,
    minimum_hosts: @gates[:minimum_hosts],
    request_volume: [{:default, 50} | @gates[:request_volume]]
  ]

  @outlier_detection [
    interval: [
      type: {:ms, 1},
      default: 10_000,
      doc: "how often backends are judged, by the calls that ended since the last time."
    ],
    base_ejection_time: [
      type: {:ms, 0},
      default: 30_000,
      doc: "how long the first ejection lasts. Each that follows soon lasts this much longer."
    ],
    max_ejection_time: [
      type: {:or, {:ms, 0}, nil},
      default: nil,
      doc: "how long an ejection lasts at most. By default 300,000, or the base time if longer."
    ],
    max_ejection_percent: [
      type: @percent,
      default: 10,
      doc: """
      no more than this share of the backends are ejected, but one always may be. 0 ejects none. See
      `:strict` for who counts.
      """
    ],
    strict: [
      type: {:one_of, [true, false]},
      default: true,
      doc: """
      never makes it worse than it would be without. Only backends that are ready count and are ejected:
      not those that connect, drain, are in `:transient_failure` or have lost their owner. The last one
      that can be picked is never ejected. If that leaves or is not ready any more, picks take those that
      are ejected, until there is another. `false` is gRFC A50 to the letter: all backends count, the
      maximum is looked at before an ejection, so that one more than that can be ejected, and all of them
      can be.
      """
    ],
    backoff_recovery: [
      type: {:one_of, [:time, :success]},
      default: :time,
      doc: """
      an ejection that follows another is longer, and the longer the last one is ago the less so.
      `:time`: by each interval in which the backend is not ejected (gRFC A50). `:success`: by each of
      these in which a call to it succeeded, so that one that is not called does not come to be trusted.
      """
    ],
    success_rate: [
      type: {:or, {:options, @success_rate}, nil},
      default: nil,
      doc: """
      ejects backends that succeed much less often than the others do. Needs no idea of how many
      failures are normal, but many calls. `[]` for the defaults.
      """
    ],
    failure_percentage: [
      type: {:or, {:options, @failure_percentage}, nil},
      default: nil,
      doc: "ejects backends that fail too often. `[]` for the defaults."
    ],
    consecutive_failures: [
      type:
        {:or,
         {:reader, "an integer from 1 to 4294967295, or a keyword list",
          &__MODULE__.consecutive_failures/1}, nil},
      default: nil,
      doc: """
      ejects a backend after so many failures in a row, without waiting for the end of an interval. A
      success right after them does not undo it, as in Envoy. 5 is the same as
      `[failures: 5, minimum_hosts: 2]`, which ejects none while fewer backends than 2 count.
      """
    ],
    consecutive_transport_failures: [
      type: {:or, {:integer, from: 1, to: 0xFFFFFFFF}, nil},
      default: 1,
      doc: """
      ejects a backend after so many calls in a row that were completed with
      `{:error, {:transport, reason}}`, as Envoy's failures of local origin are counted apart. Such an
      ejection begins and ends without the other: it lasts 1 second, then 1.6 times as long each time up
      to 120 seconds, as gRPC's connection backoff, until a call succeeds. They are failures for all
      other detections, too. `nil` for none.
      """
    ]
  ]

  @consecutive_failures [
    failures: [type: {:integer, from: 1, to: 0xFFFFFFFF}, doc: "so many in a row eject."],
    minimum_hosts: [
      type: @count,
      default: 2,
      doc: "ejects none while fewer backends than this count."
    ]
  ]

  @detections [
    :success_rate,
    :failure_percentage,
    :consecutive_failures,
    :consecutive_transport_failures
  ]

  @slow_start [
    window: [
      type: {:ms, 1},
      doc: "how long a backend that is new, or ready again, takes to get its full share."
    ],
    aggression: [
      type: {:number, above: 0},
      default: 1.0,
      doc: "1.0 grows the share evenly over the window, more grows it faster at first."
    ],
    min_weight_percent: [
      type: {:number, from: 0, to: 100},
      default: 10.0,
      doc: "the share to begin with, in percent of the full one."
    ]
  ]

  @subset [
    size: [
      type: {:integer, from: 1, to: 0xFFFFFFFF},
      doc: "how many backends of each priority are used; all, where there are not more."
    ],
    seed: [
      type: {:or, {:integer, from: 0, to: 0xFFFFFFFFFFFFFFFF}, nil},
      default: nil,
      doc: """
      what the choice depends on, beside the backends: those who have the same seed choose the same ones.
      By default random, for each balancer, connection or pool another one.
      """
    ]
  ]

  # The policies that an option works with. pick_first has one backend for all calls: none to compare
  # it with (gRFC A50 leaves it out, too), and no share to grow or to spread.
  @policies [
    outlier_detection: Policy.names() -- [:pick_first],
    slow_start: [:weighted_round_robin, :least_request, :peak_ewma, :random],
    panic_threshold: Policy.names() -- [:pick_first]
  ]

  # In the order of the documentation.
  @options [
    owner: [
      type: {:or, :local_pid, nil},
      default: nil,
      doc: """
      a pid of this node. When it dies the balancer closes, see `close/1`. Without an owner a balancer
      lives as long as its reference is held. One that holds its own reference, in the value of a
      backend, lives until it is closed.
      """
    ],
    on_owner_death: [
      type: {:one_of, [:keep, :remove]},
      default: :keep,
      doc: """
      what happens to a backend whose own owner dies: `:keep` leaves it listed as `:down`; `:remove`
      takes it off the list, and does not list one that is given with a dead owner.
      """
    ],
    outlier_detection: [
      type: {:or, {:options, @outlier_detection}, nil},
      default: nil,
      doc: """
      takes backends whose calls fail out of the rotation for a while (gRFC A50), by the outcomes
      that `complete/3` and `run/3` see. By itself, with `[]`, those that cannot be reached; each of
      `:success_rate`, `:failure_percentage` and `:consecutive_failures` finds others. With all policies
      but `:pick_first`. By default off. For example `[failure_percentage: [threshold: 20]]`. Its options,
      with times in milliseconds:
      """
    ],
    slow_start: [
      type: {:or, {:options, @slow_start}, nil},
      default: nil,
      doc: """
      grows the share of a backend that is new, or ready again, from little to full, as Envoy does: for servers with caches to fill or code to warm up. With
      #{Enum.map_join(@policies[:slow_start], ", ", &"`#{inspect(&1)}`")}, which weigh. By default off.
      Its options:
      """
    ],
    panic_threshold: [
      type: @percent,
      default: 0,
      doc: """
      below this share of healthy backends, in percent, picks take those that are ejected or in
      `:transient_failure`, too, as Envoy does: the few healthy ones would be overrun, and that so many
      are bad may be a mistake. Those that are connecting or draining, or whose owner is dead, stay out
      and do not count. All are judged together, whatever their `:priority`; see
      `:overprovisioning_factor` for the other way. 0 is off. With all policies but `:pick_first`.
      """
    ],
    subset: [
      type: {:or, {:options, @subset}, nil},
      default: nil,
      doc: """
      uses some of the backends only, so that of a large fleet with many clients each server has few of them
      (gRFC A68, random subsetting): those whose text has the lowest XXH64 with the seed. The text is the
      one that a policy which hashes takes, see `:hash_key` of `GrpcLb.Backend`. Of a backend that comes or
      goes one other at most takes the place. Those that are left out are listed, and are as if they were
      not there: for the policy, outlier detection, panic and shares. A backend that is used stays so
      whatever its state or ejection. gRPC's clients agree about the hash, and not about what is hashed:
      C-core takes the address, as here, grpc-go its debug text, and Java hashes with murmur3. `configure/2`
      does not change it. By default all are used. Its options:
      """
    ],
    overprovisioning_factor: [
      type: {:or, {:integer, from: 1, to: 0xFFFFFFFF}, nil},
      default: nil,
      doc: """
      how the share of a `:priority` goes down that is partly unhealthy, in percent, as Envoy does, whose
      default is 140. A priority whose share of healthy backends times this is 100 percent or more has
      all picks; else those after it take over what is missing, in their order. With 140 half of the
      backends take 70 percent. Localities of one priority are left their share in the same way. While
      all priorities together have 100 percent none panics; else each with fewer healthy backends than
      `:panic_threshold` does so for itself, and when all do they have picks by how many backends each
      has. Draining backends and those that have never been ready do not count; one that has been, and is
      connecting or has lost its owner, counts as unhealthy, and is not picked in a panic. Shares are
      whole percents, by turns as those of localities and not at random as Envoy's. By default none, as in
      gRPC: the first priority with a backend to pick has all picks, and panic is judged over all.
      """
    ],
    locality_weights: [
      type:
        {:reader, "a map of localities to numbers from 0 to 4294967295",
         &__MODULE__.locality_weights/1},
      default: %{},
      doc: """
      how the localities of one priority share its picks, see `GrpcLb.Backend`: a map such as
      `%{"zone a" => 3, "zone b" => 1}`, in which `nil` is the backends without a locality. One that is
      not in it weighs 1, and one of weight 0 is picked while no other can be. Localities without a
      healthy backend are left out, as in gRPC and Envoy; in a panic all backends are alike, wherever
      they are, as in Envoy. By turns and not at random: all picks are numbered for that while several
      localities serve, so that callers on many schedulers wait for this one number and
      `cursor: :per_scheduler` gains nothing. With a policy that hashes the shares are those of keys, and
      each locality has a table of its own, where gRPC and Envoy have one over all localities of a
      priority (gRFC A42).
      """
    ],
    max_requests: [
      type: {:or, @count, nil},
      default: nil,
      doc: """
      how many calls may be in flight over all backends (gRFC A32): the next `checkout/1` says
      `{:error, :overloaded}`. 0 lets none pass. `pick/1` is not limited. By default no limit.
      """
    ],
    max_requests_per_backend: [
      type: {:or, @count, nil},
      default: nil,
      doc: """
      how many calls may be in flight to one backend. When the chosen one is full the policy chooses
      again, so that the others get its calls as they get all others, and `{:error, :overloaded}` means
      that all are full. By default no limit.
      """
    ],
    name: [
      type: Name.type(),
      default: nil,
      doc: """
      what people are to know the balancer by: any term that takes #{Name.bytes()} bytes at most when it is
      written, such as `"payments"`. It is shown by `info/1` and comes with events; nothing is registered, and two balancers can
      have the same one. Those of connections and pools have the name of these.
      """
    ],
    seed: [
      type: {:or, {:integer, from: 0, to: 0xFFFFFFFFFFFFFFFF}, nil},
      default: nil,
      doc: """
      for tests: random choices are the same in every run with the same seed, as long as the same calls
      are made in the same order. Picks then share one state, also with `cursor: :per_scheduler`.
      """
    ],
    clock: [
      type: {:or, :reference, nil},
      default: nil,
      doc: """
      for tests: a clock of `GrpcLb.Clock.manual/0`, by which the balancer goes and its calls are timed,
      in place of the time that passes.
      """
    ],
    checkout_wait: [
      type: {:ms, 0},
      default: 0,
      doc: """
      how many milliseconds `run/3` waits for room at most, where `:max_requests` or
      `:max_requests_per_backend` leaves none, before it says `{:error, :overloaded}`. Callers get in
      in the order in which they came, and one that dies has left; while some wait, all others are
      refused or wait behind them. `checkout/1` never waits. 0 is not at all.
      """
    ],
    remember: [
      type: {:ms, 0},
      default: 0,
      doc: """
      for how many milliseconds what is known of a backend that was removed is kept for its id: should
      it be listed again, it has its ejection, its failures in a row, its latency and its counts. Kept
      for 1,024 backends, or as many as are listed, those removed last. One whose owner has died is
      forgotten with it. 0 forgets all at once.
      """
    ],
    values: [
      type: {:one_of, [:interned, :copied]},
      default: :copied,
      doc: """
      what a pick does with a value that is no single word: `:copied` copies it to the caller, like a
      message. `:interned` hands it out as it is: the whole answer of a pick lies in `:persistent_term`,
      whatever its size, and picks make no garbage. For lists that change slowly: a value that is new
      is put there once, and one that has gone is erased, for which the VM looks at every process. That is
      done in batches, see `GrpcLb.Backend`. What a pick has returned stays whole however long it is kept.
      It cannot change while the balancer lives.
      """
    ]
  ]

  # All but where values are, the owner, what follows from owners that died, and what tests drive it by,
  # can change while a balancer lives.
  @changeable [
    {:policy, type: :any, default: nil, doc: "the same policy, with other options."}
    | Keyword.drop(@options, [:values, :owner, :on_owner_death, :subset, :name, :seed, :clock])
  ]

  # A connection or a pool decides itself who owns its balancer, what it is called, and where its backends
  # are.
  @own [:owner, :on_owner_death, :name, :locality_weights]
  @balancer_options for {option, _spec} <- Keyword.drop(@options, @own),
                        do:
                          {option,
                           type: :any, default: nil, doc: "the balancer's, see `GrpcLb.new/3`."}

  @doc """
  The options that a connection or a pool takes for its balancer, to be listed among its own.

  Their values are validated by `to_native/2`, which knows the policy.
  """
  @spec balancer_options() :: Options.specs()
  def balancer_options, do: @balancer_options

  @doc "The options as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@options)

  @doc """
  Validates the options of a balancer with this policy and fills in the defaults.

  Raises `ArgumentError` that names the option, what was given and what is allowed.

      iex> GrpcLb.Settings.to_native([slow_start: [window: 5_000]], {:random, %{}}).slow_start
      %{window: 5_000, aggression: 1.0, min_weight_percent: 10.0}

      iex> GrpcLb.Settings.to_native([slow_start: [window: 5_000]], {:pick_first, %{}})
      ** (ArgumentError) option :slow_start goes with :weighted_round_robin or :least_request or :peak_ewma or :random only, got it with :pick_first
  """
  @spec to_native(keyword(), Native.policy()) :: Native.settings()
  def to_native(opts, {name, _options}) do
    opts |> Options.validate!(@options) |> settings!(name) |> seeded()
  end

  @doc """
  Validates the options that change a balancer with the policy of this name. Leaves out what is not
  given.

  Raises `ArgumentError` as `to_native/2` does, also for another policy.

      iex> GrpcLb.Settings.changes_to_native([max_requests: 9, slow_start: nil], :random)
      %{max_requests: 9, slow_start: nil}

      iex> GrpcLb.Settings.changes_to_native([policy: :pick_first], :random)
      ** (ArgumentError) option :policy must be :random, alone or with options, for a balancer that has this policy, got: :pick_first
  """
  @spec changes_to_native(keyword(), Policy.name()) :: Native.changes()
  def changes_to_native(opts, name) do
    changes = opts |> Options.validate!(@changeable) |> Map.take(Keyword.keys(opts))

    case changes do
      %{policy: policy} -> settings!(%{changes | policy: same_policy!(policy, name)}, name)
      _same_policy -> settings!(changes, name)
    end
  end

  @doc """
  Reads the option `:consecutive_failures`: a number, or options.

      iex> GrpcLb.Settings.consecutive_failures(5)
      {:ok, %{failures: 5, minimum_hosts: 2}}

      iex> GrpcLb.Settings.consecutive_failures(failures: 5, minimum_hosts: 3)
      {:ok, %{failures: 5, minimum_hosts: 3}}

      iex> GrpcLb.Settings.consecutive_failures(0)
      :error
  """
  @spec consecutive_failures(term()) :: {:ok, map()} | :error
  def consecutive_failures(failures) when failures in 1..0xFFFFFFFF,
    do: consecutive_failures(failures: failures)

  def consecutive_failures([_ | _] = opts),
    do: {:ok, Options.validate!(opts, @consecutive_failures, :consecutive_failures)}

  def consecutive_failures(_other), do: :error

  @doc """
  Reads the option `:locality_weights`: weights by name, as floats.

      iex> GrpcLb.Settings.locality_weights(%{"a" => 3, nil => 0.5})
      {:ok, %{"a" => 3.0, "" => 0.5}}

      iex> GrpcLb.Settings.locality_weights(%{"a" => -1})
      :error
  """
  @spec locality_weights(term()) :: {:ok, %{String.t() => float()}} | :error
  def locality_weights(weights) when is_map(weights) and not is_struct(weights) do
    Enum.reduce_while(weights, {:ok, %{}}, fn {locality, weight}, {:ok, read} ->
      with {:ok, name} <- locality_name(locality),
           true <- is_number(weight) and weight >= 0 and weight <= 0xFFFFFFFF do
        {:cont, {:ok, Map.put(read, name, weight / 1)}}
      else
        _malformed -> {:halt, :error}
      end
    end)
  end

  def locality_weights(_other), do: :error

  # Those of backends that have none. No locality has an empty name.
  defp locality_name(nil), do: {:ok, ""}
  defp locality_name(name), do: Backend.locality(name)

  defp same_policy!(policy, name) do
    with {other, _options} when other != name <- Policy.to_native(policy) do
      raise ArgumentError,
            "option :policy must be #{inspect(name)}, alone or with options, for a balancer that " <>
              "has this policy, got: #{Text.show(policy)}"
    end
  end

  defp settings!(settings, policy) do
    for {option, policies} <- @policies,
        Map.get(settings, option, @options[option][:default]) != @options[option][:default],
        policy not in policies do
      raise ArgumentError,
            "option #{inspect(option)} goes with #{Options.one_of(policies)} only, " <>
              "got it with #{inspect(policy)}"
    end

    case settings do
      %{outlier_detection: detection} ->
        %{settings | outlier_detection: outlier_detection(detection)}

      _not_given ->
        settings
    end
  end

  defp seeded(%{subset: %{seed: nil}} = settings),
    do: put_in(settings.subset.seed, settings.seed || random_seed())

  defp seeded(settings), do: settings

  # Leaves the process's own sequence of random numbers alone.
  defp random_seed do
    {seed, _state} = :rand.uniform_s(0x10000000000000000, :rand.seed_s(:exsss))
    seed - 1
  end

  defp outlier_detection(nil), do: nil

  defp outlier_detection(opts) do
    if Enum.all?(@detections, &is_nil(opts[&1])) do
      raise ArgumentError,
            "option :outlier_detection must have #{Options.one_of(@detections)}, " <>
              "or nothing is detected"
    end

    # gRFC A50's default.
    default = max(300_000, opts.base_ejection_time)
    %{opts | max_ejection_time: opts.max_ejection_time || default}
  end
end
