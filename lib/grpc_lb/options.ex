defmodule GrpcLb.Options do
  # Options as data: both their validation and their documentation are made from it.
  @moduledoc false

  # The longest time that a process of the VM can wait.
  @max_ms 0xFFFFFFFF

  @typedoc """
  What a setting can be. Numbers become floats, and a list of nested options a map.
  """
  @type type ::
          :any
          | :local_pid
          | :strings
          | {:function, arity()}
          | {:integer, Range.t()}
          | {:ms, from :: 0 | 1}
          | {:number, [from: number(), above: number(), to: number()]}
          | {:one_of, [term()]}
          | {:options, specs()}
          | {:nil_or, type()}

  @typedoc """
  What is known of an option.

    * `:type` - what it can be
    * `:default` - what it is when it is left out; without one it is required
    * `:at_least`, `:at_most` - what is below or above becomes this
    * `:only_with` - the option and its setting without which this one is refused
    * `:doc` - what it is for, in Markdown
  """
  @type spec :: [
          type: type(),
          default: term(),
          at_least: number(),
          at_most: number(),
          only_with: {atom(), term()},
          doc: String.t()
        ]

  @type specs :: [{option :: atom(), spec()}]

  @doc """
  Validates options and spells all of them out. `of` says whose they are, for the errors.

  Of an option that is given twice the first one counts, as everywhere with keyword lists. Raises
  `ArgumentError` that names the option, what was given and what is allowed.

      iex> specs = [choices: [type: {:integer, 2..100}, default: 2, at_most: 10]]
      iex> GrpcLb.Options.validate!([], specs)
      %{choices: 2}
      iex> GrpcLb.Options.validate!([choices: 50], specs)
      %{choices: 10}
      iex> GrpcLb.Options.validate!([choices: 1], specs, ":least_request")
      ** (ArgumentError) option :choices of :least_request must be an integer from 2 to 100, got: 1
  """
  @spec validate!(term(), specs(), of :: String.t() | nil) :: %{atom() => term()}
  def validate!(opts, specs, of \\ nil) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "options#{of(of)} must be a keyword list, got: #{inspect(opts)}"
    end

    for {option, _setting} <- opts, not Keyword.has_key?(specs, option) do
      raise ArgumentError,
            "unknown option #{inspect(option)}#{of(of)}, #{known(Keyword.keys(specs))}"
    end

    settings = Map.new(specs, fn {option, spec} -> {option, setting!(option, spec, opts, of)} end)

    for {option, spec} <- specs, {other, needed} <- List.wrap(spec[:only_with]) do
      if Keyword.has_key?(opts, option) and settings[other] != needed do
        raise ArgumentError,
              "option #{inspect(option)}#{of(of)} is for #{other}: #{inspect(needed)} only, " <>
                "got it with #{other}: #{inspect(settings[other])}"
      end
    end

    settings
  end

  @doc "The options as a list in Markdown."
  @spec docs(specs()) :: String.t()
  def docs(specs), do: docs(specs, "  ")

  @doc "Terms to choose from, as text."
  @spec one_of([term()]) :: String.t()
  def one_of(terms), do: Enum.map_join(terms, " or ", &inspect/1)

  defp of(nil), do: ""
  defp of(whose), do: " of #{whose}"

  defp known([]), do: "it has none"
  defp known(options), do: "expected #{one_of(options)}"

  defp setting!(option, spec, opts, of) do
    case Keyword.fetch(opts, option) do
      {:ok, setting} -> given!(option, spec, setting, of)
      :error -> default!(option, spec, of)
    end
  end

  defp given!(option, spec, setting, of) do
    case read(spec[:type], setting, "#{inspect(option)}#{of(of)}") do
      {:ok, read} ->
        clamp(read, spec[:at_least], spec[:at_most])

      :error ->
        raise ArgumentError,
              "option #{inspect(option)}#{of(of)} must be #{allowed(spec[:type])}, " <>
                "got: #{inspect(setting)}"
    end
  end

  defp clamp(setting, at_least, _at_most) when at_least != nil and setting < at_least,
    do: at_least

  defp clamp(setting, _at_least, at_most) when at_most != nil and setting > at_most, do: at_most
  defp clamp(setting, _at_least, _at_most), do: setting

  defp default!(option, spec, of) do
    Keyword.get_lazy(spec, :default, fn ->
      raise ArgumentError,
            "option #{inspect(option)}#{of(of)} is required, and must be #{allowed(spec[:type])}"
    end)
  end

  # `whose` is the option itself, whose the nested ones are.
  defp read({:nil_or, _type}, nil, _whose), do: {:ok, nil}
  defp read({:nil_or, type}, setting, whose), do: read(type, setting, whose)
  defp read({:options, specs}, opts, whose), do: {:ok, validate!(opts, specs, whose)}

  defp read({:number, bounds}, setting, _whose) when is_number(setting) do
    with true <- Enum.all?(bounds, &within?(&1, setting)),
         {:ok, float} <- float(setting) do
      {:ok, float}
    else
      _not_within -> :error
    end
  end

  defp read(type, setting, _whose) do
    if is?(type, setting), do: {:ok, setting}, else: :error
  end

  @doc "A number as a float, unless it is too large for one."
  @spec float(number()) :: {:ok, float()} | :error
  def float(number) do
    {:ok, number / 1}
  rescue
    ArithmeticError -> :error
  end

  defp within?({:from, from}, number), do: number >= from
  defp within?({:above, above}, number), do: number > above
  defp within?({:to, to}, number), do: number <= to

  defp is?(:any, _setting), do: true
  defp is?(:local_pid, setting), do: is_pid(setting) and node(setting) == node()
  defp is?({:function, arity}, setting), do: is_function(setting, arity)
  defp is?({:integer, range}, setting), do: is_integer(setting) and setting in range
  defp is?({:ms, from}, setting), do: is?({:integer, from..@max_ms}, setting)
  defp is?({:number, _bounds}, _setting), do: false
  defp is?({:one_of, terms}, setting), do: setting in terms

  defp is?(:strings, setting) do
    is_list(setting) and not List.improper?(setting) and
      Enum.all?(setting, &(is_binary(&1) and String.valid?(&1)))
  end

  defp allowed(:any), do: "any term"
  defp allowed(:local_pid), do: "a pid of this node"
  defp allowed(:strings), do: "a list of strings"
  defp allowed({:function, 1}), do: "a function of one argument"
  defp allowed({:integer, from..to//_step}), do: "an integer from #{from} to #{to}"
  defp allowed({:ms, from}), do: "a number of milliseconds from #{from} to #{@max_ms}"
  defp allowed({:one_of, terms}), do: one_of(terms)
  defp allowed({:options, _specs}), do: "a keyword list"
  defp allowed({:nil_or, type}), do: "#{allowed(type)}, or nil"

  defp allowed({:number, bounds}) do
    "a number " <> Enum.map_join(bounds, " ", fn {word, bound} -> "#{word} #{bound}" end)
  end

  defp docs(specs, indent) do
    Enum.map_join(specs, "\n", fn {option, spec} ->
      text =
        [spec[:doc], required(spec), only_with(spec[:only_with])]
        |> Enum.reject(&is_nil/1)
        |> Enum.map_join(" ", &String.trim/1)
        |> String.replace("\n", "\n#{indent}  ")

      "#{indent}* `#{inspect(option)}`#{default(spec)} - #{text}" <> nested(spec[:type], indent)
    end)
  end

  # A default of nil or [] says nothing that the text does not say.
  defp default(spec) do
    if spec[:default] not in [nil, []], do: " (default `#{inspect(spec[:default])}`)"
  end

  defp required(spec), do: unless(Keyword.has_key?(spec, :default), do: "Required.")

  defp only_with(nil), do: nil
  defp only_with({option, setting}), do: "Only with `#{option}: #{inspect(setting)}`."

  defp nested({:nil_or, type}, indent), do: nested(type, indent)
  defp nested({:options, specs}, indent), do: "\n\n" <> docs(specs, indent <> "  ") <> "\n"
  defp nested(_type, _indent), do: ""
end
