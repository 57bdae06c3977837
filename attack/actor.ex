defmodule GrpcLb.Attack.Actor do
  @moduledoc """
  A process that calls, until it is killed. Every call begins with a number of its own, from which its
  arguments are drawn: with that it can be made again. See `again/2`.
  """

  alias GrpcLb.Attack.{Burst, Ledger, Screen, Session, Stash, Types, Values}

  # What is quick is called again at once, with the same arguments.
  @quick_us 20
  @again 200

  # How long a call is of interest to the witness, in microseconds, and how many are remembered.
  @long_us 700
  @remembered 3

  @key {__MODULE__, :functions}

  @doc "Prepares what all actors look at."
  def prepare(functions) do
    numbers = Map.new(functions, &{{&1.module, &1.name, &1.arity}, &1.number})
    of = fn native? -> functions |> Enum.filter(&(&1.native? == native?)) |> List.to_tuple() end
    :persistent_term.put(@key, %{true: of.(true), false: of.(false), numbers: numbers})
  end

  def forget, do: :persistent_term.erase(@key)

  @doc "Starts one. `native?` says which functions it calls."
  def start(native?, seed) do
    spawn(fn ->
      Process.group_leader(self(), Process.whereis(Screen))
      loop(native?, :rand.seed_s(:exsss, seed))
    end)
  end

  defp loop(native?, state) do
    {seed, state} = :rand.uniform_s(0x3FFFFFFFFFFFFFF, state)
    act(native?, seed)
    flush()
    loop(native?, state)
  end

  # Messages for those who wait in line, who subscribe, and who are told that calls have ended.
  defp flush do
    receive do
      _any -> flush()
    after
      0 -> :ok
    end
  end

  # What is done with this number.
  defp act(native?, seed) do
    {what, call} = prepared(native?, seed)
    began = now()
    outcome = call.()
    us = now() - began
    if us > @long_us, do: remember(what, seed, us)
    if native? and us < @quick_us, do: again(what, outcome)
  end

  @doc "Draws what is called with this number. Returns what it is, and a function that does it."
  def prepared(native?, seed) do
    :rand.seed(:exsss, seed)

    if :rand.uniform(3) > if(native?, do: 1, else: 2) do
      {{:sequence, native?}, fn -> sequence(native?, seed) end}
    else
      functions = :persistent_term.get(@key)[native?]
      function = elem(functions, :rand.uniform(tuple_size(functions)) - 1)
      arguments = Values.arguments(function)
      {{function, arguments}, fn -> call(function, arguments, seed) end}
    end
  end

  defp now, do: System.monotonic_time(:microsecond)

  defp remember(what, seed, us) do
    recent = Process.get(:long_calls, [])
    Process.put(:long_calls, Enum.take([{name(what), seed, us} | recent], @remembered))
  end

  defp name({:sequence, native?}), do: {:sequence, native?}
  defp name({function, _arguments}), do: {function.native?, mfa(function)}

  defp mfa(function), do: {function.module, function.name, function.arity}

  defp sequence(native?, seed) do
    numbers = :persistent_term.get(@key).numbers
    module = if native?, do: Burst, else: Session

    module.run(fn function, outcome, times ->
      case numbers do
        %{^function => number} -> Ledger.count(number, outcome, times)
        _not_there -> :ok
      end
    end)
  rescue
    error -> judge(error, __STACKTRACE__, {:sequence, native?}, [], seed)
  catch
    _kind, _reason -> :raised_by_users
  end

  defp again({:sequence, _native?}, _outcome), do: :ok

  defp again({function, arguments}, outcome) do
    repeat(@again, function.module, function.name, arguments)
    Ledger.count(function.number, outcome, @again)
  end

  defp repeat(0, _module, _name, _arguments), do: :ok

  defp repeat(n, module, name, arguments) do
    try do
      apply(module, name, arguments)
    catch
      _kind, _reason -> :raised
    end

    repeat(n - 1, module, name, arguments)
  end

  defp call(function, arguments, seed) do
    Ledger.count(function.number, :begun)
    outcome = outcome(function, mfa(function), arguments, seed)
    Ledger.count(function.number, outcome)
    outcome
  end

  defp outcome(function, mfa, arguments, seed) do
    answer = apply(function.module, function.name, arguments)
    Stash.keep(mfa, answer)

    if function.promised? and :rand.uniform(4) == 1,
      do: documented!(function, mfa, answer, arguments, seed)

    case answer do
      {:error, _reason} -> :error
      :error -> :error
      _other -> :ok
    end
  rescue
    # What only the VM or elixir-grpc is to call promises nothing to others, but to do no harm.
    error ->
      if function.promised?,
        do: judge(error, __STACKTRACE__, mfa, arguments, seed),
        else: :refused
  catch
    # A server that its caller names, and that is none or gone, as any other.
    :exit, {_reason, {GenServer, _function, [server | _]}} when server == hd(arguments) ->
      :refused

    _kind, :rogue ->
      :raised_by_users

    kind, reason ->
      if function.promised? do
        Ledger.found({kind, mfa, short(reason)}, details(arguments, seed, __STACKTRACE__))
      end

      :wrong
  end

  # What `run` and `call` answer is what the code of users did.
  defp documented!(%{spec: nil}, _mfa, _answer, _arguments, _seed), do: :ok

  defp documented!(function, mfa, answer, arguments, seed) do
    unless Types.documented?(function.spec, answer) do
      Ledger.found({:answer, mfa, short(answer)}, details(arguments, seed, []))
    end
  end

  defp judge(%RuntimeError{message: "rogue"}, _stack, _mfa, _arguments, _seed),
    do: :raised_by_users

  defp judge(%GrpcLb.Pool.NoMembersError{}, _stack, {_, :pick!, _}, _arguments, _seed),
    do: :refused

  defp judge(%ArgumentError{message: message} = error, stack, mfa, arguments, seed) do
    # What the VM says, not the library: an argument of something inside.
    if message == "argument error" or message =~ "errors were found at the given arguments",
      do: wrong(error, stack, mfa, arguments, seed),
      else: :refused
  end

  # A guard of the function itself, or of that which it stands for.
  defp judge(%FunctionClauseError{function: f}, [{_, f, _, _} | _], {_, f, _}, _, _),
    do: :refused

  defp judge(error, stack, mfa, arguments, seed), do: wrong(error, stack, mfa, arguments, seed)

  defp wrong(error, stack, mfa, arguments, seed) do
    place =
      for {m, f, a, _} <- Enum.take(stack, 2), do: {m, f, if(is_list(a), do: length(a), else: a)}

    Ledger.found({error.__struct__, mfa, place}, details(arguments, seed, stack))
    :wrong
  end

  # Text, for a term may be one that cannot be copied.
  defp details(arguments, seed, stack) do
    stack =
      for {m, f, a, where} <- Enum.take(stack, 6),
          do: {m, f, if(is_list(a), do: length(a), else: a), where}

    "CALL=#{seed} arguments: #{short(arguments)}\n#{Exception.format_stacktrace(stack)}"
  end

  defp short(term) do
    inspect(term, limit: 12, printable_limit: 100) |> String.slice(0, 400)
  end
end
