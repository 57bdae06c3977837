defmodule GrpcLb.Attack.Types do
  @moduledoc """
  What functions say of themselves in their specs: from it come arguments that are right in form, and whether an
  answer is one of those that are documented.

  Read once, and kept where all actors find it without a copy.
  """

  alias GrpcLb.Attack.Hostile

  @key {__MODULE__, :types}

  # How deep types of types are followed.
  @depth 6

  @doc "Reads the specs of these modules, and the types that they use."
  def read(modules) do
    specs = for module <- modules, {mfa, spec} <- specs(module), into: %{}, do: {mfa, spec}
    types = with_used(modules, modules, %{})
    :persistent_term.put(@key, types)
    specs
  end

  def forget, do: :persistent_term.erase(@key)

  # A spec of several clauses counts as one that takes what any of them takes.
  defp specs(module) do
    case Code.Typespec.fetch_specs(module) do
      {:ok, specs} ->
        for {{name, arity}, clauses} <- specs,
            do: {{module, name, arity}, Enum.map(clauses, &clause(&1, module))}

      :error ->
        []
    end
  end

  defp clause({:type, _, :bounded_fun, [fun, constraints]}, module) do
    vars =
      for {:type, _, :constraint, [_is_subtype, [{:var, _, name}, type]]} <- constraints,
          into: %{},
          do: {name, type}

    fun |> clause(module) |> Map.put(:vars, vars)
  end

  defp clause({:type, _, :fun, [{:type, _, :product, arguments}, result]}, module),
    do: %{arguments: arguments, result: result, module: module, vars: %{}}

  defp with_used([], _seen, types), do: types

  defp with_used([module | rest], seen, types) do
    found =
      case Code.Typespec.fetch_types(module) do
        {:ok, found} -> found
        :error -> []
      end

    types =
      for {_kind, {name, type, vars}} <- found, into: types do
        {{module, name, length(vars)}, type}
      end

    used = for {_kind, {_name, type, _vars}} <- found, used <- remote(type), uniq: true, do: used
    with_used(rest ++ (used -- seen), seen ++ used, types)
  end

  defp remote({:remote_type, _, [{:atom, _, module}, _name, arguments]}),
    do: [module | remote(arguments)]

  defp remote(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> remote()
  defp remote(list) when is_list(list), do: Enum.flat_map(list, &remote/1)
  defp remote(_other), do: []

  @doc """
  A term of a type. `special` is asked first for every named type and argument, and says `:none` for those that it has
  nothing for; `any` is called for what may be any term.
  """
  def generate(type, %{module: _, vars: _} = clause, special, any),
    do: generate(type, clause, special, any, @depth)

  defp generate(_type, _clause, _special, any, 0), do: any.()

  defp generate({:ann_type, _, [{:var, _, name}, type]}, clause, special, any, depth) do
    case special.({:argument, name}) do
      {:ok, term} -> term
      :none -> generate(type, clause, special, any, depth)
    end
  end

  defp generate({:var, _, name}, clause, special, any, depth) do
    case clause.vars do
      %{^name => type} -> generate(type, clause, special, any, depth - 1)
      _free -> any.()
    end
  end

  defp generate({:user_type, _, name, arguments}, clause, special, any, depth),
    do: named({clause.module, name, length(arguments)}, clause, special, any, depth)

  defp generate(
         {:remote_type, _, [{:atom, _, m}, {:atom, _, name}, arguments]},
         clause,
         special,
         any,
         depth
       ),
       do: named({m, name, length(arguments)}, clause, special, any, depth)

  defp generate({:type, _, :union, types}, clause, special, any, depth),
    do: types |> Enum.random() |> generate(clause, special, any, depth)

  defp generate({:type, _, :tuple, types}, clause, special, any, depth) when is_list(types),
    do: types |> Enum.map(&generate(&1, clause, special, any, depth - 1)) |> List.to_tuple()

  defp generate({:type, _, list, [type]}, clause, special, any, depth)
       when list in [:list, :nonempty_list] do
    least = if list == :list, do: 0, else: 1

    for _ <- 1..(least + :rand.uniform(5) - 1)//1,
        do: generate(type, clause, special, any, depth - 1)
  end

  defp generate({:type, _, :map, fields}, clause, special, any, depth) when is_list(fields) do
    for {:type, _, kind, [key, value]} <- fields,
        kind == :map_field_exact or :rand.uniform(3) == 1,
        into: %{} do
      # The VM compares keys: two that share their parts would take it for ever.
      {generate(key, clause, special, &Hostile.term/0, depth - 1),
       generate(value, clause, special, any, depth - 1)}
    end
  end

  defp generate({kind, _, value}, _clause, _special, _any, _depth) when kind in [:atom, :integer],
    do: value

  defp generate({:type, _, :range, [from, to]}, _clause, _special, _any, _depth),
    do: between(number(from), number(to))

  defp generate(
         {:type, _, :fun, [{:type, _, :product, arguments}, result]},
         clause,
         special,
         any,
         depth
       ),
       do: fun(length(arguments), fn -> generate(result, clause, special, any, depth - 1) end)

  defp generate({:type, _, name, _}, _clause, special, any, _depth) do
    case special.({:builtin, name}) do
      :none -> builtin(name, any)
      {:ok, term} -> term
    end
  end

  defp generate(_other, _clause, _special, any, _depth), do: any.()

  defp named({module, _name, _arity} = type, clause, special, any, depth) do
    case {special.(type), :persistent_term.get(@key)} do
      {{:ok, term}, _types} ->
        term

      {:none, %{^type => definition}} ->
        generate(definition, %{clause | module: module}, special, any, depth - 1)

      {:none, _unknown} ->
        any.()
    end
  end

  defp number({:op, _, :-, operand}), do: -number(operand)
  defp number({_kind, _, value}), do: value

  # Mostly small, for what takes as long as its argument says; the ends of a range are where mistakes are.
  defp between(from, to) do
    case :rand.uniform(10) do
      1 -> from
      2 -> to
      _ -> min(to, from + :rand.uniform(100))
    end
  end

  defp fun(0, result), do: fn -> result.() end
  defp fun(1, result), do: fn _ -> result.() end
  defp fun(2, result), do: fn _, _ -> result.() end
  defp fun(_arity, result), do: fn _, _, _ -> result.() end

  defp builtin(:boolean, _any), do: :rand.uniform(2) == 1
  defp builtin(:pos_integer, _any), do: between(1, 0xFFFFFFFF)
  defp builtin(:non_neg_integer, _any), do: between(0, 0xFFFFFFFF)
  defp builtin(:integer, _any), do: between(-3, 0xFFFFFFFFFFFFFFFF)
  defp builtin(:float, _any), do: :rand.uniform() * 100
  defp builtin(:number, _any), do: Enum.random([0, 1, 0.5, 7.25, 1_000_000])
  defp builtin(:binary, _any), do: Enum.random(["", "a", "10.0.0.1:443", :rand.bytes(30)])
  defp builtin(:pid, _any), do: self()
  defp builtin(:reference, _any), do: make_ref()
  defp builtin(nil, _any), do: []
  defp builtin(_other, any), do: any.()

  @doc "Whether an answer is one of those that a spec has."
  def documented?(clauses, answer),
    do: Enum.any?(clauses, &is?(&1.result, answer, &1, @depth))

  defp is?(_type, _term, _clause, 0), do: true
  defp is?({:ann_type, _, [_name, type]}, term, clause, depth), do: is?(type, term, clause, depth)

  defp is?({:type, _, :union, types}, term, clause, depth),
    do: Enum.any?(types, &is?(&1, term, clause, depth))

  defp is?({:atom, _, value}, term, _clause, _depth), do: term === value
  defp is?({:integer, _, value}, term, _clause, _depth), do: term === value

  defp is?({:type, _, :tuple, types}, term, clause, depth) when is_list(types) do
    is_tuple(term) and tuple_size(term) == length(types) and
      types
      |> Enum.zip(Tuple.to_list(term))
      |> Enum.all?(fn {t, e} -> is?(t, e, clause, depth - 1) end)
  end

  # Of long lists the first are looked at.
  defp is?({:type, _, :list, [type]}, term, clause, depth),
    do: is_list(term) and term |> Enum.take(20) |> Enum.all?(&is?(type, &1, clause, depth - 1))

  defp is?({:type, _, :map, fields}, term, clause, depth) when is_list(fields) do
    is_map(term) and
      Enum.all?(fields, fn
        {:type, _, :map_field_exact, [{:atom, _, key}, type]} ->
          is_map_key(term, key) and is?(type, Map.fetch!(term, key), clause, depth - 1)

        _optional ->
          true
      end)
  end

  defp is?({:user_type, _, name, arguments}, term, clause, depth),
    do: is_named?({clause.module, name, length(arguments)}, term, clause, depth)

  defp is?({:remote_type, _, [{:atom, _, m}, {:atom, _, name}, arguments]}, term, clause, depth),
    do: is_named?({m, name, length(arguments)}, term, clause, depth)

  defp is?({:type, _, :boolean, _}, term, _clause, _depth), do: is_boolean(term)
  defp is?({:type, _, :pos_integer, _}, term, _clause, _depth), do: is_integer(term) and term > 0

  defp is?({:type, _, :non_neg_integer, _}, term, _clause, _depth),
    do: is_integer(term) and term >= 0

  defp is?({:type, _, :reference, _}, term, _clause, _depth), do: is_reference(term)
  defp is?({:type, _, :binary, _}, term, _clause, _depth), do: is_binary(term)
  defp is?({:type, _, :pid, _}, term, _clause, _depth), do: is_pid(term)
  defp is?({:type, _, :float, _}, term, _clause, _depth), do: is_float(term)
  defp is?({:type, _, :no_return, _}, _term, _clause, _depth), do: false
  # What is left may be anything, or is looked at by nobody.
  defp is?(_other, _term, _clause, _depth), do: true

  defp is_named?({module, _name, _arity} = type, term, clause, depth) do
    case :persistent_term.get(@key) do
      %{^type => definition} -> is?(definition, term, %{clause | module: module}, depth - 1)
      _unknown -> true
    end
  end
end
