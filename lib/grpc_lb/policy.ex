defmodule GrpcLb.Policy do
  alias GrpcLb.{Native, Options, Text}

  @hash_balance_factor [
    type: {:or, {:integer, from: 100, to: 0xFFFFFFFF}, nil},
    default: nil,
    doc: """
    keeps a hot key from drowning its backend: one that has more than this many percent of its share of
    all calls in flight passes calls on, as one that is down does (Envoy's `hash_balance_factor`,
    consistent hashing with bounded loads). 125 lets it have a quarter more than its share; less is more
    even, and more is more sticky. Calls in flight are those of `GrpcLb.run/3` and
    `GrpcLb.checkout/2`: where there is only `GrpcLb.pick/2` nothing is. They are counted in one
    word for it, which callers on all schedulers write. Envoy goes on to any backend, in an order drawn
    by the key. By default off.
    """
  ]

  # In the order of the documentation.
  @policies [
    round_robin: [
      for: "Backends and calls are about alike",
      intro: """
      One after the other, in the order of the list.

      The plain choice, and the cheapest one that spreads calls evenly. It does not notice that a
      backend is smaller, slow or busy: each gets as many calls as any other, the slow one too. Weights
      do not count, but for 0.
      """,
      options: [
        cursor: [
          type: {:one_of, [:shared, :per_scheduler]},
          default: :shared,
          doc: """
          `:shared`: all callers share one rotation; over any run of picks without a reconcile the
          counts of the backends differ by at most 1, and those of two that stay do so while others come
          and go, but for the changes that move them in the order of the list. `:per_scheduler`: each
          scheduler has its own,
          and the counts differ by at most the number of schedulers that picked; picks on different
          schedulers then share nothing that is written, and scale with the cores.
          """
        ],
        start: [
          type: {:one_of, [:first, :random]},
          default: :first,
          doc: """
          where the rotation starts. `:random` keeps many clients with one list from starting in
          step, as gRPC and Envoy do, and is the default in a `GrpcLb.Connection`, and in a
          `GrpcLb.Pool` with `scope: :cluster`. It is drawn anew with each list until the first pick.
          """
        ],
        on_reconcile: [
          type: {:one_of, [:keep, :reset]},
          default: :keep,
          doc: """
          what a new list does to the rotation: it goes on with the backend whose turn it is, or starts
          again, as gRPC's. Envoy goes on with the index instead, which then is another backend's: one that
          comes and goes takes turns from some of the others, which it does not here.
          """
        ]
      ]
    ],
    weighted_round_robin: [
      for: "Backends differ in size, and you know by how much, or they report their load",
      intro: """
      One after the other, those with a larger weight more often (gRFC A58).

      With `weights: :static` the weights are those of the list: a backend of weight 3 has three turns
      while one of weight 1 has one. Good for a fleet of known, different machines.

      With `weights: :reported` they are made from what the servers report: the more requests a server
      answers for the utilization that they cost it, the more it gets. Good where servers are unlike and
      nobody wants to keep weights by hand. It needs servers that send load reports (ORCA, gRFC A51),
      see `GrpcLb.LoadReport`, and callers that pass them on, with `GrpcLb.complete/3` or
      `GrpcLb.report/3`. A backend whose weight is not known gets the mean of the known ones; while
      fewer than two are known this is `:round_robin`. The weights of the list do not count then.

      Turns are taken in a pattern that spreads those of each backend evenly, not drawn, and it goes on
      across changes of the list; A58 begins anywhere at each. Weights of the list are taken as they are:
      one of 1 beside 999 has every thousandth turn, and over any run of as many picks as all weights
      together make, less what divides them all, each backend has exactly its turns. Reported weights are
      brought nearer to each other, as C-core does it: none counts as more than ten times the mean, or as
      less than a hundredth of it.
      """,
      options: [
        weights: [
          type: {:one_of, [:static, :reported]},
          default: :static,
          doc: "whether the weights are those of the list, or made from load reports."
        ],
        cursor: [
          type: {:one_of, [:shared, :per_scheduler]},
          default: :shared,
          doc: """
          `:shared`: all callers share one rotation. `:per_scheduler`: each scheduler has its own, and
          picks on different schedulers share nothing that is written.
          """
        ],
        reports: [
          type: {:one_of, [:per_call, :out_of_band]},
          default: :per_call,
          only_with: {:weights, :reported},
          doc: """
          which reports count: `:per_call`, all; `:out_of_band`, only those of `GrpcLb.report/3`, and
          those that `GrpcLb.complete/3` is given are ignored, as with gRPC's `enableOobLoadReport`.
          """
        ],
        blackout_period: [
          type: {:ms, 0},
          default: 10_000,
          only_with: {:weights, :reported},
          doc: """
          how long, in milliseconds, a backend must have been reporting before its weight counts. Until
          then it gets the mean of the others: the first reports of one that just started say little.
          """
        ],
        weight_expiration_period: [
          type: {:ms, 0},
          default: 180_000,
          only_with: {:weights, :reported},
          doc: "after how many milliseconds without a report a weight is forgotten."
        ],
        weight_update_period: [
          type: {:ms, 0},
          default: 1_000,
          at_least: 100,
          only_with: {:weights, :reported},
          doc: """
          how many milliseconds pass until picks go by what was reported since. Less than 100 becomes 100.
          """
        ],
        error_utilization_penalty: [
          type: {:number, from: 0},
          default: 1.0,
          only_with: {:weights, :reported},
          doc: """
          how much errors count: the reported errors a request, times this, are added to the utilization.
          """
        ],
        metric_names: [
          type: {:strings, at_most: 64, bytes: 255},
          default: [],
          only_with: {:weights, :reported},
          doc: """
          which metrics of a report are its utilization (gRFC A114): `"cpu_utilization"`,
          `"mem_utilization"`, `"application_utilization"`, and entries of maps such as
          `"named_metrics.queue"` or `"utilization.disk"`. The largest of them counts. When there is none
          in a report, and by default, it is `application_utilization`, or else `cpu_utilization`.
          Other names have no value. 64 at most, of 255 bytes each at most: every report is asked for all.
          """
        ]
      ]
    ],
    least_request: [
      for: "Some calls take much longer than others",
      intro: """
      The backend with the fewest calls in flight among a few that are drawn at random (gRFC A48).

      Good when calls differ in what they cost, or last long, as streams do: who is still busy gets
      less. A slow backend gets fewer calls, as its calls pile up. A backend that fails fast is never
      busy, and gets more; take outlier detection with it, see `GrpcLb.new/3`.

      Idle backends get calls by their weights, and under load their calls in flight are as their
      weights: a backend of weight 2 counts as half as busy as one of weight 1 with as many. For this
      the few are drawn by weight, no backend twice, and the first one stays unless another is less
      busy. A48 draws with replacement and has no weights; Envoy's schedule has the same shares while
      nothing is in flight, and under load shares nearer to each other than the weights are.
      """,
      options: [
        choices: [
          type: {:or, {:integer, from: 2, to: 0xFFFFFFFF}, :all},
          default: 2,
          at_most: 10,
          doc: """
          how many different backends are drawn, all where there are no more. More than 2 gains little,
          and at each change of load all callers rush to the same few. More than 10 becomes 10. `:all`
          compares all of a list of up to 64, as Envoy's `FULL_SCAN`, at a cost that grows with the list;
          of a longer one 10 are drawn.
          """
        ],
        bias: [
          type: {:number, from: 0},
          default: 1.0,
          doc: """
          how much calls in flight count beside weights, as Envoy's `active_request_bias`. 0: not at
          all, which is a split by weight alone. Less than 1: so much of the calls of the one drawn
          first counts. More than 1: `in_flight ^ bias / weight` is compared.
          """
        ]
      ]
    ],
    peak_ewma: [
      for: "Backends become slow at times, and what the slowest calls take matters most",
      intro: """
      The better of two backends that are drawn at random, by how long calls to it take and how many
      it has in flight, as linkerd and Finagle do.

      Good for latency: a backend that gets slow is avoided at its first slow answer, long before its
      calls pile up, and is tried again bit by bit as the memory of it fades. It compares backends by
      time alone, so it suits calls that take about as long as each other. A failed call counts as a
      slow one, so that who fails fast is not rewarded. One that is given up, and one that waits while
      nothing is heard of its backend, have taken at least so long: that can raise what is remembered,
      never lower it. So a backend that hangs is avoided, and is back when it answers.

      What is bad is believed step by step. One bad call, slower than twice what calls to the fleet
      usually take, keeps its backend out for half a second at most. Each further one that began after
      it doubles that, up to what its latency is worth, and to four seconds where there was no answer;
      eight good ones in a row are a new beginning. linkerd and Finagle believe the first one at
      once: there, one slow call shuns a backend for minutes if the others take a millisecond.

      A backend that has answered no call yet is tried at once, with one call at a time until it has
      (Finagle's probation). Where many callers come at the same moment it may be a few more: a pick sees
      the calls that have begun, and not the picks beside it.

      Weights, and those of slow start, decide how often a backend is drawn; latency and calls in
      flight, in proportion to weights, which of the two takes the call. One of weight 0 is not picked
      while others can be.
      """,
      options: [
        decay: [
          type: {:ms, 1},
          default: 10_000,
          doc: """
          how fast the past fades: after this many milliseconds a latency counts for a third (1/e) of
          what it was. Shorter forgives sooner, and trusts fewer samples.
          """
        ],
        penalty: [
          type:
            {:reader, "a number of milliseconds from 0 to 4294967295, or {:times, number from 0}",
             &__MODULE__.read_penalty/1},
          default: {:times, 90},
          doc: """
          what a failed call counts as, if it did not take longer: `{:times, n}` is n times what calls
          that succeed usually take, whichever backend has them; a number is one of milliseconds, as
          with linkerd, where it is 5,000. 0 is for what it took.
          """
        ],
        default_rtt: [
          type: {:ms, 1},
          default: 30,
          doc: """
          deprecated, and without effect: it was what a backend was taken to need before its first call
          had ended. Now that is tried.
          """
        ]
      ]
    ],
    ring_hash: [
      for: "Calls with one key belong on one backend",
      sticky?: true,
      intro: """
      The backend to which a ring of hashes leads from the key of the call (gRFC A42): the same one for
      the same key, on every node that has the same list, and the same one as gRPC's and Envoy's. Keys
      are given with `GrpcLb.pick/2`, `GrpcLb.checkout/2` and the option `:key` of `GrpcLb.run/3`; a call
      without one goes to any point of the ring.

      Every backend has entries on the ring, in number as its weight, at the hashes of its id, or its
      `:hash_key`, see `GrpcLb.Backend`. When one comes or goes, the keys of its entries move. A few others
      do where the others then have more entries or fewer: each has `min_ring_size` divided by their number,
      rounded up, so with ten backends 103 of 1,024, and with nine 114. While one is down, ejected or full, a
      key of its goes to the next entry whose backend is not, and comes back afterwards. The ring does not
      change for that.

      The ring is built when the backends, their weights or the sizes change. A pick is a binary search. An
      entry takes 12 bytes, and each backend some 20: 16 KB for 100 backends, 45 KB for 1,000; see `:table` of
      `GrpcLb.info/1`.

      The order of the list does not matter: entries are made in the order of the texts, as by grpc-go. C-core
      and Envoy go by the list. An entry or two differ from theirs, of another order, where the entries of
      one are no whole number: where `max_ring_size` cuts, or weights are no multiples of the least. A42
      dials as it picks, and waits for a backend that connects; here one that connects is passed over like
      one that is down.
      """,
      options: [
        min_ring_size: [
          type: {:integer, from: 1, to: 8_388_608},
          default: 1_024,
          doc: """
          so many entries at least, and more where that is needed to have them in number as the weights. More
          make the shares of the backends more alike.
          """
        ],
        max_ring_size: [
          type: {:integer, from: 1, to: 8_388_608},
          default: 4_096,
          doc: """
          so many entries at most. With more backends than this some have none, and get no calls with a
          key. Clients of gRPC have a cap of their own besides, which is 4,096 for both sizes.
          """
        ],
        hash_balance_factor: @hash_balance_factor
      ]
    ],
    maglev: [
      for: "The same, and shares are to be exact, or the order of lists differs",
      sticky?: true,
      intro: """
      The backend to which a table of slots leads from the key of the call: the same one for the same
      key, on every node that has the same backends, in whatever order, and the same one as Envoy's. Keys
      are given as for `:ring_hash`.

      The table is Google's Maglev, filled as Envoy fills it: backends take turns, and each takes its next
      slot that is free, so the slots of each are as many as its weight says, to one or two. When one
      comes or goes, its keys move, and a few others: with 100 backends and the default size about one
      in a hundred of those that could have stayed. More slots make that less. A pick reads one slot, which is faster than a search
      on a ring.

      While a backend is down, ejected or full, a key of its is hashed again, as Envoy's retries do, up to
      8 times, and then goes to the next slot whose backend is not. The table does not change for that;
      Envoy's does, and moves a few keys of others.

      The table is built when the backends, their weights or the size change, in some milliseconds with
      the default size. A slot takes 4 bytes, and each backend some 20: 264 KB for 100 backends; see
      `:table` of `GrpcLb.info/1`.
      """,
      options: [
        table_size: [
          type: {:reader, "a prime number from 2 to 5000011", &__MODULE__.read_prime/1},
          default: 65_537,
          doc: """
          the number of slots, a prime. A hundred times as many as backends, or more, keep their shares
          exact to a percent and few keys moving.
          """
        ],
        hash_balance_factor: @hash_balance_factor
      ]
    ],
    random: [
      for: "Nothing may be shared between callers, or weights are to hold without a rotation",
      intro: """
      Any backend, one of weight 3 three times as often as one of weight 1.

      With equal weights each is as likely as the others. Picks share nothing that is written. Over few
      calls the counts differ more than those of a rotation, and it does not notice slow or busy
      backends.
      """,
      options: []
    ],
    pick_first: [
      for: "One backend does the work, and the others stand by",
      intro: """
      Every pick takes the first backend in the list that is ready, and goes on to take it while it is
      listed and ready (gRFC A62): one that comes before it, or is ready again, does not take its place.
      When it has left or is not ready, the first of the others is taken, and stays. Calls for which it
      has no room, see `max_requests_per_backend`, go to those that come next.

      A connection has one transport with this policy, see `GrpcLb.Connection`, and no other to go to.

      Good for a primary with spares, or where calls of one client belong on one connection. It spreads
      no load: what is measured of a backend does not count, and weights only with `shuffle`.
      """,
      options: [
        shuffle: [
          type: {:one_of, [false, true]},
          default: false,
          doc: """
          whether a random order takes the place of the list's (gRFC A62), so that many clients
          with one list do not all choose the same backend. The heavier one is, the likelier it is the
          first (gRFC A113). A backend draws its place when it is first listed and keeps it.
          Changed on a live balancer, it counts when another backend is to be taken.
          """
        ]
      ]
    ]
  ]

  @names Keyword.keys(@policies)

  @moduledoc """
  The policies and their options.

  A policy is written as its name, or as `{name, opts}`.

  | when | take |
  | --- | --- |
  #{for {name, policy} <- @policies, do: "| #{policy[:for]} | `#{inspect(name)}` |\n"}
  When in doubt: `:round_robin` if your calls are short and alike, `:least_request` if they are not.
  Whatever the policy, outlier detection takes failing backends out for a while, slow start spares new
  ones, and limits on calls in flight keep a slow fleet from piling work up, see the options of
  `GrpcLb.new/3`.

  `:least_request` and `:peak_ewma` measure the calls that are made with `GrpcLb.run/3`, or with
  `GrpcLb.checkout/1` and `GrpcLb.complete/3`, and with those of `GrpcLb.Connection` and `GrpcLb.Pool`.
  A `pick` alone leaves no trace: all backends look idle, and the choice is at best random.
  Outlier detection and limits do not see such calls either.

  All times are in milliseconds.

  #{for {name, policy} <- @policies do
    "## `#{inspect(name)}`\n\n#{policy[:intro]}\n#{Options.docs(policy[:options])}\n\n"
  end}
  """

  @typedoc "A policy as it is written: its name, alone or with options."
  @type t :: name() | {name(), keyword()}

  @typedoc "The name of a policy."
  @type name :: unquote(Enum.reduce(Enum.reverse(@names), &{:|, [], [&1, &2]}))

  @doc """
  Validates a policy and spells out all its options, as `GrpcLb.Native` takes it.

  Raises `ArgumentError` that names what is wrong and what is allowed.

      iex> GrpcLb.Policy.to_native(:round_robin)
      {:round_robin, %{cursor: :shared, start: :first, on_reconcile: :keep}}

      iex> GrpcLb.Policy.to_native({:least_request, choices: 3})
      {:least_request, %{choices: 3, bias: 1.0}}

      iex> GrpcLb.Policy.to_native({:round_robin, cursor: :mine})
      ** (ArgumentError) option :cursor of :round_robin must be :shared or :per_scheduler, got: :mine

      iex> GrpcLb.Policy.to_native({:weighted_round_robin, blackout_period: 0})
      ** (ArgumentError) option :blackout_period of :weighted_round_robin is for weights: :reported only, got it with weights: :static
  """
  @spec to_native(t()) :: Native.policy()
  def to_native({name, opts}) when name in @names do
    {name, name |> known_options(opts) |> consistent!(name)}
  end

  def to_native(name) when name in @names, do: to_native({name, []})

  def to_native(other) do
    raise ArgumentError,
          "unknown policy #{Text.show(other)}, expected #{Options.one_of(@names)}, " <>
            "or one of them with options: {name, opts}"
  end

  defp known_options(name, opts), do: Options.validate!(opts, @policies[name][:options], name)

  defp consistent!(%{min_ring_size: min, max_ring_size: max}, name) when min > max do
    raise ArgumentError,
          "option :min_ring_size of #{inspect(name)} must not be above :max_ring_size, " <>
            "got: #{min} and #{max}"
  end

  defp consistent!(options, _name), do: options

  @doc """
  Whether a policy is sticky: calls with one key go to one backend. The others take no notice of keys.

  Raises `ArgumentError` when it is none.

      iex> GrpcLb.Policy.sticky?(:ring_hash)
      true
      iex> GrpcLb.Policy.sticky?({:round_robin, cursor: :per_scheduler})
      false
      iex> Enum.map([:maglev, :sticky], &GrpcLb.Policy.sticky?/1)
      ** (ArgumentError) unknown policy :sticky, expected :round_robin or :weighted_round_robin or :least_request or :peak_ewma or :ring_hash or :maglev or :random or :pick_first, or one of them with options: {name, opts}
  """
  @spec sticky?(t()) :: boolean()
  for {name, policy} <- @policies do
    def sticky?(unquote(name)), do: unquote(policy[:sticky?] || false)
  end

  def sticky?(policy), do: policy |> to_native() |> elem(0) |> sticky?()

  @doc false
  # The policy of one of many clients that have one list.
  @spec of_many(t()) :: t()
  def of_many(:round_robin), do: of_many({:round_robin, []})
  def of_many({:round_robin, opts}), do: {:round_robin, Keyword.put_new(opts, :start, :random)}
  def of_many(policy), do: policy

  @doc false
  @spec read_penalty(term()) :: {:ok, non_neg_integer() | {:times, float()}} | :error
  def read_penalty(ms) when is_integer(ms) and ms in 0..0xFFFFFFFF, do: {:ok, ms}

  def read_penalty({:times, n}) when is_number(n) and n >= 0 do
    with {:ok, n} <- Options.float(n), do: {:ok, {:times, n}}
  end

  def read_penalty(_other), do: :error

  @doc false
  @spec read_prime(term()) :: {:ok, pos_integer()} | :error
  def read_prime(size) when is_integer(size) and size in 2..5_000_011 do
    factors = Stream.take_while(Stream.iterate(2, &(&1 + 1)), &(&1 * &1 <= size))
    if Enum.any?(factors, &(rem(size, &1) == 0)), do: :error, else: {:ok, size}
  end

  def read_prime(_other), do: :error

  @doc false
  @spec names() :: [name()]
  def names, do: @names
end
