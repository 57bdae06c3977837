defmodule GrpcLb.Call do
  # Checks a call out, makes it and completes it: `run/3` of balancers, connections and pools.
  @moduledoc false

  alias GrpcLb.{LoadReport, Options}

  @options [
    key: [
      type: :any,
      default: nil,
      doc: "the key of the call, see `pick/2`."
    ],
    outcome: [
      type: {:or, {:function, 1}, nil},
      default: nil,
      doc: """
      a function from the result to how the call went, see `GrpcLb.complete/3`. By default `:error`,
      and every tuple that begins with it, is a failure, and all else a success;
      `{:error, {:transport, reason}}` is a failure of the transport.
      """
    ],
    load_report: [
      type: {:or, {:function, 1}, nil},
      default: nil,
      doc: """
      a function from the result to the load report that came with it, see `GrpcLb.LoadReport`, or to
      `nil`.
      """
    ]
  ]

  @prepared Options.prepare(@options)

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

  defp options!([]), do: @prepared.defaults
  defp options!(opts), do: Options.validate!(opts, @prepared, "run/3")

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

  # Calls `fun`, and completes the call if it raises, exits or throws.
  defp completing(ticket, outcome, fun) do
    fun.()
  catch
    kind, reason ->
      GrpcLb.complete(ticket, outcome)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "The outcome of a call, judged by its result."
  @spec outcome(result :: term()) :: GrpcLb.outcome()
  def outcome(:error), do: {:error, :error}
  def outcome({:error, {:transport, _reason}} = unreached), do: unreached
  def outcome(result) when elem(result, 0) == :error, do: {:error, result}
  def outcome(_result), do: :ok
end
