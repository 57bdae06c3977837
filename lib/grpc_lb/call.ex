defmodule GrpcLb.Call do
  # A call that is checked out, made and completed in one function: what `GrpcLb.run/3` and those of
  # connections and pools have in common.
  @moduledoc false

  alias GrpcLb.{LoadReport, Options}

  @options [
    key: [
      type: :any,
      default: nil,
      doc: "the key of the call, for policies that hash, see `pick/2`."
    ],
    outcome: [
      type: {:nil_or, {:function, 1}},
      default: nil,
      doc: """
      a function that is given the result and returns how the call went, see `GrpcLb.complete/3`. By
      default `:error`, and every tuple that begins with `:error`, is a failure, and all else a success.
      """
    ],
    load_report: [
      type: {:nil_or, {:function, 1}},
      default: nil,
      doc: """
      a function that is given the result and returns the load report that came with it, see
      `GrpcLb.LoadReport`, or `nil`.
      """
    ]
  ]

  @defaults Map.new(@options, fn {option, spec} -> {option, spec[:default]} end)

  @typep checkout :: (key :: term() -> {:ok, value :: term(), GrpcLb.ticket()} | {:error, term()})

  @doc "The options of a run as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@options)

  @doc "See `GrpcLb.run/3`. `checkout` is given the key of the call."
  @spec run(checkout(), (value :: term() -> result), keyword()) :: result | {:error, term()}
        when result: term()
  def run(checkout, fun, opts) do
    unless is_function(fun, 1) do
      raise ArgumentError, "fun must be a function of one argument, got: #{inspect(fun)}"
    end

    options = options!(opts)

    with {:ok, value, ticket} <- checkout.(options.key) do
      make(value, ticket, fun, options.outcome || (&outcome/1), options.load_report)
    end
  end

  # To validate none takes longer than the rest of the call.
  defp options!([]), do: @defaults
  defp options!(opts), do: Options.validate!(opts, @options, "run/3")

  @doc "Calls `fun` with the value that was checked out, and completes the call."
  @spec make(
          value :: term(),
          GrpcLb.ticket(),
          (value :: term() -> result),
          (result -> GrpcLb.outcome()),
          (result -> LoadReport.t() | nil) | nil
        ) :: result
        when result: term()
  def make(value, ticket, fun, outcome, load_report \\ nil) do
    result = completing(ticket, {:error, :raised}, fn -> fun.(value) end)

    completing(ticket, :cancelled, fn ->
      report = if load_report, do: [load_report: load_report.(result)], else: []
      GrpcLb.complete(ticket, outcome.(result), report)
    end)

    result
  end

  # Calls `fun`, and completes the call if that is as far as it gets.
  defp completing(ticket, outcome, fun) do
    fun.()
  catch
    kind, reason ->
      GrpcLb.complete(ticket, outcome)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "How a call went that had this result, as far as one can see."
  @spec outcome(result :: term()) :: GrpcLb.outcome()
  def outcome(:error), do: {:error, :error}
  def outcome(result) when elem(result, 0) == :error, do: {:error, result}
  def outcome(_result), do: :ok
end
