defmodule GrpcLb.Telemetry do
  alias GrpcLb.Metrics

  # In the order of the documentation.
  @about [
    name: "the connection's name",
    target: "its target, as it was given"
  ]
  @backend [
    id: "the backend's id, see `GrpcLb.Address.id/1`",
    address: "its `GrpcLb.Address`"
  ]
  @balancer [
    name: "the balancer's name, see `:name` of `GrpcLb.new/3`; `nil` if it has none",
    balancer: "its reference"
  ]
  @members [
    name: "the pool's name",
    balancer: "its balancer",
    ids: "the members' pids"
  ]
  @of_balancer @balancer ++ [id: "the backend's id"]
  # What the native side decides, by its word for it.
  @decided %{
    ejected: [:grpc_lb, :backend, :ejected],
    unejected: [:grpc_lb, :backend, :unejected],
    slow_start: [:grpc_lb, :slow_start, :entered],
    slow_start_left: [:grpc_lb, :slow_start, :left],
    panic_entered: [:grpc_lb, :panic, :entered],
    panic_left: [:grpc_lb, :panic, :left],
    overloaded: [:grpc_lb, :balancer, :overloaded],
    died: [:grpc_lb, :member, :died]
  }
  @measured_of [
    name: "the balancer's name",
    label: "its label, which tells it from others with that name, see `GrpcLb.Metrics`",
    balancer: "a view of it, see `GrpcLb.all/0`"
  ]
  @panic [
    healthy: "how many backends are healthy",
    backends: "of how many"
  ]
  @of_panic @balancer ++
              [
                priority: "the priority that panics, where each does so for itself; else `nil`"
              ]
  @events [
    %{
      name: [:grpc_lb, :connection, :connected],
      doc: "A connection has a backend to pick, after it had none.",
      measurements: [duration: "since it was started, or since it had none"],
      metadata: @about
    },
    %{
      name: [:grpc_lb, :connection, :lost],
      doc: "A connection has no backend to pick any more, after it had one.",
      measurements: [
        duration: "since it had none last, or since it was started, at most since its server was"
      ],
      metadata: @about
    },
    %{
      name: [:grpc_lb, :connection, :state],
      doc: "A connection is in another state, see `GrpcLb.Connection.state/1`.",
      measurements: [duration: "how long it was in the one before"],
      metadata:
        @about ++
          [
            state: "the state now",
            previous: "the one before; at first it is `:connecting`"
          ]
    },
    %{
      name: [:grpc_lb, :connection, :connect_error],
      doc: "A transport could not be opened, or a connection knows no address.",
      measurements: [duration: "how long the attempt took"],
      metadata:
        @about ++
          [
            reason: """
            `{:open, id, reason}`, `{:resolve, reason}` or `:no_addresses`, as in the errors of
            `GrpcLb.Connection.connect/2`
            """
          ]
    },
    %{
      name: [:grpc_lb, :connection, :disconnected],
      doc: """
      A connection has ended, its balancer is closed and its transports too. Also for one that was
      never connected.
      """,
      measurements: [duration: "since it was started"],
      metadata:
        @about ++
          [
            reason: """
            `:normal` after `GrpcLb.Connection.disconnect/2`; `{:shutdown, :connect_error}` when
            `GrpcLb.Connection.connect/2` failed; `{:shutdown, :balancer_closed}` after
            `GrpcLb.close/1`; `:shutdown` when its supervisor was stopped or gave up; `:killed` when
            that was killed. When its holder was killed there is no event.
            """
          ]
    },
    %{
      name: [:grpc_lb, :connection, :reconciled],
      doc: "A balancer got a new list of backends.",
      measurements: [
        added: "number of ids that came",
        removed: "number of ids that went",
        kept: "number of ids that stayed",
        duration: "how long the reconcile took"
      ],
      metadata: @about
    },
    %{
      name: [:grpc_lb, :resolver, :resolved],
      doc: "A resolver answered, failed, or pushed.",
      measurements: [
        addresses: "number of different addresses that it gave, 0 when it failed",
        duration: "how long it took, 0 when it pushed"
      ],
      metadata:
        @about ++
          [
            result: """
            `:ok`, `{:kept, reason}` when it failed or was empty and the last known addresses were kept,
            `{:dropped, reason}` when it was empty and they were dropped, as with `on_empty: :drop`, or
            `{:failed, reason}` when none were known. A reason is the resolver's, or
            `:no_addresses`
            """,
            unknown: """
            the parts of which nothing was found out, see `t:GrpcLb.Resolver.part/0`; `[]` when all is
            known
            """
          ]
    },
    %{
      name: [:grpc_lb, :backend, :up],
      doc: "A transport is open.",
      measurements: [duration: "how long it took to open"],
      metadata: @about ++ @backend
    },
    %{
      name: [:grpc_lb, :backend, :down],
      doc:
        "A transport that was open, and was not closed on purpose, is gone, or takes no new calls.",
      measurements: [duration: "how long it was open, at most since its connection was restarted"],
      metadata:
        @about ++
          @backend ++
          [
            reason: """
            `{:down, reason}` when its owner or a linked process ended, `{:check, reason}` when a
            check failed, `{:check, :timeout}` when it took too long, `:draining` when it takes no new
            calls, else what its subchannel ended with
            """
          ]
    },
    %{
      name: [:grpc_lb, :backend, :unhealthy],
      doc:
        "A transport is open and out of the rotation, because a check or the transport itself says so.",
      measurements: [
        duration: "how long it has been open, at most since its connection was restarted"
      ],
      metadata: @about ++ @backend ++ [reason: "the one that was given"]
    },
    %{
      name: [:grpc_lb, :backend, :healthy],
      doc: "A transport that was unhealthy is in the rotation again.",
      measurements: [
        duration: "how long it has been open, at most since its connection was restarted"
      ],
      metadata: @about ++ @backend
    },
    %{
      name: [:grpc_lb, :backend, :ejected],
      doc: "Outlier detection leaves a backend out (gRFC A50).",
      measurements: [
        duration: "how long it lasts at least",
        successes: "the calls that ended well, of those that the detection looked at",
        failures: "those that failed",
        limit: "what was not to be passed, see `:rule`"
      ],
      metadata:
        @of_balancer ++
          [
            rule: """
            `:success_rate`, of the calls of an interval: the limit is the rate, from 0.0 to 1.0, below
            which a backend is ejected. `:failure_percentage`, of the same calls: the limit is in
            percent. `:consecutive_failures`, `:consecutive_transport_failures`: the calls are those in
            a row, and the limit is how many eject
            """
          ]
    },
    %{
      name: [:grpc_lb, :backend, :unejected],
      doc: "A backend that was ejected is let back in.",
      measurements: [duration: "how long it was ejected"],
      metadata: @of_balancer
    },
    %{
      name: [:grpc_lb, :slow_start, :entered],
      doc: "A backend has become healthy, and comes to its weight step by step.",
      measurements: [duration: "how long that takes"],
      metadata: @of_balancer
    },
    %{
      name: [:grpc_lb, :slow_start, :left],
      doc: "A backend has come to its whole weight.",
      measurements: [],
      metadata: @of_balancer
    },
    %{
      name: [:grpc_lb, :panic, :entered],
      doc: "So few backends are healthy that others are picked, too, see `:panic_threshold`.",
      measurements: @panic,
      metadata: @of_panic
    },
    %{
      name: [:grpc_lb, :panic, :left],
      doc: "Enough backends are healthy again, or nobody is left to be picked.",
      measurements: @panic,
      metadata: @of_panic
    },
    %{
      name: [:grpc_lb, :balancer, :overloaded],
      doc: """
      Checkouts found no room under `:max_requests` or `:max_requests_per_backend`. Told once a second at
      most.
      """,
      measurements: [
        count: "how many did since that was told last, with those that then waited for room"
      ],
      metadata: @balancer
    },
    %{
      name: [:grpc_lb, :member, :joined],
      doc: """
      Members are listed in a pool that were not. Emitted by who has a member join, and in a pool of a
      cluster, `scope: :cluster`, by a process of the pool, also for members of this node. There every
      join and leave waits for a handler, however long it takes, and one that has a member join or leave
      that pool in it waits for itself: what it asks for is made here, and no other node is told.
      """,
      measurements: [count: "how many of `:ids` are new"],
      metadata: @members
    },
    %{
      name: [:grpc_lb, :member, :left],
      doc: """
      Members have left a pool: `GrpcLb.Pool.leave/2` was called, or they were members of another node and
      left, died, or went with it. Emitted as `[:grpc_lb, :member, :joined]` is.
      """,
      measurements: [count: "how many of `:ids` were listed"],
      metadata: @members
    },
    %{
      name: [:grpc_lb, :member, :died],
      doc: """
      A process of this node has died and left the list with that: a member of a pool, or an owner of a
      backend of a balancer with `on_owner_death: :remove`. Emitted as what balancers decide.
      """,
      measurements: [],
      metadata: @balancer ++ [id: "the backend's id, which is the pid of a pool's member"]
    },
    %{
      name: [:grpc_lb, :call, :stop],
      doc:
        "A call that was made with `run/3` and `telemetry: true` is over. Emitted by its caller.",
      measurements: [duration: "how long it took, from when it had a backend"],
      metadata:
        @balancer ++
          [
            value: "the value that its function was given",
            outcome: "how it ended: `:ok`, `:error`, `:transport_error` or `:cancelled`"
          ]
    },
    %{
      name: [:grpc_lb, :balancer, :measured],
      doc: "A balancer as it is now, emitted by `measure/0`.",
      measurements: [
        backends: "how many backends are listed",
        healthy: "how many of them are ready and not ejected"
      ],
      metadata: @measured_of
    },
    %{
      name: [:grpc_lb, :backend, :measured],
      doc: "A backend as it is now, emitted by `measure/0`.",
      measurements: [
        in_flight: "calls that were checked out and have not ended",
        share: "its part of the picks that the listed backends have had, from 0.0 to 1.0",
        weight: "what picks go by; not there while load reports are awaited",
        ejected: "1 while it is ejected, else 0",
        latency: "of its calls, in native time units; not there before the first has ended"
      ],
      metadata: @measured_of ++ [id: "the backend's id"]
    },
    %{
      name: [:grpc_lb, :events, :lost],
      doc: """
      Balancers have decided more at once than is kept, see above. What is lost are the last of those
      events.
      """,
      measurements: [count: "how many"],
      metadata: []
    }
  ]

  @measured Map.new(@events, &{&1.name, Keyword.keys(&1.measurements)})

  list = fn
    [] ->
      "none"

    fields ->
      Enum.map_join(fields, "\n", fn {key, doc} ->
        "  * `#{inspect(key)}` - #{doc |> String.trim() |> String.replace("\n", "\n    ")}"
      end)
  end

  @moduledoc """
  The events that balancers, connections and pools emit through `:telemetry`.

  The package has no dependency: every event looks whether `:telemetry` is there, and calls it if so.
  All durations are in native time units, see `System.convert_time_unit/3`.

  What a balancer decides is emitted by processes of the library that do nothing else, soon after, one
  event after the other: picks, calls and the log have no part in it, and wait for no handler. A handler
  has 5 seconds; then its process is killed, which is logged (see `GrpcLb.Log`), and the next event is
  emitted. A balancer keeps 64 events until it is asked for them, and all together 1,024, and as many
  wait for handlers; `[:grpc_lb, :events, :lost]` counts what is beyond
  that. Those of a balancer with a `:clock` of its own are emitted after the clock was moved, see
  `GrpcLb.Clock.advance/2`, or a call that failed had a backend ejected. Where the application `:grpc_lb`
  does not run there are none.

  Handlers of the events of connections run in a process of the connection and hold it up, so they have
  to be quick. There
  `GrpcLb.Connection.info/1`, `await_ready/2` and `disconnect/2` raise `ArgumentError`, because the
  connection cannot wait for itself; `GrpcLb.Connection.handle/1` and picks are fine. For a handler of
  `[:grpc_lb, :connection, :disconnected]` the connection does not exist any more.

  #{for event <- @events do
    """
    ## `#{inspect(event.name)}`

    #{event.doc}

    Measurements:

    #{list.(event.measurements)}

    Metadata:

    #{list.(event.metadata)}

    """
  end}
  """

  @typedoc "An event: its name, and what each measurement and each piece of metadata is."
  @type event :: %{
          name: [atom()],
          doc: String.t(),
          measurements: [{atom(), String.t()}],
          metadata: [{atom(), String.t()}]
        }

  @doc """
  All events, as data.

      iex> for %{name: [:grpc_lb, :backend, name]} <- GrpcLb.Telemetry.events(), do: name
      [:up, :down, :unhealthy, :healthy, :ejected, :unejected, :measured]
  """
  @spec events() :: [event()]
  def events, do: @events

  @doc """
  Calls the handlers that are attached to an event, if there is a `:telemetry`.

      iex> GrpcLb.Telemetry.execute([:grpc_lb, :backend, :up], %{duration: 1}, %{id: "[::1]:1"})
      :ok
  """
  @spec execute([atom()], %{atom() => number()}, %{atom() => term()}) :: :ok
  def execute(event, measurements, metadata) do
    # Whoever has attached a handler has loaded the module.
    if function_exported?(:telemetry, :execute, 3) do
      arguments = [event, measurements, metadata]
      apply(:telemetry, :execute, arguments)
    end

    :ok
  end

  @doc """
  Emits `[:grpc_lb, :balancer, :measured]` for every balancer with a name, and
  `[:grpc_lb, :backend, :measured]` for every backend of these, in the calling process: to be called now and
  then, as `telemetry_poller` does with

      {:telemetry_poller, measurements: [{GrpcLb.Telemetry, :measure, []}], period: 10_000}

  See `GrpcLb.Metrics` for whom that is of, and how many backends at most.

      iex> GrpcLb.Telemetry.measure()
      :ok
  """
  @spec measure() :: :ok
  def measure do
    {measured, _left_out} = Metrics.measure()

    for {about, backends} <- measured do
      {metadata, measurements} = Map.split(about, [:name, :label, :balancer])
      execute([:grpc_lb, :balancer, :measured], measurements, metadata)

      for %{id: id} = backend <- backends do
        known =
          for {field, value} when value != nil <- Map.delete(backend, :id), do: {field, value}

        execute([:grpc_lb, :backend, :measured], Map.new(known), Map.put(metadata, :id, id))
      end
    end

    :ok
  end

  # Telemetry.Metrics' kind, name, event, measurement, tags, and what else is to be said.
  @metrics [
    {:counter, "grpc.lb.outlier_detection.ejections_enforced", [:backend, :ejected], :duration,
     [:grpc_target, :grpc_lb_outlier_detection_detection_method],
     "gRFC A91: backends that outlier detection has ejected."},
    {:counter, "grpc.subchannel.disconnections", [:backend, :down], :duration, [:grpc_target],
     "gRFC A94: transports that were open and are gone."},
    {:counter, "grpc.subchannel.connection_attempts_succeeded", [:backend, :up], :duration,
     [:grpc_target], "gRFC A94: transports that were opened."},
    {:counter, "grpc.subchannel.connection_attempts_failed", [:connection, :connect_error],
     :duration, [:grpc_target], "gRFC A94: transports that could not be opened."},
    {:counter, "grpc_lb.backend.unejected", [:backend, :unejected], :duration, [:grpc_target],
     "Backends that were let back in."},
    {:counter, "grpc_lb.panic.entered", [:panic, :entered], :healthy, [:grpc_target],
     "How often so few were healthy that others were picked."},
    {:sum, "grpc_lb.balancer.overloaded", [:balancer, :overloaded], :count, [:grpc_target],
     "Checkouts that found no room under a limit."},
    {:sum, "grpc_lb.events.lost", [:events, :lost], :count, [], "Events that were not kept."},
    {:last_value, "grpc_lb.balancer.backends", [:balancer, :measured], :backends, [:grpc_target],
     "Backends that are listed."},
    {:last_value, "grpc_lb.balancer.healthy_backends", [:balancer, :measured], :healthy,
     [:grpc_target], "Backends that are ready and not ejected."},
    {:last_value, "grpc_lb.backend.in_flight", [:backend, :measured], :in_flight,
     [:grpc_target, :backend], "Calls that have not ended."},
    {:last_value, "grpc_lb.backend.share", [:backend, :measured], :share,
     [:grpc_target, :backend], "Part of the picks."},
    {:last_value, "grpc_lb.backend.weight", [:backend, :measured], :weight,
     [:grpc_target, :backend], "Weight that picks go by."},
    {:last_value, "grpc_lb.backend.ejected", [:backend, :measured], :ejected,
     [:grpc_target, :backend], "1 while it is ejected."},
    {:last_value, "grpc_lb.backend.latency", [:backend, :measured], :latency,
     [:grpc_target, :backend], "Latency of calls."}
  ]

  @doc """
  Metrics of these events for the reporters of `Telemetry.Metrics`, where that package is there. Raises
  `RuntimeError` where it is not.

  #{for {kind, name, event, _measurement, tags, doc} <- @metrics do
    "  * `#{name}` - `#{kind}` of `#{inspect([:grpc_lb | event])}`, by #{Enum.map_join(tags, ", ", &"`#{inspect(&1)}`")}. #{doc}
"
  end}
  What gRPC has a metric for has gRPC's name, and its labels with `_` in the place of the dots.
  `:grpc_target` is the target of a connection as text, and else the name of the balancer, which in those that
  are `:last_value` tells balancers apart as in `GrpcLb.Metrics`. These need `measure/0` to be called. gRFC A78's metrics of `weighted_round_robin` and A91's of
  ejections that are not enforced are not counted, nor A94's older names `grpc.lb.pick_first.*`, which count
  the same. A94 counts connections, and these count transports, of which one is a connection to a backend.
  """
  @spec metrics() :: [struct()]
  def metrics do
    unless Code.ensure_loaded?(Telemetry.Metrics) do
      raise "GrpcLb.Telemetry.metrics/0 needs the package :telemetry_metrics, which is not there"
    end

    for {kind, name, event, measurement, tags, doc} <- @metrics do
      opts = [
        event_name: [:grpc_lb | event],
        measurement: measurement,
        description: doc,
        tags: tags,
        tag_values: &__MODULE__.tag_values/1
      ]

      opts = if measurement == :latency, do: [{:unit, {:native, :millisecond}} | opts], else: opts

      opts =
        if event == [:connection, :connect_error],
          do: [{:keep, &__MODULE__.dialled?/1} | opts],
          else: opts

      # The module is there where the package is.
      apply(Telemetry.Metrics, kind, [name, opts])
    end
  end

  @doc false
  def tag_values(metadata) do
    target = metadata[:label] || Metrics.label(metadata[:target] || metadata[:name])
    tags = %{grpc_target: target}

    tags =
      if is_map_key(metadata, :id),
        do: Map.put(tags, :backend, Metrics.label(metadata.id)),
        else: tags

    case metadata do
      %{rule: rule} -> Map.put(tags, :grpc_lb_outlier_detection_detection_method, rule)
      _no_ejection -> tags
    end
  end

  @doc false
  # That no address is known is no attempt.
  def dialled?(%{reason: {:open, _id, _reason}}), do: true
  def dialled?(_metadata), do: false

  @doc false
  # The name of what a balancer has decided.
  @spec event_name(GrpcLb.Native.event()) :: [atom()]
  def event_name({_about, event, _fields}), do: Map.fetch!(@decided, event)

  @doc false
  # Emits what a balancer has decided.
  @spec balancer_event(GrpcLb.Native.event()) :: :ok
  def balancer_event({about, _event, fields} = decided) do
    event = event_name(decided)
    {measurements, metadata} = Map.split(fields, Map.fetch!(@measured, event))
    metadata = Map.merge(metadata, Map.take(about, [:balancer, :name]))
    execute(event, native(measurements), metadata)
  end

  defp native(%{duration: duration} = measurements),
    do: %{measurements | duration: System.convert_time_unit(duration, :nanosecond, :native)}

  defp native(measurements), do: measurements
end
