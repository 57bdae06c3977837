defmodule GrpcLb.Attack.Campaign do
  @moduledoc """
  The campaign: many processes that call everything, are killed and have all else happen to them, for a
  while; then what is left is counted, and what was found is told.
  """

  alias GrpcLb.Attack.{Actor, Builds, Catalogue, Killer, Ledger, Remains, Screen, Stash, Witness}

  def main(env) do
    seconds = number(env["SECONDS"], fn -> 60 end)
    seed = number(env["SEED"], fn -> :rand.uniform(1_000_000) end)

    IO.puts(
      "attack: #{seconds} seconds, SEED=#{seed}, OTP #{System.otp_release()}, Elixir #{System.version()}"
    )

    # What is told to people is not asked for: most of what fails here is meant to.
    :logger.set_primary_config(:level, :none)

    functions = Catalogue.functions()

    for {function, why} <- Catalogue.exceptions(),
        do: IO.puts("not attacked: #{name(function)}: #{why}")

    builds = Builds.make()
    watch(seconds)
    report = attack(functions, builds, seconds, seed)
    Builds.delete(builds)
    if report(report, functions), do: System.halt(0), else: System.halt(1)
  end

  # So much longer it may take, in seconds: calls are made again, and what is left is waited for.
  @longer 300

  # A hang is a find. What hangs may be a NIF of a process that was killed: only the VM knows of that still.
  defp watch(seconds) do
    spawn(fn ->
      Process.flag(:priority, :max)
      Process.sleep((seconds + @longer) * 1_000)

      :erlang.halt(
        ~c"attack: FAILED, it hangs: the crash dump has what runs, see =scheduler and =dirty_cpu_scheduler"
      )
    end)
  end

  # make gives an empty text for what it was not given.
  defp number(text, default) when text in [nil, ""], do: default.()
  defp number(text, _default), do: String.to_integer(text)

  defp attack(functions, builds, seconds, seed) do
    Stash.new()
    Actor.prepare(functions)
    {:ok, _ledger} = Ledger.start_link(length(functions))
    before = Remains.look(builds)
    Screen.start()
    {:ok, _witness} = Witness.start_link()
    killer = Killer.start(seed, builds)
    progress(functions, seconds)
    killed = Killer.stop(killer)
    turns = Witness.stop()
    Screen.stop()
    clear()
    {left, now} = Remains.left(before, builds)
    app? = List.keymember?(Application.started_applications(), :grpc_lb, 0)

    %{
      seconds: seconds,
      counts: Ledger.counts(for f <- functions, do: {f.number, {f.module, f.name, f.arity}}),
      killed: killed,
      turns: turns,
      left: left ++ if(app?, do: [], else: [{:application, :stopped}]),
      memory: {before, now},
      findings: Ledger.findings()
    }
  end

  @step 10

  defp progress(_functions, seconds) when seconds <= 0, do: :ok

  defp progress(functions, seconds) do
    step = min(@step, seconds)
    Process.sleep(step * 1_000)
    calls = functions |> numbers() |> Ledger.counts() |> calls()
    mib = div(Remains.resident() || 0, 1_048_576)
    IO.puts("  #{calls} calls, #{length(Process.list())} processes, #{mib} MiB")
    progress(functions, seconds - step)
  end

  defp numbers(functions), do: for(f <- functions, do: {f.number, {f.module, f.name, f.arity}})

  defp calls(counts), do: counts |> Map.values() |> Enum.map(&calls_of/1) |> Enum.sum()

  defp calls_of(outcomes), do: outcomes |> Map.delete(:begun) |> Map.values() |> Enum.sum()

  # What lives on after those who made it.
  defp clear do
    Stash.delete()

    for pid <- Process.list(),
        {:dictionary, dictionary} <- [Process.info(pid, :dictionary)],
        match?({GrpcLb.Dashboard.Server, _, _}, dictionary[:"$initial_call"]),
        do: GenServer.stop(pid)

    for {key, _pid} <-
          Registry.select(GrpcLb.Registry, [{{:"$1", :"$2", :_}, [], [{{:"$1", :"$2"}}]}]) do
      name = with {_module, name} <- key, do: name
      GrpcLb.Connection.disconnect(name, drain_timeout: 0)
    end
  end

  defp report(report, _functions) do
    table(report.counts)
    calls = calls(report.counts)
    IO.puts("\n#{calls} calls, #{div(calls, report.seconds)} a second; #{inspect(report.killed)}")
    {before, now} = report.memory

    for what <- [:memory, :resident, :atoms, :tables, :persistent_terms, :ports],
        do: IO.puts("#{what}: #{size(before[what])} before, #{size(now[what])} after")

    turns = report.turns.turns
    all = turns |> Map.values() |> Enum.map(&elem(&1, 0)) |> Enum.sum()

    IO.puts(
      "#{all} turns above a millisecond, #{report.turns.made_again} calls made again for them; where most ended:"
    )

    for {who, {n, ms}} <- turns |> Enum.sort_by(fn {_, {n, _}} -> -n end) |> Enum.take(12),
        do: IO.puts("  #{n} times, #{ms} ms at most: #{inspect(who)}")

    never =
      for {function, outcomes} <- report.counts, Enum.sum(Map.values(outcomes)) == 0, do: function

    for function <- never, do: IO.puts("NEVER CALLED: #{name(function)}")
    for what <- report.left, do: IO.puts("LEFT: #{inspect(what)}")

    for {kind, times, details} <- report.findings,
        do: IO.puts("FOUND #{times} times: #{inspect(kind)}\n#{details}")

    well? = never == [] and report.left == [] and report.findings == []
    IO.puts(if well?, do: "attack: nothing found", else: "attack: FAILED")
    well?
  end

  defp size(list) when is_list(list), do: length(list)
  defp size(number), do: number

  defp table(counts) do
    for {function, o} <- Enum.sort(counts) do
      IO.puts(
        String.pad_trailing("  #{name(function)}", 60) <>
          " ok #{o.ok}, error #{o.error}, refused #{o.refused}, by users #{o.raised_by_users}, wrong #{o.wrong}"
      )
    end
  end

  defp name({module, name, arity}), do: "#{inspect(module)}.#{name}/#{arity}"
end
