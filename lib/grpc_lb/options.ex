defmodule GrpcLb.Options do
  # Options as data: one list gives their validation, their error messages and their documentation.
  @moduledoc false

  alias GrpcLb.Text

  # The longest time that a process of the VM can wait.
  @max_ms 0xFFFFFFFF

  @typedoc """
  What the value of an option can be. Reading turns

    * a number into a float
    * nested options into a map
    * a module, alone or with options, into `{module, opts}`; it must export the callbacks
    * what a reader takes into what the reader returns. Its text says what is allowed.
  """
  @type type ::
          :any
          | :local_pid
          | :reference
          | :binary
          | {:strings, at_most: pos_integer(), bytes: pos_integer()}
          | :keyword
          | {:function, arity()}
          | {:integer, bounds()}
          | {:ms, from :: 0 | 1}
          | {:seconds, from :: 1}
          | {:number, bounds()}
          | {:one_of, [term()]}
          | {:options, specs()}
          | {:module_with_opts, callbacks :: [{atom(), arity() | [arity()]}]}
          | {:reader, allowed :: String.t(), reader()}
          | {:or, type(), term()}

  @type bounds :: [from: number(), above: number(), to: number()]
  @type reader :: (term() -> {:ok, term()} | :error | {:error, why :: String.t()})

  @typedoc """
  What is known of an option.

    * `:type` - what its value can be
    * `:default` - stands in for an option that is left out. Without a default it is required
    * `:at_least`, `:at_most` - replaces what is below or above
    * `:only_with` - the option and its value without which this one is refused, unless it is `nil`
    * `:secret` - errors do not show the value
    * `:doc` - what it is for, in Markdown
  """
  @type spec :: [
          type: type(),
          default: term(),
          at_least: number(),
          at_most: number(),
          only_with: {atom(), term()},
          secret: boolean(),
          doc: String.t()
        ]

  @type specs :: [{option :: atom(), spec()}]

  @enforce_keys [:specs, :defaults, :required, :only_with]
  defstruct @enforce_keys

  @typedoc "Specs, prepared once for options that are validated often."
  @type t :: %__MODULE__{
          specs: [{option :: atom(), map()}],
          defaults: %{atom() => term()},
          required: [atom()],
          only_with: [{option :: atom(), other :: atom(), needed :: term()}]
        }

  @typedoc "Whose options they are, for errors: a text, a name in code, or one of many."
  @type whose :: String.t() | atom() | {String.t(), non_neg_integer()}

  @doc """
  Prepares specs.

      iex> GrpcLb.Options.prepare(choices: [type: {:integer, from: 2, to: 100}, default: 2]).defaults
      %{choices: 2}
  """
  @spec prepare(specs()) :: t()
  def prepare(specs) do
    prepared =
      for {option, spec} <- specs,
          do: {option, Enum.into(spec, %{at_least: nil, at_most: nil, secret: false})}

    %__MODULE__{
      specs: prepared,
      defaults:
        for({option, %{default: default} = spec} <- prepared, into: %{}) do
          {option, read!(option, spec, default, [])}
        end,
      required: for({option, spec} <- prepared, not is_map_key(spec, :default), do: option),
      only_with:
        for({option, %{only_with: {other, needed}}} <- prepared, do: {option, other, needed})
    }
  end

  @doc """
  Validates options and fills in the defaults.

  Of an option that is given twice the first one counts, as everywhere with keyword lists. Raises
  `ArgumentError` that names the option, what was given and what is allowed.

      iex> specs = [choices: [type: {:integer, from: 2, to: 100}, default: 2, at_most: 10]]
      iex> GrpcLb.Options.validate!([], specs)
      %{choices: 2}
      iex> GrpcLb.Options.validate!([choices: 50], specs)
      %{choices: 10}
      iex> GrpcLb.Options.validate!([choices: 1], specs, :least_request)
      ** (ArgumentError) option :choices of :least_request must be an integer from 2 to 100, got: 1
  """
  @spec validate!(term(), specs() | t(), whose() | nil) :: %{atom() => term()}
  def validate!(opts, specs, whose \\ nil), do: validate_in!(opts, specs, List.wrap(whose))

  @doc """
  Reads an argument that is no option, such as a timeout. Raises `ArgumentError` as `validate!/3` does.

      iex> GrpcLb.Options.argument!("timeout", {:or, {:ms, 0}, :infinity}, :infinity)
      :infinity
      iex> GrpcLb.Options.argument!("timeout", {:or, {:ms, 0}, :infinity}, -1)
      ** (ArgumentError) timeout must be a number of milliseconds from 0 to 4294967295, or :infinity, got: -1
  """
  @spec argument!(name :: String.t(), type(), term(), secret: boolean()) :: term()
  def argument!(name, type, value, opts \\ []) do
    case read(type, value, [name]) do
      {:ok, read} -> read
      refused -> refuse!(name, %{type: type, secret: opts[:secret]}, value, refused)
    end
  end

  @doc "The options as a list in Markdown."
  @spec docs(specs()) :: String.t()
  def docs(specs), do: docs(specs, "  ")

  @doc "Terms to choose from, as text."
  @spec one_of([term()]) :: String.t()
  def one_of(terms), do: Enum.map_join(terms, " or ", &inspect/1)

  @doc "A number as a float, unless it is too large for one."
  @spec float(number()) :: {:ok, float()} | :error
  def float(number) do
    {:ok, number / 1}
  rescue
    ArithmeticError -> :error
  end

  # The path leads from an option outwards. It becomes text in errors only.
  defp validate_in!(opts, specs, path) when is_list(specs),
    do: validate_in!(opts, prepare(specs), path)

  defp validate_in!(opts, %__MODULE__{specs: specs} = prepared, path) do
    unless Keyword.keyword?(opts) do
      secret? = Enum.any?(specs, fn {_option, spec} -> spec.secret end)
      refuse!("options#{of(path)}", %{type: :keyword, secret: secret?}, opts, :error)
    end

    values = given!(opts, specs, prepared.defaults, path)

    for option <- prepared.required, not is_map_key(values, option) do
      raise ArgumentError,
            "option #{inspect(option)}#{of(path)} is required" <> required(specs[option].type)
    end

    for {option, other, needed} <- prepared.only_with,
        values[other] != needed and opts[option] != nil do
      raise ArgumentError,
            "option #{inspect(option)}#{of(path)} is for #{other}: #{inspect(needed)} only, " <>
              "got it with #{other}: #{Text.show(values[other])}"
    end

    values
  end

  # Filled in from the end, so that the first of an option that is given twice counts.
  defp given!([{option, value} | rest], specs, defaults, path) do
    case List.keyfind(specs, option, 0) do
      {^option, spec} ->
        value = read!(option, spec, value, path)
        rest |> given!(specs, defaults, path) |> Map.put(option, value)

      nil ->
        raise ArgumentError,
              "unknown option #{inspect(option)}#{of(path)}, #{known(Keyword.keys(specs))}"
    end
  end

  defp given!([], _specs, defaults, _path), do: defaults

  defp read!(option, spec, value, path) do
    case read(spec.type, value, [option | path]) do
      {:ok, read} -> clamp(read, spec.at_least, spec.at_most)
      refused -> refuse!("option #{inspect(option)}#{of(path)}", spec, value, refused)
    end
  end

  defp clamp(value, _at_least, _at_most) when not is_number(value), do: value
  defp clamp(value, at_least, _at_most) when at_least != nil and value < at_least, do: at_least
  defp clamp(value, _at_least, at_most) when at_most != nil and value > at_most, do: at_most
  defp clamp(value, _at_least, _at_most), do: value

  defp read({:or, _type, term}, term, _path), do: {:ok, term}
  defp read({:or, type, _term}, value, path), do: read(type, value, path)
  defp read({:options, specs}, opts, path), do: {:ok, validate_in!(opts, specs, path)}
  defp read({:reader, _allowed, reader}, value, _path), do: reader.(value)

  defp read({:module_with_opts, callbacks}, {module, opts}, _path) do
    if is_atom(module) and Code.ensure_loaded?(module) and
         Enum.all?(callbacks, &exports?(module, &1)),
       do: {:ok, {module, opts}},
       else: :error
  end

  defp read({:module_with_opts, _callbacks} = type, module, path) when is_atom(module),
    do: read(type, {module, []}, path)

  defp read({:number, bounds}, value, _path) when is_number(value) do
    if within?(bounds, value), do: float(value), else: :error
  end

  defp read(type, value, _path), do: if(is?(type, value), do: {:ok, value}, else: :error)

  # One of several arities is enough.
  defp exports?(module, {name, arities}),
    do: Enum.any?(List.wrap(arities), &function_exported?(module, name, &1))

  defp is?(:any, _value), do: true
  defp is?(:local_pid, value), do: is_pid(value) and node(value) == node()
  defp is?(:reference, value), do: is_reference(value)
  defp is?(:binary, value), do: is_binary(value)
  defp is?(:keyword, value), do: Keyword.keyword?(value)
  defp is?({:function, arity}, value), do: is_function(value, arity)
  defp is?({:integer, bounds}, value), do: is_integer(value) and within?(bounds, value)
  defp is?({:ms, from}, value), do: is_integer(value) and value in from..@max_ms
  defp is?({:seconds, from}, value), do: is_integer(value) and value >= from
  defp is?({:one_of, terms}, value), do: value in terms

  # The number first: it is asked for without a look at the strings.
  defp is?({:strings, at_most: n, bytes: bytes}, value) do
    is_list(value) and not List.improper?(value) and length(value) <= n and
      Enum.all?(value, &(is_binary(&1) and byte_size(&1) <= bytes and String.valid?(&1)))
  end

  defp is?({:number, _bounds}, _value), do: false
  defp is?({:module_with_opts, _callbacks}, _value), do: false

  defp within?(bounds, number) do
    Enum.all?(bounds, fn
      {:from, from} -> number >= from
      {:above, above} -> number > above
      {:to, to} -> number <= to
    end)
  end

  @spec refuse!(String.t(), map(), term(), :error | {:error, String.t()}) :: no_return()
  defp refuse!(what, spec, value, refused) do
    raise ArgumentError,
          "#{what} must be #{allowed(spec.type)}, got: #{shown(value, spec.secret)}" <>
            why(refused)
  end

  defp why(:error), do: ""
  defp why({:error, why}), do: " (#{why})"

  # Names and numbers say most about a mistake, and are no secrets.
  defp shown(value, true) when is_atom(value) or is_number(value), do: Text.show(value)
  defp shown({name, _opts}, true) when is_atom(name), do: "{#{inspect(name)}, ...}"
  defp shown(_value, true), do: "a term that is not shown"
  defp shown(value, _public), do: Text.show(value)

  defp of(path), do: Enum.map_join(path, &" of #{name(&1)}")

  defp name({many, n}), do: "#{many} #{n}"
  defp name(name) when is_atom(name), do: inspect(name)
  defp name(text), do: text

  defp known([]), do: "it has none"
  defp known(options), do: "expected #{one_of(options)}"

  defp required(:any), do: ""
  defp required(type), do: ", and must be #{allowed(type)}"

  defp allowed(:any), do: "any term"
  defp allowed(:local_pid), do: "a pid of this node"
  defp allowed(:reference), do: "a reference"
  defp allowed(:binary), do: "a binary"

  defp allowed({:strings, at_most: n, bytes: bytes}),
    do: "a list of strings, #{n} at most, of #{bytes} bytes each at most"

  defp allowed(:keyword), do: "a keyword list"
  defp allowed({:function, 1}), do: "a function of one argument"
  defp allowed({:integer, bounds}), do: "an integer " <> bounds(bounds)
  defp allowed({:ms, from}), do: "a number of milliseconds from #{from} to #{@max_ms}"
  defp allowed({:seconds, from}), do: "a number of seconds from #{from}"
  defp allowed({:number, bounds}), do: "a number " <> bounds(bounds)
  defp allowed({:one_of, terms}), do: one_of(terms)
  defp allowed({:options, _specs}), do: allowed(:keyword)
  defp allowed({:reader, allowed, _reader}), do: allowed
  defp allowed({:or, type, term}), do: "#{allowed(type)}, or #{inspect(term)}"

  defp allowed({:module_with_opts, callbacks}) do
    callbacks =
      Enum.map_join(callbacks, " and ", fn {name, arities} ->
        arities |> List.wrap() |> Enum.map_join(" or ", &"#{name}/#{&1}")
      end)

    "a module that exports #{callbacks}, or {module, opts}"
  end

  defp bounds(bounds), do: Enum.map_join(bounds, " ", fn {word, bound} -> "#{word} #{bound}" end)

  defp docs(specs, indent) do
    Enum.map_join(specs, "\n", fn {option, spec} ->
      text =
        [spec[:doc], required_doc(spec), only_with_doc(spec[:only_with])]
        |> Enum.reject(&is_nil/1)
        |> Enum.map_join(" ", &String.trim/1)
        |> String.replace("\n", "\n#{indent}  ")

      "#{indent}* `#{inspect(option)}`#{default_doc(spec)} - #{text}" <>
        nested_docs(spec[:type], indent)
    end)
  end

  # A default of nil or [] says nothing that the text does not say.
  defp default_doc(spec) do
    if spec[:default] not in [nil, []], do: " (default `#{inspect(spec[:default])}`)"
  end

  defp required_doc(spec), do: unless(Keyword.has_key?(spec, :default), do: "Required.")

  defp only_with_doc(nil), do: nil
  defp only_with_doc({option, value}), do: "Only with `#{option}: #{inspect(value)}`."

  defp nested_docs({:or, type, _term}, indent), do: nested_docs(type, indent)
  defp nested_docs({:options, specs}, indent), do: "\n\n" <> docs(specs, indent <> "  ") <> "\n"
  defp nested_docs(_type, _indent), do: ""
end
