defmodule GrpcLbElixirGrpc.Patch do
  @moduledoc """
  Changes the source of a module by functions: each function in a patch takes the place of all
  clauses of the function of the same name and arity. What else stands around them, attributes
  and comments, stays.

  Unlike a diff, a patch has nothing of the source in it, and applies as long as the functions are
  there.
  """

  @type missing :: {name :: atom(), arity()}

  @doc "The changed source, or the functions of the patch that the source does not have."
  @spec apply(source :: String.t(), patch :: String.t()) ::
          {:ok, String.t()} | {:error, [missing()]}
  def apply(source, patch) do
    replacements = functions(patch)
    present = functions(source)

    case Map.keys(replacements) -- Map.keys(present) do
      [] -> {:ok, replace(lines(source), present, replacements)}
      missing -> {:error, Enum.sort(missing)}
    end
  end

  # Each function's clauses, as `{range of lines, text}`.
  defp functions(code) do
    lines = lines(code)

    clauses =
      for {kind, _meta, [head | _body]} = definition <- definitions(code),
          kind in [:def, :defp] do
        range = first_line(definition)..last_line(definition)
        {name_and_arity(head), {range, Enum.slice(lines, (range.first - 1)..(range.last - 1))}}
      end

    Enum.group_by(clauses, &elem(&1, 0), &elem(&1, 1))
  end

  defp definitions(code) do
    case Code.string_to_quoted!(code, token_metadata: true) do
      {:defmodule, _meta, [_name, [do: {:__block__, _, definitions}]]} -> definitions
      {:__block__, _meta, definitions} -> definitions
      definition -> [definition]
    end
  end

  defp name_and_arity({:when, _meta, [head, _guard]}), do: name_and_arity(head)
  defp name_and_arity({name, _meta, nil}), do: {name, 0}
  defp name_and_arity({name, _meta, arguments}), do: {name, length(arguments)}

  defp first_line({_kind, meta, _arguments}), do: meta[:line]

  defp last_line(definition) do
    {_ast, last} =
      Macro.prewalk(definition, 0, fn
        {_name, meta, _arguments} = node, last ->
          lines = [meta[:line], meta[:end][:line], meta[:closing][:line]]
          {node, Enum.max([last | Enum.reject(lines, &is_nil/1)])}

        node, last ->
          {node, last}
      end)

    last
  end

  # The new clauses go where the first of the old ones was.
  defp replace(lines, present, replacements) do
    edits =
      for {function, [{first, _text} | others]} <- Map.take(present, Map.keys(replacements)),
          {range, text} <- [{first, text(replacements[function])} | without_text(others)],
          do: {range, text}

    edits
    |> Enum.sort_by(fn {range, _text} -> range.first end, :desc)
    |> Enum.reduce(lines, fn {range, text}, lines ->
      {before, rest} = Enum.split(lines, range.first - 1)
      before ++ text ++ Enum.drop(rest, Range.size(range))
    end)
    |> Enum.join("\n")
  end

  defp text(clauses), do: Enum.flat_map(clauses, fn {_range, text} -> text end)
  defp without_text(clauses), do: for({range, _text} <- clauses, do: {range, []})

  defp lines(code), do: String.split(code, "\n")
end
