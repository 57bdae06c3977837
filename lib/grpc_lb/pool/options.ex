defmodule GrpcLb.Pool.Options do
  @moduledoc false

  alias GrpcLb.{Backend, Options, Policy, Secret, Settings, Text}

  @member_options [
    value: [type: :any, default: nil, doc: "what picks return, any term. By default the pid."],
    weight:
      Keyword.put(
        Backend.options()[:weight],
        :doc,
        "its share beside the others, see `GrpcLb.Backend`."
      )
  ]

  @remember [
    type: :any,
    default: 60_000,
    doc: """
    for how many milliseconds what is known of a member that leaves is kept for its pid: should it join
    again, it has its ejection, its failures in a row, its latency and its counts. See `GrpcLb.new/3`
    for the bounds. 0 forgets all at once.
    """
  ]

  # An atom has 255 characters at most, see the names in `GrpcLb.Pool.Entry`.
  @max_cluster_name 255 - String.length("grpc_lb_pool_scope:")

  @enforce_keys [:name]
  defstruct [
    :name,
    :policy,
    :settings,
    :size,
    :workers,
    :max_restarts,
    :max_seconds,
    :drain_timeout,
    :scope,
    :local_share
  ]

  @typedoc """
  Options that were validated. `settings` are those of the balancer, beside its policy, and a
  preference is a share.
  """
  @type t :: %__MODULE__{
          name: atom(),
          policy: Policy.t(),
          settings: keyword(),
          size: non_neg_integer(),
          workers: [Supervisor.child_spec()],
          max_restarts: non_neg_integer(),
          max_seconds: pos_integer(),
          drain_timeout: timeout(),
          scope: :node | :cluster,
          local_share: number() | nil
        }

  @doc "The options as a Markdown list."
  @spec docs() :: String.t()
  def docs, do: Options.docs(specs())

  # In the order of the documentation.
  defp specs do
    [
      name: [
        type: {:reader, "an atom other than nil, true, false and :undefined", &read_name/1},
        doc: "the atom by which callers and members know the pool."
      ],
      policy: [
        type: :any,
        default: :round_robin,
        doc: """
        how a member is chosen, see `GrpcLb.Policy`. Load reports come with calls, so
        `reports: :out_of_band` is refused.
        """
      ],
      size: [
        type: {:or, {:integer, from: 0}, nil},
        default: nil,
        doc: """
        how many workers the pool starts by the one spec of `:worker`, and required with it. By default
        none: members join from elsewhere.
        """
      ],
      worker: [
        type:
          {:or, {:reader, "a child spec: a module, {module, arg} or a map", &read_worker/1}, nil},
        default: nil,
        secret: true,
        doc: """
        the child spec of a worker: a module, `{module, arg}` or a map. Required with a `:size`. The
        workers are children of one supervisor, `:one_for_one`, each with an id of its own:
        `{id of the spec, 1}` to `{id of the spec, size}`.
        """
      ],
      workers: [
        type: {:or, {:reader, "a list of child specs", &read_workers/1}, nil},
        default: nil,
        secret: true,
        doc: """
        a child spec for each worker, where they differ: a client for each server. In the place of
        `:worker` and `:size`. Their ids are `{id of the spec, place in the list}`, counted from 1.
        """
      ],
      max_restarts: [
        type: {:integer, from: 0},
        default: 3,
        doc: """
        how many restarts of workers, of all of them together, are let pass in `:max_seconds`. With
        one more the workers' supervisor gives up and is started anew by the pool's, which gives up
        itself after three of those in five seconds. The default is that of `Supervisor`.
        """
      ],
      max_seconds: [
        type: {:integer, from: 1},
        default: 5,
        doc: "the time for `:max_restarts`. The default is that of `Supervisor`."
      ],
      drain_timeout: [
        type: {:or, {:ms, 0}, :infinity},
        default: 5_000,
        doc: """
        for how many milliseconds at most a pool that stops waits for the calls in flight, before it ends
        its workers: those that were made with `call/3`, `run/3` or `checkout/1` on this node. It goes on as
        soon as the last has ended, and at once where there is none.
        """
      ],
      scope: [
        type: {:one_of, [:node, :cluster]},
        default: :node,
        doc: """
        whose members are picked: those of this node, or with `:cluster` those of the pools of this
        name on all connected nodes.
        """
      ],
      prefer: [
        type: {:or, {:one_of, [:local]}, nil},
        default: nil,
        only_with: {:scope, :cluster},
        doc: """
        `:local` picks members of this node while one of them is healthy, then those of other nodes, which
        are of the next priority: with an `:overprovisioning_factor` they help out before that. By default
        all members are alike.
        """
      ],
      local_share: [
        type: {:or, {:number, from: 0, to: 1}, nil},
        default: nil,
        only_with: {:scope, :cluster},
        doc: """
        which part of the picks goes to members of this node, 0 to 1, while there are members both
        here and elsewhere; exact over any run of picks, give or take one. `prefer: :local` alone is
        a share of 1. All picks are numbered for that, and however the policy counts its turns, callers
        on many schedulers wait for this one number: between 0 and 1 `cursor: :per_scheduler` gains
        nothing. By default none. Members here and members elsewhere have a rotation each; while none of
        one kind is healthy the other takes all picks, and a call for which no member of one kind has
        room goes to the other. Health, panic and limits are those of the pool as a whole.
        """
      ]
    ] ++ Keyword.put(Settings.balancer_options(), :remember, @remember)
  end

  @doc "Validates the options of a pool. Raises `ArgumentError` that names what is wrong."
  @spec validate!(term()) :: t()
  def validate!(opts) do
    options = Options.validate!(opts, specs(), "a pool")

    settings =
      opts
      |> Keyword.take(Keyword.keys(Settings.balancer_options()))
      |> Keyword.put_new(:remember, options.remember)

    # To raise early. The balancer is made later, by another process.
    Settings.to_native(settings, Policy.to_native(options.policy))
    per_call!(options.policy)
    scope!(options)
    workers!(options)

    workers = workers(options)

    struct(
      __MODULE__,
      Map.merge(options, %{
        policy: policy(options),
        settings: settings,
        size: length(workers),
        workers: workers,
        local_share: opts[:local_share] || (options.prefer && 1)
      })
    )
  end

  defp policy(%{scope: :cluster, policy: policy}), do: Policy.of_many(policy)
  defp policy(%{policy: policy}), do: policy

  @doc "Refuses changes that a balancer could be given, and a pool's cannot."
  @spec changes!(term()) :: :ok
  def changes!(opts) do
    if Keyword.keyword?(opts) do
      per_call!(opts[:policy])
      weights!(opts)
    end

    :ok
  end

  @doc "The options of a member as a Markdown list."
  @spec member_docs() :: String.t()
  def member_docs, do: Options.docs(@member_options)

  @doc "Validates the options of a member. Raises `ArgumentError` that names what is wrong."
  @spec member!(pid(), term()) :: {pid(), value :: term(), weight :: non_neg_integer()}
  def member!(pid, opts) do
    specs = put_in(@member_options[:value][:default], pid)
    %{value: value, weight: weight} = Options.validate!(opts, specs, "a member")
    {pid, value, weight}
  end

  defp read_name(name) when is_atom(name) and name not in [nil, true, false, :undefined],
    do: {:ok, name}

  defp read_name(_other), do: :error

  defp read_worker(worker) do
    if is_atom(worker) or is_map(worker) or match?({module, _arg} when is_atom(module), worker),
      do: read_child_spec(worker),
      else: :error
  end

  defp read_workers(workers) when is_list(workers) do
    workers
    |> Enum.with_index(1)
    |> Enum.reduce_while({:ok, []}, fn {worker, place}, {:ok, read} ->
      case read_worker(worker) do
        {:ok, spec} -> {:cont, {:ok, [spec | read]}}
        :error -> {:halt, {:error, "worker #{place} is no child spec"}}
        {:error, why} -> {:halt, {:error, "worker #{place}: #{why}"}}
      end
    end)
    |> case do
      {:ok, read} -> {:ok, Enum.reverse(read)}
      refused -> refused
    end
  rescue
    # An improper list.
    _error in [ArgumentError, FunctionClauseError] -> :error
  end

  defp read_workers(_other), do: :error

  defp read_child_spec(worker) do
    spec = Supervisor.child_spec(worker, [])

    case :supervisor.check_childspecs([spec]) do
      :ok -> {:ok, hidden(spec)}
      # Beside what is wrong with it, the reason can have the worker's argument.
      {:error, reason} when is_tuple(reason) -> {:error, Text.show(elem(reason, 0))}
      {:error, reason} -> {:error, Text.show(reason)}
    end
  rescue
    # A module's own child_spec/1 can raise anything.
    error -> {:error, Exception.message(error)}
  end

  # The worker's arguments may be secret, and supervisors report their children.
  defp hidden(%{start: {module, function, arguments}} = spec) do
    %{spec | start: {Secret, :start, [module, function, Secret.hide(arguments)]}}
    |> Map.put_new(:modules, [module])
  end

  # Nothing in a pool takes a report apart from a call: weights would stay unknown for good.
  defp per_call!({:weighted_round_robin, opts}) do
    if opts[:reports] == :out_of_band do
      raise ArgumentError,
            "option :reports of :weighted_round_robin must be :per_call in a pool, which takes " <>
              "reports with run/3 and complete/3 only, got: :out_of_band"
    end
  end

  defp per_call!(_policy), do: :ok

  defp weights!(opts) do
    if Keyword.has_key?(opts, :locality_weights) do
      raise ArgumentError,
            "option :locality_weights is not for a pool, whose :local_share is set when it starts"
    end
  end

  defp scope!(%{scope: :node}), do: :ok

  defp scope!(%{scope: :cluster, name: name}) do
    # What is not loaded yet exports nothing.
    unless Code.ensure_loaded?(:pg) and function_exported?(:pg, :monitor_scope, 1) do
      raise ArgumentError,
            "option :scope of a pool must be :node before OTP 25.1, got: :cluster"
    end

    # The scope and the feed are registered under names that are made of it.
    if name |> Atom.to_string() |> String.length() > @max_cluster_name do
      raise ArgumentError,
            "option :name of a pool with scope: :cluster must be an atom of at most " <>
              "#{@max_cluster_name} characters, got: #{inspect(name)}"
    end
  end

  defp workers!(%{workers: nil, worker: nil, size: size}) when size not in [nil, 0] do
    raise ArgumentError,
          "option :worker of a pool is required with a :size, got: size: #{Text.show(size)}"
  end

  # It would start empty, and stay so.
  defp workers!(%{workers: nil, worker: worker, size: nil}) when worker != nil do
    raise ArgumentError,
          "option :size of a pool is required with a :worker: how many of it to start"
  end

  defp workers!(%{workers: workers} = options) when workers != nil do
    with option when option != nil <- Enum.find([:worker, :size], &(options[&1] != nil)) do
      raise ArgumentError,
            "option :workers of a pool takes the place of :worker and :size, got it with #{inspect(option)}"
    end
  end

  defp workers!(_options), do: :ok

  defp workers(%{workers: nil, worker: worker, size: size}),
    do: for(place <- 1..(size || 0)//1, do: placed(worker, place))

  defp workers(%{workers: workers}) do
    for {worker, place} <- Enum.with_index(workers, 1), do: placed(worker, place)
  end

  # Each with an id of its own.
  defp placed(%{id: id} = worker, place), do: %{worker | id: {id, place}}
end
