defmodule GrpcLb.Attack.Ledger do
  @moduledoc """
  What was done, and what was found. Counts are words that all add to; what is found is told to a process,
  which keeps the first of each kind.
  """

  use GenServer

  # How a call went, and that it began: who is killed in the middle of one says no more.
  @outcomes [:begun, :ok, :error, :refused, :raised_by_users, :wrong]

  def start_link(catalogue), do: GenServer.start_link(__MODULE__, catalogue, name: __MODULE__)

  @doc "Adds calls of the function with this number that went so."
  def count(number, outcome, calls \\ 1) do
    :counters.add(counters(), number * length(@outcomes) + place(outcome) + 1, calls)
  end

  for {outcome, place} <- Enum.with_index(@outcomes) do
    defp place(unquote(outcome)), do: unquote(place)
  end

  defp counters, do: :persistent_term.get(__MODULE__)

  @doc "Tells of what should not be. `kind` is what it is one of; the first of each is kept with its details."
  def found(kind, details), do: GenServer.cast(__MODULE__, {:found, kind, details})

  @doc "How often each function was called, and with what outcomes."
  def counts(functions) do
    for {number, function} <- functions, into: %{} do
      {function,
       Map.new(@outcomes, fn outcome ->
         {outcome, :counters.get(counters(), number * length(@outcomes) + place(outcome) + 1)}
       end)}
    end
  end

  @doc "All that was found: `{kind, times, details of the first}`."
  def findings, do: GenServer.call(__MODULE__, :findings, :infinity)

  @impl true
  def init(functions) do
    size = functions * length(@outcomes) + 1
    :persistent_term.put(__MODULE__, :counters.new(size, [:write_concurrency]))
    {:ok, %{}}
  end

  @impl true
  def handle_cast({:found, kind, details}, found),
    do: {:noreply, Map.update(found, kind, {1, details}, fn {n, first} -> {n + 1, first} end)}

  @impl true
  def handle_call(:findings, _from, found) do
    {:reply, for({kind, {times, details}} <- found, do: {kind, times, details}), found}
  end
end
