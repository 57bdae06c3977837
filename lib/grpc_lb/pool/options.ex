defmodule GrpcLb.Pool.Options do
  @moduledoc false

  alias GrpcLb.{Policy, Settings}

  # In the order of the documentation, which is made from this.
  @options [
    name: [
      required: true,
      expected: "an atom other than nil, true, false and :undefined",
      doc: "the atom by which callers and members know the pool. Required."
    ],
    policy: [
      default: :round_robin,
      expected: "a policy",
      doc: """
      how a member is chosen, see `GrpcLb.Policy`. Default: `:round_robin`. Load reports come with
      calls, so `reports: :out_of_band` is refused.
      """
    ],
    size: [
      default: 0,
      expected: "a non-negative integer",
      doc: """
      how many workers of its own the pool starts. Default: 0, and members join from elsewhere.
      """
    ],
    worker: [
      default: nil,
      expected: "a child spec: a module, {module, arg} or a map",
      doc: """
      the child spec of a worker: a module, `{module, arg}` or a map. Required with a `:size`. The
      workers are children of one supervisor, `:one_for_one`, each with an id of its own:
      `{id of the spec, 1}` to `{id of the spec, size}`.
      """
    ],
    max_restarts: [
      default: 3,
      expected: "a non-negative integer",
      doc: """
      how many restarts of workers, of all of them together, are let pass in `:max_seconds`. With
      one more the workers' supervisor gives up and is started anew by the pool's, which gives up
      itself after three of those in five seconds. Default: 3, as in `Supervisor`.
      """
    ],
    max_seconds: [
      default: 5,
      expected: "a positive integer",
      doc: "Default: 5, as in `Supervisor`."
    ],
    scope: [
      default: :node,
      expected: ":node or :cluster",
      doc: """
      whose members are picked: those of this node, or with `:cluster` those of the pools of this
      name on all connected nodes. Default: `:node`.
      """
    ],
    prefer: [
      default: nil,
      expected: ":local or nil",
      doc: """
      `:local` picks members of this node while there are any, then those of other nodes. Only
      with `scope: :cluster`. Default: `nil`, all members are alike.
      """
    ],
    local_share: [
      default: nil,
      expected: "a number from 0 to 1",
      doc: """
      which part of the picks goes to members of this node, 0 to 1, while there are members both
      here and elsewhere; exact over any run of picks, give or take one. `prefer: :local` alone is
      a share of 1. All picks are numbered for that, and however the policy counts its turns, callers
      on many schedulers wait for this one number: between 0 and 1 `cursor: :per_scheduler` gains
      nothing. Only with `scope: :cluster`. Default: none. With a share, or `prefer: :local`, members
      here and members elsewhere have a balancer each. What counts calls or compares members does so
      within one of them, and a call for which neither limit nor member is free in one goes to the other.
      """
    ]
  ]

  # An atom has 255 characters at most, see the names in `GrpcLb.Pool.Entry`.
  @max_cluster_name 255 - String.length("grpc_lb_pool_scope:")

  @enforce_keys [:name]
  defstruct [:child_spec, :settings | Keyword.keys(@options)]

  @type t :: %__MODULE__{
          name: atom(),
          policy: Policy.t(),
          settings: keyword(),
          size: non_neg_integer(),
          worker: Supervisor.child_spec() | {module(), term()} | module() | nil,
          child_spec: Supervisor.child_spec() | nil,
          max_restarts: non_neg_integer(),
          max_seconds: pos_integer(),
          scope: :node | :cluster,
          prefer: :local | nil,
          local_share: number() | nil
        }

  @doc "The options as a Markdown list."
  @spec docs() :: String.t()
  def docs do
    Enum.map_join(@options, "\n", fn {option, spec} ->
      "  * `#{inspect(option)}` - " <>
        (spec[:doc] |> String.trim() |> String.replace("\n", "\n    "))
    end) <> "\n" <> Settings.docs_of_users()
  end

  @doc "Validates the options of a pool. Raises `ArgumentError` that names what is wrong."
  @spec validate!(term()) :: t()
  def validate!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "options of a pool must be a keyword list, got: #{inspect(opts)}"
    end

    for {option, spec} <- @options, spec[:required], not Keyword.has_key?(opts, option) do
      raise ArgumentError,
            "option #{inspect(option)} of a pool is required, got: #{inspect(opts)}"
    end

    {settings, opts} = Keyword.split(opts, Settings.of_users())
    defaults = for {option, spec} <- @options, do: {option, spec[:default]}

    # Of an option that is given twice the first one counts, as everywhere with keyword lists.
    opts
    |> Enum.reverse()
    |> Enum.reduce(struct!(__MODULE__, [{:settings, settings} | defaults]), fn {option, setting},
                                                                               options ->
      Map.put(options, known!(option), setting!(option, setting))
    end)
    |> settings!()
    |> worker!()
    |> preference!()
    |> cluster_name!()
  end

  defp known!(option) do
    unless Keyword.has_key?(@options, option) do
      raise ArgumentError,
            "unknown option #{inspect(option)} of a pool, expected " <>
              GrpcLb.Options.one_of(Keyword.keys(@options) ++ Settings.of_users())
    end

    option
  end

  # See settings!/1.
  defp setting!(:policy, policy), do: policy

  defp setting!(:scope, :cluster) do
    # What is not loaded yet exports nothing.
    unless Code.ensure_loaded?(:pg) and function_exported?(:pg, :monitor_scope, 1) do
      raise ArgumentError,
            "option :scope of a pool must be :node before OTP 25.1, got: :cluster"
    end

    :cluster
  end

  defp setting!(option, setting) do
    unless valid?(option, setting) do
      raise ArgumentError,
            "option #{inspect(option)} of a pool must be #{@options[option][:expected]}, " <>
              "got: #{inspect(setting)}"
    end

    setting
  end

  defp valid?(:name, name), do: is_atom(name) and name not in [nil, true, false, :undefined]
  defp valid?(:size, size), do: is_integer(size) and size >= 0
  # What a child spec is only `Supervisor` knows, see worker!/1.
  defp valid?(:worker, _worker), do: true
  defp valid?(:max_restarts, n), do: is_integer(n) and n >= 0
  defp valid?(:max_seconds, n), do: is_integer(n) and n > 0
  defp valid?(:scope, scope), do: scope in [:node, :cluster]
  defp valid?(:prefer, prefer), do: prefer in [nil, :local]
  defp valid?(:local_share, nil), do: true
  defp valid?(:local_share, share), do: is_number(share) and share >= 0 and share <= 1

  # They raise by themselves, and know more. What they make is made again with the balancer.
  defp settings!(%__MODULE__{policy: policy, settings: settings} = options) do
    native = Policy.to_native(policy)
    per_call!(native)
    Settings.to_native(settings, native)
    options
  end

  # Nothing in a pool takes a report apart from a call: weights would stay unknown for good.
  defp per_call!({:weighted_round_robin, _cursor, {_, _, _, _, _, :out_of_band}}) do
    raise ArgumentError,
          "option :reports of :weighted_round_robin must be :per_call in a pool, which takes " <>
            "reports with run/3 and complete/3 only, got: :out_of_band"
  end

  defp per_call!(_native), do: :ok

  defp worker!(%__MODULE__{worker: nil, size: 0} = options), do: options

  defp worker!(%__MODULE__{worker: nil, size: size}) do
    raise ArgumentError, "option :worker of a pool is required with a :size, got: size: #{size}"
  end

  defp worker!(%__MODULE__{worker: worker} = options) do
    spec = Supervisor.child_spec(worker, [])

    case :supervisor.check_childspecs([spec]) do
      :ok -> %{options | child_spec: spec}
      {:error, reason} -> not_a_worker!(worker, inspect(reason))
    end
  rescue
    # A module's own child_spec/1 can raise anything.
    error ->
      not_a_worker!(worker, Exception.message(error))
  end

  defp not_a_worker!(worker, why) do
    raise ArgumentError,
          "option :worker of a pool must be #{@options[:worker][:expected]}, " <>
            "got: #{inspect(worker)} (#{why})"
  end

  # From here on a preference is a share, or none.
  defp preference!(%__MODULE__{prefer: nil, local_share: nil} = options), do: options

  defp preference!(%__MODULE__{scope: :node}) do
    raise ArgumentError,
          "options :prefer and :local_share of a pool need scope: :cluster, " <>
            "on one node all members are local"
  end

  defp preference!(%__MODULE__{local_share: nil} = options), do: %{options | local_share: 1}
  defp preference!(options), do: options

  # The scope and the feed are registered under names that are made of it.
  defp cluster_name!(%__MODULE__{scope: :cluster, name: name} = options) do
    if name |> Atom.to_string() |> String.length() > @max_cluster_name do
      raise ArgumentError,
            "option :name of a pool with scope: :cluster must be an atom of at most " <>
              "#{@max_cluster_name} characters, got: #{inspect(name)}"
    end

    options
  end

  defp cluster_name!(options), do: options
end
