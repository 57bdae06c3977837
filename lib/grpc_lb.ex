defmodule GrpcLb do
  @external_resource "README.md"
  @moduledoc "README.md"
             |> File.read!()
             |> String.split("<!-- MDOC !-->")
             |> Enum.fetch!(1)

  alias GrpcLb.{Backend, Native, Policy}

  @typedoc """
  A balancer. A bare reference: keep it in a struct, in a process's state, in an ETS table. It
  lives as long as it is held somewhere, and means nothing on other nodes.
  """
  @type balancer :: Native.balancer()

  @typedoc """
  What a change of the list did: how many ids were listed anew, are listed no longer, and were and
  still are.
  """
  @type changes :: %{
          added: non_neg_integer(),
          removed: non_neg_integer(),
          kept: non_neg_integer()
        }

  @typedoc "A balancer as it is at one moment, see `info/1`."
  @type info :: %{
          policy: atom(),
          generation: pos_integer(),
          closed: boolean(),
          backends: [
            %{
              id: term(),
              value: term(),
              state: :ready | :down,
              owner: pid() | nil,
              weight: pos_integer(),
              picks: non_neg_integer() | nil
            }
          ]
        }

  @doc """
  Makes a balancer.

  `policy` is one of those in `GrpcLb.Policy`, with or without options. `backends` is a list of
  any length, each in one of the forms of `GrpcLb.Backend`.

  ## Options

    * `:owner` - a pid of this node. When it dies the balancer closes, see `close/1`. Without an
      owner a balancer lives as long as its reference is held. One that holds its own reference,
      in the value of a backend, lives until it is closed.
    * `:on_owner_death` - what becomes of a backend whose own owner dies: `:keep`, the default, and
      it stays listed as `:down`; or `:remove`, and it is listed no longer. With `:remove` a
      backend that is given with a dead owner is not listed either.

  Raises `ArgumentError` when an argument is malformed or two backends have the same id.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, ["10.0.0.1", "10.0.0.2"])
      iex> GrpcLb.pick(lb)
      {:ok, "10.0.0.1"}

      iex> {:ok, lb} = GrpcLb.new({:pick_first, shuffle: true}, [{:a, 1}, {:b, 2}], owner: self())
      iex> {:ok, value} = GrpcLb.pick(lb)
      iex> value in [1, 2]
      true

      iex> GrpcLb.new(:fastest, [])
      ** (ArgumentError) unknown policy :fastest, expected :round_robin or :pick_first or :random, or one of them with options: {name, opts}
  """
  @spec new(Policy.t(), [Backend.form()], keyword()) :: {:ok, balancer()}
  def new(policy, backends, opts \\ []) do
    policy = Policy.to_native(policy)
    %{owner: owner, on_owner_death: on_owner_death} = options!(opts)
    Native.new(policy, Backend.to_native(backends), owner, on_owner_death)
  end

  @doc """
  Picks a backend and returns its value.

  Any number of processes may pick at the same time; none waits for another or for a reconcile.
  The cost does not depend on the number of backends.

    * `{:ok, value}`
    * `{:error, :no_backends}` - the list is empty, or no backend in it is ready
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> for _ <- 1..3, do: GrpcLb.pick(lb)
      [{:ok, :a}, {:ok, :b}, {:ok, :a}]

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [])
      iex> GrpcLb.pick(lb)
      {:error, :no_backends}

      iex> GrpcLb.pick(:oops)
      ** (ArgumentError) argument 1 is not a balancer: expected the reference that GrpcLb.new/3 returned on this node, got an atom
  """
  @spec pick(balancer()) :: {:ok, value :: term()} | {:error, :no_backends | :closed}
  defdelegate pick(balancer), to: Native

  @doc """
  As `pick/1`, for a call that has a key.

  A policy that hashes keeps calls of one key on one backend. None of the present policies does:
  they choose as without a key, as gRPC's do with the attributes of a request that they have no use
  for.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> for _ <- 1..3, do: GrpcLb.pick(lb, "user 7")
      [{:ok, :a}, {:ok, :b}, {:ok, :a}]
  """
  @spec pick(balancer(), key :: term()) ::
          {:ok, value :: term()} | {:error, :no_backends | :closed}
  def pick(balancer, _key), do: Native.pick(balancer)

  @doc """
  Replaces the list of backends.

  Every pick that starts after this returns sees the new list, and every pick sees one list whole:
  the old or the new. An id that was listed before keeps what was counted for it; its value, owner
  and weight become the new ones. A backend that stays as it was costs no copy.

    * `{:ok, %{added: a, removed: r, kept: k}}` - numbers of ids
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when an argument is malformed or two backends have the same id, and has
  changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b])
      iex> GrpcLb.reconcile(lb, [:b, :c, :d])
      {:ok, %{added: 2, removed: 1, kept: 1}}

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.reconcile(lb, [:b, {:b, :other}])
      ** (ArgumentError) backends 0 and 1 have the same id
  """
  @spec reconcile(balancer(), [Backend.form()]) :: {:ok, changes()} | {:error, :closed}
  def reconcile(balancer, backends) do
    Native.reconcile(balancer, Backend.to_native(backends))
  end

  @doc """
  Adds backends at the end of the list, and leaves the others as they are.

  An id that is listed already stays where it is and becomes what is given here, as in
  `reconcile/2`. The cost is about that of the backends that are added, also in a long list; but
  `:pick_first` looks the list through.

    * `{:ok, %{added: a, removed: r, kept: k}}` - numbers of ids; `r` is 0 unless an id that was
      listed came with a dead owner and `on_owner_death: :remove`
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` as `reconcile/2` does, and has changed nothing then.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.add(lb, [:b, {:c, 3}])
      {:ok, %{added: 2, removed: 0, kept: 1}}
      iex> GrpcLb.add(lb, [{:c, 4}])
      {:ok, %{added: 0, removed: 0, kept: 3}}
      iex> for _ <- 1..3, do: GrpcLb.pick(lb)
      [{:ok, :a}, {:ok, :b}, {:ok, 4}]
  """
  @spec add(balancer(), [Backend.form()]) :: {:ok, changes()} | {:error, :closed}
  def add(balancer, backends) do
    Native.add(balancer, Backend.to_native(backends))
  end

  @doc """
  Removes the backends with these ids, and leaves the others as they are.

  Ids that are not listed are passed over. The cost is about that of the backends that are removed,
  also in a long list; but `:pick_first` looks the list through. In exchange `:round_robin` goes on
  in an order that differs from the list's: the last of the rotation takes the place of the one
  that was removed, until the next `reconcile/2`. The same holds for a backend whose owner dies.

    * `{:ok, %{added: 0, removed: r, kept: k}}` - numbers of ids; `k` are listed after it
    * `{:error, :closed}` - the balancer is closed

  Raises `ArgumentError` when an argument is malformed.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a, :b, :c])
      iex> GrpcLb.remove(lb, [:a, :not_there])
      {:ok, %{added: 0, removed: 1, kept: 2}}
  """
  @spec remove(balancer(), [id :: term()]) :: {:ok, changes()} | {:error, :closed}
  defdelegate remove(balancer, ids), to: Native

  @doc """
  Describes the balancer and its backends as they are now.

    * `:policy` - the policy's name
    * `:generation` - how often the list that picks see was replaced; 1 after `new/3`
    * `:closed` - whether it was closed
    * `:backends` - a map for each backend, in the order of the list, with
      * `:id`, `:value`, `:weight` - as they were given
      * `:state` - `:ready`, or `:down` when its owner is dead: it stays listed, and is not picked,
        until it is removed or comes with an owner that lives
      * `:owner` - the pid whose death takes it out of the rotation; `nil` if there is none, and
        once it is dead
      * `:picks` - how often it was picked since its id was first listed. Known without a write
        at the pick where a policy keeps a cursor, which is `:round_robin`; `nil` elsewhere

  It takes the writer's lock and copies every backend: for people and tests, not for every call.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [a: 1])
      iex> GrpcLb.pick(lb)
      iex> GrpcLb.info(lb)
      %{
        policy: :round_robin,
        generation: 1,
        closed: false,
        backends: [%{id: :a, value: 1, state: :ready, owner: nil, weight: 1, picks: 1}]
      }
  """
  @spec info(balancer()) :: info()
  defdelegate info(balancer), to: Native

  @doc """
  Closes the balancer for good and lets go of its backends.

  Every pick that starts after this returns says `{:error, :closed}`. Closing again changes
  nothing. A balancer that nobody holds any more need not be closed.

  Raises `ArgumentError` when `balancer` is not a balancer of this node.

      iex> {:ok, lb} = GrpcLb.new(:round_robin, [:a])
      iex> GrpcLb.close(lb)
      :ok
      iex> GrpcLb.pick(lb)
      {:error, :closed}
      iex> GrpcLb.reconcile(lb, [:b])
      {:error, :closed}
  """
  @spec close(balancer()) :: :ok
  defdelegate close(balancer), to: Native

  defp options!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "options must be a keyword list, got: #{inspect(opts)}"
    end

    Enum.reduce(opts, %{owner: nil, on_owner_death: :keep}, fn {option, setting}, options ->
      Map.put(options, option, option!(option, setting))
    end)
  end

  defp option!(:owner, nil), do: nil
  defp option!(:owner, owner) when is_pid(owner) and node(owner) == node(), do: owner

  defp option!(:owner, owner) do
    raise ArgumentError, "option :owner must be a pid of this node, got: #{inspect(owner)}"
  end

  defp option!(:on_owner_death, setting) when setting in [:keep, :remove], do: setting

  defp option!(:on_owner_death, setting) do
    raise ArgumentError,
          "option :on_owner_death must be :keep or :remove, got: #{inspect(setting)}"
  end

  defp option!(option, _setting) do
    raise ArgumentError,
          "unknown option #{inspect(option)}, allowed are :owner and :on_owner_death"
  end
end
