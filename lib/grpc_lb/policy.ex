defmodule GrpcLb.Policy do
  # In the order of the documentation.
  @options [
    round_robin: [
      cursor: [
        default: :shared,
        allowed: [:shared, :per_scheduler],
        doc: """
        `:shared`: all callers share one rotation; over any run of picks without a reconcile the
        counts of the backends differ by at most 1. `:per_scheduler`: each scheduler has its own,
        and the counts differ by at most the number of schedulers that picked; picks on different
        schedulers then share nothing that is written, and scale with the cores.
        """
      ],
      start: [
        default: :first,
        allowed: [:first, :random],
        doc: """
        where the rotation starts. `:random` keeps many clients with one list from starting in
        step, as gRPC does.
        """
      ],
      on_reconcile: [
        default: :keep,
        allowed: [:keep, :reset],
        doc: """
        what a new list does to the rotation: it goes on where it is, as Envoy's, or starts
        again, as gRPC's.
        """
      ]
    ],
    pick_first: [
      shuffle: [
        default: false,
        allowed: [false, true],
        doc: """
        whether a random order takes the place of the list's (gRFC A62), so that many clients
        with one list do not all choose the same backend. A backend draws its place when it is
        first listed and keeps it.
        """
      ]
    ],
    random: []
  ]

  @names Keyword.keys(@options)

  @intro %{
    pick_first: "every pick takes the first backend in the list that is ready.",
    round_robin: "one after the other, in the order of the list.",
    random: "any backend, each as likely as the others."
  }

  @moduledoc """
  The policies and their options.

  A policy is written as its name, or as `{name, opts}`.

  #{for name <- @names do
    options = for {option, spec} <- @options[name] do
      doc = spec[:doc] |> String.trim() |> String.replace("\n", "\n    ")
      "  * `#{inspect(option)}` (default `#{inspect(spec[:default])}`) - #{doc}\n"
    end
    "## `#{inspect(name)}`\n\n#{String.capitalize(@intro[name])}\n\n#{options}\n"
  end}
  """

  @typedoc "A policy as it is written."
  @type t :: :round_robin | :pick_first | :random | {atom(), keyword()}

  @doc """
  Validates a policy and spells out all its options, as `GrpcLb.Native` takes it.

  Raises `ArgumentError` that names what is wrong and what is allowed.

      iex> GrpcLb.Policy.to_native(:round_robin)
      {:round_robin, :shared, :first, :keep}

      iex> GrpcLb.Policy.to_native({:round_robin, cursor: :per_scheduler})
      {:round_robin, :per_scheduler, :first, :keep}

      iex> GrpcLb.Policy.to_native({:round_robin, cursor: :mine})
      ** (ArgumentError) option :cursor of :round_robin must be :shared or :per_scheduler, got: :mine
  """
  @spec to_native(t()) :: GrpcLb.Native.policy()
  def to_native({name, opts}) when name in @names do
    settings = settings!(name, opts)

    case name do
      :random -> :random
      :pick_first -> {:pick_first, settings.shuffle}
      :round_robin -> {:round_robin, settings.cursor, settings.start, settings.on_reconcile}
    end
  end

  def to_native(name) when name in @names, do: to_native({name, []})

  def to_native(other) do
    raise ArgumentError,
          "unknown policy #{inspect(other)}, expected #{one_of(@names)}, " <>
            "or one of them with options: {name, opts}"
  end

  defp settings!(name, opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError,
            "options of #{inspect(name)} must be a keyword list, got: #{inspect(opts)}"
    end

    specs = @options[name]
    defaults = Map.new(specs, fn {option, spec} -> {option, spec[:default]} end)

    Enum.reduce(opts, defaults, fn {option, setting}, settings ->
      Map.put(settings, option, setting!(name, option, setting, specs[option]))
    end)
  end

  defp setting!(name, option, _setting, nil) do
    allowed =
      case Keyword.keys(@options[name]) do
        [] -> "it has none"
        options -> "expected #{one_of(options)}"
      end

    raise ArgumentError, "unknown option #{inspect(option)} of #{inspect(name)}, #{allowed}"
  end

  defp setting!(name, option, setting, spec) do
    if setting in spec[:allowed] do
      setting
    else
      raise ArgumentError,
            "option #{inspect(option)} of #{inspect(name)} must be #{one_of(spec[:allowed])}, " <>
              "got: #{inspect(setting)}"
    end
  end

  defp one_of(terms), do: Enum.map_join(terms, " or ", &inspect/1)
end
