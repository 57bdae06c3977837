defmodule GrpcLb.Log do
  # In the order of the documentation.
  @kinds [
    ejected: {:warning, "a backend is ejected; says which detection found what"},
    unejected: {:notice, "it is let back in"},
    panic_entered: {:warning, "so few backends are healthy that others are picked, too"},
    panic_left: {:notice, "enough are again"},
    overloaded: {:warning, "checkouts find no room under a limit; says how many"},
    hung: {:warning, "a handler of an event took too long and was ended; says of which"},
    failing: {:warning, "a backend of a connection, or its resolution, begins to fail; says why"},
    well: {:notice, "it is well again"}
  ]

  @defaults Map.new(@kinds, fn {kind, {level, _doc}} -> {kind, level} end)
  @levels [:emergency, :alert, :critical, :error, :warning, :notice, :info, :debug]

  # So many of one kind of a balancer are logged in a window, and so many of all.
  @window 10_000
  @of_one 5
  @of_all 100

  @moduledoc """
  What the library logs, and how that is set.

  | kind | level | when |
  | --- | --- | --- |
  #{for {kind, {level, doc}} <- @kinds do
    "| `#{inspect(kind)}` | `#{inspect(level)}` | #{doc} |\n"
  end}
  The application environment sets levels, for balancers, connections and pools alike, also while they
  run; what is not named there has the level of this table, and `false` is not to log at all:

      config :grpc_lb, log: [ejected: :error, unejected: false]
      config :grpc_lb, log: false

  A value that is none of that counts as not given.

  Everything has the metadata `application: :grpc_lb` and `domain: [:grpc_lb]`. Of a balancer there is
  `:name` (see `GrpcLb.new/3`), `:number` (see `GrpcLb.all/0`; a reference would keep the balancer as long
  as the message is kept), `:backend` (the id as text, cut where it is long) and, where it is ejected,
  `:rule`. Of a connection there is `:name`, `:target`, `:backend` and `:reason`. Of a handler that was
  ended there is `:event`.

  Of one balancer #{@of_one} messages of a kind are logged in #{div(@window, 1_000)} seconds, and #{@of_all} of all balancers. When these are
  over one message for each kind says how many more there were, with that as `:left_out`, and with `:name`
  and `:number` if all were of one balancer. `GrpcLb.Telemetry` has all of them. What a connection logs is
  not limited: it is one message when something changes. What cannot be shown, since an implementation of
  `Inspect` throws, counts as left out.

  Logged with Erlang's `:logger`, on which Elixir's stands.
  """

  alias GrpcLb.Text

  @typedoc "What is logged."
  @type kind ::
          unquote(@kinds |> Keyword.keys() |> Enum.reverse() |> Enum.reduce(&{:|, [], [&1, &2]}))

  @typedoc "How much was logged in this window, and was not."
  @opaque window :: %{
            logged: %{optional({kind(), number :: pos_integer()}) => pos_integer()},
            left_out: %{optional(kind()) => {pos_integer(), whose :: map() | :many}}
          }

  @doc """
  The level at which something is logged now, or `false`.

      iex> GrpcLb.Log.level(:ejected)
      :warning
  """
  @spec level(kind()) :: :logger.level() | false
  def level(kind) when is_map_key(@defaults, kind) do
    default = @defaults[kind]

    case Application.get_env(:grpc_lb, :log, []) do
      false -> false
      levels -> levels |> find(kind) |> valid(default)
    end
  end

  def level(other) do
    raise ArgumentError,
          "kind must be #{GrpcLb.Options.one_of(Keyword.keys(@kinds))}, got: #{Text.show(other)}"
  end

  # A setting that is malformed must not end who logs: it may be anything.
  defp find([{kind, level} | _rest], kind), do: level
  defp find([_other | rest], kind), do: find(rest, kind)
  defp find(_end, _kind), do: nil

  defp valid(level, _default) when level == false or level in @levels, do: level
  defp valid(_other, default), do: default

  @doc false
  # `module` says it, whose level can be set, too: with `Logger.put_module_level/2`.
  @spec log(kind(), String.t(), map(), module()) :: :ok
  def log(kind, text, metadata, module \\ __MODULE__) do
    level = level(kind)

    if level && :logger.allow(level, module) do
      mine = %{application: :grpc_lb, domain: [:grpc_lb], mfa: {module, :log, 4}}
      :logger.log(level, text, Map.merge(metadata, mine))
    end

    :ok
  end

  @doc false
  # For how long a window is open, in milliseconds.
  @spec window() :: pos_integer()
  def window, do: @window

  @doc false
  @spec open() :: window()
  def open, do: %{logged: %{}, left_out: %{}}

  @doc false
  # What `GrpcLb.Native.events/0` gives, unless there was too much in this window.
  @spec event(window(), GrpcLb.Native.event()) :: window()
  def event(window, {about, event, fields}) do
    case kind(event) do
      nil -> window
      kind -> if level(kind), do: logged(window, kind, about, fields), else: window
    end
  end

  defp logged(window, kind, about, fields) do
    # The window has numbers: with the reference it would keep the balancer.
    whose = Map.take(about, [:name, :number])
    who = {kind, about.number}

    if Map.get(window.logged, who, 0) < @of_one and all(window) < @of_all do
      try do
        text = "#{balancer(whose)}: #{say(kind, fields)}"
        log(kind, text, Map.merge(whose, metadata(fields)))
        %{window | logged: Map.update(window.logged, who, 1, &(&1 + 1))}
      catch
        # Others have written what shows names and ids.
        _class, _reason -> leave_out(window, kind, whose)
      end
    else
      leave_out(window, kind, whose)
    end
  end

  defp all(window), do: window.logged |> Map.values() |> Enum.sum()

  # Of many it does not say of whom, so that a window does not grow with what is left out.
  defp leave_out(window, kind, %{number: number} = whose) do
    left_out =
      Map.update(window.left_out, kind, {1, whose}, fn
        {count, %{number: ^number}} -> {count + 1, whose}
        {count, _others} -> {count + 1, :many}
      end)

    %{window | left_out: left_out}
  end

  @doc false
  # Says what was left out.
  @spec close(window()) :: :ok
  def close(window) do
    for {kind, {count, whose}} <- window.left_out do
      text = "#{count} more of #{inspect(kind)} were not logged"

      case whose do
        :many -> log(kind, "balancers: #{text}", %{left_out: count})
        one -> log(kind, "balancer #{one.number}: #{text}", Map.put(one, :left_out, count))
      end
    end

    :ok
  end

  defp balancer(%{name: nil, number: number}), do: "balancer #{number}"
  defp balancer(%{name: name}), do: "balancer #{Text.show(name)}"

  # Other events are no reason to look at a log.
  defp kind(event)
       when event in [:ejected, :unejected, :panic_entered, :panic_left, :overloaded],
       do: event

  defp kind(_event), do: nil

  defp metadata(%{id: id} = fields),
    do: Map.merge(%{backend: Text.show(id)}, Map.take(fields, [:rule]))

  defp metadata(_of_all), do: %{}

  defp say(:ejected, %{id: id, duration: duration} = fields) do
    lasts = "for #{Float.round(duration / 1.0e9, 1)} s at least"
    "backend #{Text.show(id)} is ejected #{lasts}: #{why(fields)}"
  end

  defp say(:unejected, %{id: id}), do: "backend #{Text.show(id)} is let back in"

  defp say(:panic_entered, fields),
    do: "#{healthy(fields)}: those that are not are picked, too"

  defp say(:panic_left, fields), do: "#{healthy(fields)}: no others are picked"
  defp say(:overloaded, %{count: count}), do: "#{count} checkouts found no room under its limits"

  defp why(%{rule: :success_rate} = it) do
    rate = it.successes / max(it.successes + it.failures, 1)
    "a success rate of #{percent(rate)}, below #{percent(it.limit)}"
  end

  defp why(%{rule: :failure_percentage} = it),
    do: "#{it.failures} of #{it.successes + it.failures} calls failed, the limit is #{it.limit} %"

  defp why(%{rule: :consecutive_failures, failures: failures}),
    do: "#{failures} calls in a row failed"

  defp why(%{rule: :consecutive_transport_failures, failures: failures}),
    do: "#{failures} calls in a row did not reach it"

  defp percent(part), do: "#{Float.round(100.0 * part, 1)} %"

  defp healthy(%{priority: nil} = it), do: "#{it.healthy} of #{it.backends} backends are healthy"
  defp healthy(it), do: "priority #{it.priority}: #{healthy(%{it | priority: nil})}"
end
