defmodule GrpcLb.Attack.Stash do
  @moduledoc """
  What actors share: balancers, tickets, places in line, clocks, connections, pools, processes. There are few
  places, so that all meet at the same things, and what is put into a place drops what was there.
  """

  @places %{
    balancer: 40,
    ticket: 400,
    waiter: 40,
    clock: 10,
    connection: 12,
    state: 10,
    pid: 40
  }

  def new do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true, write_concurrency: true])
  end

  def delete, do: :ets.delete(__MODULE__)

  def kinds, do: Map.keys(@places)

  def put(kind, thing), do: :ets.insert(__MODULE__, {place(kind), thing})

  @doc "One of these, or what `otherwise` makes."
  def get(kind, otherwise) do
    case :ets.lookup(__MODULE__, place(kind)) do
      [{_place, thing}] -> thing
      [] -> otherwise.()
    end
  end

  @doc "Takes one out, so that nobody else holds it."
  def take(kind, otherwise) do
    case :ets.take(__MODULE__, place(kind)) do
      [{_place, thing}] -> thing
      [] -> otherwise.()
    end
  end

  @doc "Drops whatever is in a place, at this moment."
  def drop(kind), do: :ets.delete(__MODULE__, place(kind))

  defp place(kind), do: {kind, :rand.uniform(Map.fetch!(@places, kind))}

  # What a call answers is kept, by what it is.
  def keep({_module, :new, _arity}, {:ok, lb}) when is_reference(lb), do: put(:balancer, lb)
  def keep({_module, :manual, 0}, clock), do: put(:clock, clock)
  def keep({_module, :manual_clock, 0}, clock), do: put(:clock, clock)
  def keep({_module, :init, _arity}, {:ok, %{balancer: _} = state}), do: put(:state, state)

  def keep(_function, {:ok, %{__struct__: GrpcLb.Connection} = handle}),
    do: put(:connection, handle)

  def keep(_function, {:ok, _value, ticket}) when is_reference(ticket), do: put(:ticket, ticket)

  def keep(_function, {:ok, waiter, _place, _ms}) when is_reference(waiter),
    do: put(:waiter, waiter)

  def keep(_function, {:ok, pid}) when is_pid(pid), do: put(:pid, pid)
  def keep(_function, _answer), do: :ok
end
