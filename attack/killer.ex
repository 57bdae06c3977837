defmodule GrpcLb.Attack.Killer do
  @moduledoc """
  Starts the actors and kills them, at any moment, and starts others in their places. Besides it collects
  garbage, drops what is shared, kills processes of the library, and loads the native library again, also as
  another build.
  """

  alias GrpcLb.Attack.{Actor, Builds, Stash}

  @natives 8
  @others 8

  @doc "Has all this done until `stop/1`."
  def start(seed, builds), do: spawn_link(fn -> begin(seed, builds) end)

  @doc "Ends it, and its actors. Returns how often it did what."
  def stop(killer) do
    send(killer, {:stop, self()})

    receive do
      {:killed, counts} -> counts
    end
  end

  defp begin(seed, builds) do
    :rand.seed(:exsss, seed)
    Process.flag(:priority, :high)
    slots = List.duplicate(true, @natives) ++ List.duplicate(false, @others)

    actors =
      for {native?, slot} <- Enum.with_index(slots),
          into: %{},
          do: {slot, actor(native?, seed, slot, 0)}

    loop(%{
      seed: seed,
      builds: builds,
      actors: actors,
      counts: %{},
      turn: 0,
      spared: Process.list()
    })
  end

  defp actor(native?, seed, slot, generation) do
    pid = Actor.start(native?, {seed, slot, generation})
    {pid, Process.monitor(pid), native?, generation}
  end

  defp loop(state) do
    receive do
      {:stop, from} ->
        for {_slot, {pid, monitor, _, _}} <- state.actors do
          Process.exit(pid, :kill)
          receive(do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok))
        end

        send(from, {:killed, state.counts})

      {:DOWN, monitor, :process, _pid, reason} ->
        {slot, {_pid, _monitor, native?, generation}} =
          Enum.find(state.actors, fn {_slot, {_, m, _, _}} -> m == monitor end)

        how = if reason == :killed, do: :actors_killed, else: :actors_ended

        actors =
          Map.put(
            state.actors,
            slot,
            actor(native?, state.seed, slot, generation + 1)
          )

        loop(count(%{state | actors: actors}, how))
    after
      5 -> state |> turn() |> loop()
    end
  end

  # Each at its own pace.
  defp turn(%{turn: turn} = state) do
    state = %{state | turn: turn + 1}

    [
      {2, &kill_actor/1},
      {3, &collect/1},
      {7, &drop/1},
      {20, &kill_of_library/1},
      {100, &load_again/1},
      {150, &erase_literal/1},
      {1_000, &kill_ticker/1}
    ]
    |> Enum.filter(fn {every, _what} -> rem(turn, every) == 0 end)
    |> Enum.reduce(state, fn {_every, what}, state -> what.(state) end)
  end

  defp kill_actor(state) do
    {_slot, {pid, _monitor, _native?, _generation}} = Enum.random(state.actors)
    Process.exit(pid, :kill)
    state
  end

  defp collect(state) do
    :erlang.garbage_collect(Enum.random(Process.list()))
    count(state, :collections)
  end

  defp drop(state) do
    Stash.kinds() |> Enum.random() |> Stash.drop()
    state
  end

  # Of a connection or a pool. Those that are there once for all may die so often, and no more.
  defp kill_of_library(state) do
    permanent = for {_id, pid, _, _} <- Supervisor.which_children(GrpcLb.Supervisor), do: pid

    case Enum.filter(Process.list() -- (state.spared ++ permanent), &of_library?/1) do
      [] ->
        state

      pids ->
        Process.exit(Enum.random(pids), :kill)
        count(state, :library_processes_killed)
    end
  end

  defp of_library?(pid) do
    with {:dictionary, dictionary} <- Process.info(pid, :dictionary),
         {module, _, _} <- dictionary[:"$initial_call"] do
      of_library?(Module.split(module), dictionary[:"$ancestors"])
    else
      _none -> false
    end
  rescue
    # A module of Erlang.
    ArgumentError -> false
  end

  defp of_library?(["GrpcLb", "Attack" | _], _ancestors), do: false
  defp of_library?(["GrpcLb" | _], _ancestors), do: true
  defp of_library?(_other, ancestors), do: GrpcLb.Supervisor in List.wrap(ancestors)

  defp kill_ticker(state) do
    if ticker = Process.whereis(GrpcLb.Ticker), do: Process.exit(ticker, :kill)
    count(state, :tickers_killed)
  end

  defp load_again(state) do
    Builds.load(state.builds, if(:rand.uniform(3) == 1, do: :other, else: :own))
    count(state, :reloads)
  end

  # Others have it as an argument of a call while the VM frees it.
  defp erase_literal(state) do
    :persistent_term.put(__MODULE__, {:held, Stash.get(:balancer, fn -> nil end)})
    {:held, lb} = :persistent_term.get(__MODULE__)
    if lb, do: spawn(fn -> for _ <- 1..20, do: GrpcLb.info(lb) end)
    :persistent_term.erase(__MODULE__)
    count(state, :literals_erased)
  end

  defp count(state, what), do: update_in(state.counts[what], &((&1 || 0) + 1))
end
