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

  @wait_options [
    wait_for_ready: [
      type: {:or, {:or, {:or, {:ms, 0}, :infinity}, false}, nil},
      default: nil,
      doc: """
      how many milliseconds to wait while there is nothing to pick, or `:infinity`; `false` and 0 are not
      at all.
      """
    ]
  ]

  @prepared Options.prepare(@options)
  @prepared_to_wait Options.prepare(@options ++ @wait_options)
  @prepared_wait Options.prepare(@wait_options)

  @typedoc "How long a call waits while there is nothing to pick. `nil` was not said."
  @type wait :: timeout() | false | nil

  @typep checkout ::
           (options :: map() -> {:ok, value :: term(), GrpcLb.ticket()} | {:error, term()})

  @doc "The options of a run as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@options)

  @doc "The options of a run that can wait."
  @spec docs_to_wait() :: String.t()
  def docs_to_wait, do: Options.docs(@options ++ @wait_options)

  @doc "The options of a pick that can wait."
  @spec wait_docs() :: String.t()
  def wait_docs, do: Options.docs(@wait_options)

  @doc """
  Reads the options of a pick that can wait. The quick way for those that are as they should be.

      iex> GrpcLb.Call.wait!([wait_for_ready: 1_000], "pick/3")
      1000
      iex> GrpcLb.Call.wait!([wait_for_ready: :soon], "pick/3")
      ** (ArgumentError) option :wait_for_ready of pick/3 must be a number of milliseconds from 0 to 4294967295, or :infinity, or false, or nil, got: :soon
  """
  @spec wait!(keyword(), whose :: String.t()) :: wait()
  def wait!([], _whose), do: nil

  def wait!([wait_for_ready: wait], _whose)
      when wait in [:infinity, false] or (is_integer(wait) and wait in 0..0xFFFFFFFF),
      do: wait

  def wait!(opts, whose), do: Options.validate!(opts, @prepared_wait, whose).wait_for_ready

  @doc "See `GrpcLb.run/3`. `checkout` is given the options of the call."
  @spec run(checkout(), (value :: term() -> result), keyword()) :: result | {:error, term()}
        when result: term()
  def run(checkout, fun, opts), do: run(checkout, fun, opts, @prepared)

  @doc "As `run/3`, of what can wait until there is something to pick: the options say how long."
  @spec run_to_wait(checkout(), (value :: term() -> result), keyword()) ::
          result | {:error, term()}
        when result: term()
  def run_to_wait(checkout, fun, opts), do: run(checkout, fun, opts, @prepared_to_wait)

  defp run(checkout, fun, opts, prepared) do
    unless is_function(fun, 1) do
      raise ArgumentError, "fun must be a function of one argument, got: #{inspect(fun)}"
    end

    options = options!(opts, prepared)

    with {:ok, value, ticket} <- checkout.(options) do
      make(value, ticket, fun, options.outcome || (&outcome/1), options.load_report)
    end
  end

  defp options!([], prepared), do: prepared.defaults
  defp options!(opts, prepared), do: Options.validate!(opts, prepared, "run/3")

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
