defmodule GrpcLb.Log do
  # In the order of the documentation.
  @kinds [
    ejected: {:warning, "a backend is ejected; says which detection found what"},
    unejected: {:notice, "it is let back in"},
    panic_entered: {:warning, "so few backends are healthy that others are picked, too"},
    panic_left: {:notice, "enough are again"},
    overloaded: {:warning, "checkouts find no room under a limit; says how many"},
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
  `:name` (see `GrpcLb.new/3`), `:balancer` (its reference), `:backend` (the id as text, cut where it is
  long) and, where it is ejected, `:rule`. Of a connection there is `:name`, `:target`, `:backend` and
  `:reason`.

  Of one balancer #{@of_one} messages of a kind are logged in #{div(@window, 1_000)} seconds, and #{@of_all} of all balancers; how many
  more there were is logged when these are over. `GrpcLb.Telemetry` has all of them. What a connection
  logs is not limited: it is one message when something changes.

  Logged with Erlang's `:logger`, on which Elixir's stands.
  """

  alias GrpcLb.Text

  @typedoc "What is logged."
  @type kind ::
          unquote(@kinds |> Keyword.keys() |> Enum.reverse() |> Enum.reduce(&{:|, [], [&1, &2]}))

  @typedoc "How much was logged in this window, and was not."
  @opaque window :: %{
            optional({kind(), balancer :: String.t()} | :all) =>
              {logged :: pos_integer(), left_out}
          }
  @typep left_out :: non_neg_integer()

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
      # A setting that is malformed must not end who logs.
      [{_, _} | _] = levels -> levels |> List.keyfind(kind, 0, {kind, default}) |> valid(default)
      _default -> default
    end
  end

  def level(other) do
    raise ArgumentError,
          "kind must be #{GrpcLb.Options.one_of(Keyword.keys(@kinds))}, got: #{Text.show(other)}"
  end

  defp valid({_kind, level}, _default) when level == false or level in @levels, do: level
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
  def open, do: %{}

  @doc false
  # What `GrpcLb.Native.events/0` gives, unless there was too much in this window.
  @spec event(window(), GrpcLb.Native.event()) :: window()
  def event(window, {balancer, name, event, fields}) do
    with {kind, said} <- say(event, fields), true <- level(kind) != false do
      whose = balancer(name, balancer)
      # By text: a window that held the reference would keep the balancer.
      who = {kind, whose}

      if count(window, who) < @of_one and count(window, :all) < @of_all do
        about = Map.merge(%{name: name, balancer: balancer}, metadata(fields))
        log(kind, "#{whose}: #{said}", about)
        window |> add(who, {1, 0}) |> add(:all, {1, 0})
      else
        add(window, who, {0, 1})
      end
    else
      _not_logged -> window
    end
  end

  defp count(window, who), do: window |> Map.get(who, {0, 0}) |> elem(0)

  defp add(window, who, {logged, left_out}),
    do: Map.update(window, who, {logged, left_out}, fn {l, o} -> {l + logged, o + left_out} end)

  @doc false
  # Says what was left out.
  @spec close(window()) :: :ok
  def close(window) do
    for {{kind, whose}, {_logged, left_out}} when left_out > 0 <- window,
        do: log(kind, "#{whose}: #{left_out} more of #{inspect(kind)} were not logged", %{})

    :ok
  end

  defp balancer(nil, balancer), do: "balancer #{inspect(balancer)}"
  defp balancer(name, _balancer), do: "balancer #{Text.show(name)}"

  defp metadata(%{id: id} = fields),
    do: Map.merge(%{backend: Text.show(id)}, Map.take(fields, [:rule]))

  defp metadata(_of_all), do: %{}

  defp say(:ejected, %{id: id, duration: duration} = fields) do
    lasts = "for #{Float.round(duration / 1.0e9, 1)} s at least"
    {:ejected, "backend #{Text.show(id)} is ejected #{lasts}: #{why(fields)}"}
  end

  defp say(:unejected, %{id: id}), do: {:unejected, "backend #{Text.show(id)} is let back in"}

  defp say(:panic_entered, fields),
    do: {:panic_entered, "#{healthy(fields)}: those that are not are picked, too"}

  defp say(:panic_left, fields), do: {:panic_left, "#{healthy(fields)}: no others are picked"}

  defp say(:overloaded, %{count: count}),
    do: {:overloaded, "#{count} checkouts found no room under its limits"}

  defp say(_event, _fields), do: nil

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
