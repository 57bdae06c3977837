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

  @typedoc "What a reconcile did, in numbers of backends."
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
    owner = owner!(opts)
    Native.new(policy, Backend.to_native(backends), owner)
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
  Describes the balancer and its backends as they are now.

    * `:policy` - the policy's name
    * `:generation` - how often the list that picks see was replaced; 1 after `new/3`
    * `:closed` - whether it was closed
    * `:backends` - a map for each backend, in the order of the list, with
      * `:id`, `:value`, `:weight` - as they were given
      * `:state` - `:ready`, or `:down` when its owner is dead: it stays listed, and is not picked,
        until a reconcile leaves it out or brings it with an owner that lives
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
        backends: [%{id: :a, value: 1, state: :ready, weight: 1, picks: 1}]
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

  defp owner!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "options must be a keyword list, got: #{inspect(opts)}"
    end

    Enum.reduce(opts, nil, fn
      {:owner, nil}, _owner ->
        nil

      {:owner, owner}, _owner when is_pid(owner) and node(owner) == node() ->
        owner

      {:owner, owner}, _owner ->
        raise ArgumentError,
              "option :owner must be a pid of this node, got: #{inspect(owner)}"

      {option, _setting}, _owner ->
        raise ArgumentError, "unknown option #{inspect(option)}, allowed is :owner"
    end)
  end
end
