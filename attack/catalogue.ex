defmodule GrpcLb.Attack.Catalogue do
  @moduledoc """
  Every function of every module of the library that has documentation, found by looking. Who adds one has
  it attacked; what is not attacked is listed here, with the reason.
  """

  alias GrpcLb.Attack.Types

  # Those whose work is not the library's, or cannot be done here.
  @exceptions %{
    {GrpcLb.Native, :forget_page, 1} =>
      "the eraser alone calls it, once it has erased the page: the library knows no more of it then",
    {GrpcLb.Native, :forget_page_of_build, 1} => "as forget_page/1",
    {GrpcLb.Native, :intern, 4} =>
      "the library alone calls it; the VM copies a value in one turn, which takes long for a large one",
    {GrpcLb.Native, :tick, 0} => "the ticker alone may call it, and calls it all the time",
    {GrpcLb.Pool.NoMembersError, :exception, 1} => "Elixir has made it, and prints warnings",
    {GrpcLb.Telemetry, :metrics, 0} => "it needs a package, and says so where that is not there"
  }

  # What elixir-grpc alone calls, with its own structs, and what passes a server that its caller names on to
  # GenServer: they promise nothing to others, but to do no harm.
  @trusting [GrpcLb.ElixirGrpc.Adapter, GrpcLb.Dashboard]

  # What takes no time to speak of, and does not wait: the actors of the native part call it.
  @native [
    GrpcLb,
    GrpcLb.Native,
    GrpcLb.Clock,
    GrpcLb.Backend,
    GrpcLb.Policy,
    GrpcLb.LoadReport
  ]

  @doc "All functions, each with a number, and what its arguments are made from."
  def functions do
    modules = modules()
    specs = Types.read(modules)

    functions =
      for module <- modules,
          docs = docs(module),
          {name, arity} <- Enum.sort(module.__info__(:functions)),
          not internal?(name),
          not is_map_key(@exceptions, {module, name, arity}) do
        text = text(docs, name)

        %{
          module: module,
          name: name,
          arity: arity,
          spec: spec(specs, {module, name, arity}),
          native?: module in @native,
          promised?: promised?(docs, module, {name, arity}),
          options: mentioned(text, ~r/\* `:(\w+)`/),
          required: required(module, name),
          atoms: mentioned(text, ~r/`:(\w+)`/)
        }
      end

    Enum.with_index(functions, &Map.put(&1, :number, &2))
  end

  @doc "What is not attacked, and why."
  def exceptions, do: Map.filter(@exceptions, fn {{m, f, a}, _} -> exported?(m, f, a) end)

  defp exported?(m, f, a), do: Code.ensure_loaded?(m) and function_exported?(m, f, a)

  defp modules do
    for module <- Enum.sort(Application.spec(:grpc_lb, :modules)),
        Code.ensure_loaded?(module),
        of_library?(module),
        match?({:docs_v1, _, _, _, %{}, _, _}, Code.fetch_docs(module)) or
          match?({:docs_v1, _, _, _, :none, _, _}, Code.fetch_docs(module)),
        do: module
  end

  # Not what tests have beside it.
  defp of_library?(module) do
    source = module.module_info(:compile)[:source] |> to_string()

    source =~ ~r{/lib/grpc_lb(\.ex$|/)} and function_exported?(module, :__info__, 1) and
      not (module |> Atom.to_string() |> String.starts_with?("Elixir.Inspect."))
  end

  defp internal?(name), do: name |> Atom.to_string() |> String.starts_with?("__")

  defp promised?(_docs, module, _function) when module in @trusting, do: false
  defp promised?(docs, _module, function), do: function in docs.told

  # Arguments that have defaults may be left out, and the spec is of all.
  defp spec(specs, {module, name, arity}) do
    Enum.find_value(arity..(arity + 2), fn more ->
      with [_ | _] = clauses <- specs[{module, name, more}],
           do: Enum.map(clauses, &%{&1 | arguments: Enum.take(&1.arguments, arity)})
    end)
  end

  defp docs(module) do
    {:docs_v1, _, _, _, doc, _, functions} = Code.fetch_docs(module)

    told =
      for {{_kind, name, arity}, _, _, %{"en" => _}, meta} <- functions,
          arity <- (arity - Map.get(meta, :defaults, 0))..arity,
          do: {name, arity}

    texts = for {{_kind, name, _arity}, _, _, doc, _} <- functions, do: {name, module_text(doc)}
    %{module: module_text(doc), functions: texts, told: told}
  end

  defp module_text(%{"en" => text}), do: text
  defp module_text(_none), do: ""

  # Options are named where they are described, which may be in the text of the module.
  defp text(docs, name) do
    own =
      Enum.map_join(docs.functions, "\n", fn {other, text} ->
        if other == name, do: text, else: ""
      end)

    if own =~ "## Options" or own =~ "* `:", do: own, else: docs.module
  end

  # Atoms that are there already: others would be made from words.
  defp mentioned(text, pattern) do
    for [_, word] <- Regex.scan(pattern, text), atom = existing(word), uniq: true, do: atom
  end

  defp existing(word) do
    String.to_existing_atom(word)
  rescue
    ArgumentError -> nil
  end

  defp required(GrpcLb.Connection, :connect), do: [:transport, :resolver]

  defp required(GrpcLb.Connection, name) when name in [:start_link, :child_spec],
    do: [:target, :transport, :resolver]

  defp required(GrpcLb.Pool, name) when name in [:start_link, :child_spec], do: [:name]
  defp required(_module, :init), do: [:channels]
  defp required(_module, _name), do: []
end
