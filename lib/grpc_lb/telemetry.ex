defmodule GrpcLb.Telemetry do
  # In the order of the documentation.
  @about [
    name: "the connection's name",
    target: "its target, as it was given"
  ]
  @backend [
    id: "the backend's id, see `GrpcLb.Address.id/1`",
    address: "its `GrpcLb.Address`"
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
    }
  ]

  list = fn fields ->
    Enum.map_join(fields, "\n", fn {key, doc} ->
      "  * `#{inspect(key)}` - #{doc |> String.trim() |> String.replace("\n", "\n    ")}"
    end)
  end

  @moduledoc """
  The events that connections emit through `:telemetry`.

  The package has no dependency: every event looks whether `:telemetry` is there, and calls it if so.
  All durations are in native time units, see `System.convert_time_unit/3`.

  Handlers run in a process of the connection and hold it up, so they have to be quick. There
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
      [:up, :down, :unhealthy, :healthy]
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
end
