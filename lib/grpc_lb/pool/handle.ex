defmodule GrpcLb.Pool.Handle do
  @moduledoc false
  # What a pool's name stands for, in the one :persistent_term entry of the pool, under the name
  # itself: {GrpcLb.Pool, balancer, handle}. It is written when the pool starts and erased when it
  # stops, not in between: erasing makes the VM look through all processes.

  @behaviour GrpcLb.Holder

  alias GrpcLb.{Janitor, Native, Policy, Settings, Text, Waiters}
  alias GrpcLb.Pool.{Options, Preference}

  @enforce_keys [:options, :hashed?, :holder, :balancer, :waiters, :scope, :feed]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          options: Options.t(),
          hashed?: boolean(),
          holder: pid(),
          balancer: GrpcLb.balancer(),
          waiters: Waiters.t(),
          scope: atom(),
          feed: atom()
        }

  @doc "Makes what a pool needs, and writes the entry. All of it belongs to the calling process, the holder."
  @impl true
  def open(%Options{name: name} = options) do
    balancer = balancer(options)

    handle = %__MODULE__{
      options: options,
      hashed?: Native.summary(balancer).hashed,
      holder: self(),
      balancer: balancer,
      waiters: Waiters.start(),
      scope: local_name(options, :scope),
      feed: local_name(options, :feed)
    }

    # To erase takes as long as others who change persistent terms, and what holds schedulers up.
    Janitor.clean_up_with({__MODULE__, :erase, [name, self()]}, :infinity)

    :persistent_term.put(name, {GrpcLb.Pool, balancer, handle})
    handle
  end

  defp balancer(options) do
    policy = Policy.to_native(options.policy)

    settings =
      [
        owner: self(),
        name: options.name,
        on_owner_death: :remove,
        locality_weights: Preference.weights(options.local_share)
      ]
      |> Kernel.++(options.settings)
      |> Settings.to_native(policy)

    {:ok, balancer} = Native.new(policy, [], settings)
    balancer
  end

  # The scope has the same name on all nodes. An atom more than the pool's own, and as rarely made.
  defp local_name(%Options{scope: :node}, _what), do: nil
  defp local_name(%Options{name: name}, what), do: :"grpc_lb_pool_#{what}:#{name}"

  @impl true
  def close(%__MODULE__{options: %Options{name: name}, holder: holder} = handle) do
    erase(name, holder)
    Janitor.clean_up_with(nil)
    {:ok, number_or_none} = Native.close_draining(handle.balancer)
    Waiters.notify(handle.waiters, :infinity)
    number_or_none
  end

  @impl true
  def ended(_handle, _options, _why), do: :ok

  @doc "Erases a pool's name, if this is its holder."
  @spec erase(name :: atom(), holder :: pid()) :: boolean()
  def erase(name, holder) do
    case :persistent_term.get(name, nil) do
      {GrpcLb.Pool, _balancer, %__MODULE__{holder: ^holder}} -> :persistent_term.erase(name)
      _other -> false
    end
  end

  @doc "Finds a pool by its name."
  @spec fetch(atom()) :: {:ok, t()} | {:error, :not_running}
  def fetch(pool) when is_atom(pool) do
    case :persistent_term.get(pool, nil) do
      {GrpcLb.Pool, _balancer, handle} -> {:ok, handle}
      _other -> {:error, :not_running}
    end
  end

  def fetch(other), do: not_a_pool!(other)

  @spec not_a_pool!(term()) :: no_return()
  def not_a_pool!(other) do
    raise ArgumentError, "a pool must be given by its name, an atom, got: #{Text.show(other)}"
  end

  @doc "Whether the name is the key of a :persistent_term entry that is not a pool's."
  @spec taken?(atom()) :: boolean()
  def taken?(name) do
    unset = make_ref()

    case :persistent_term.get(name, unset) do
      ^unset -> false
      {GrpcLb.Pool, _balancer, %__MODULE__{}} -> false
      _other -> true
    end
  end
end
