defmodule GrpcLb.Call do
  # Begins a call, makes it and ends it: `run/3` of balancers, connections and pools.
  @moduledoc false

  alias GrpcLb.{CallEvent, Line, LoadReport, Native, Options, Slots, Text}

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
    ],
    telemetry: [
      type: {:one_of, [true, false]},
      default: false,
      doc: "whether the call is told as `[:grpc_lb, :call, :stop]`, see `GrpcLb.Telemetry`."
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

  # A step less each for every call. What one of these calls is not inlined with it.
  @compile {:inline, run_in: 3, outcome: 1, native_outcome!: 1}

  @typedoc "How long a call waits while there is nothing to pick. `nil` was not said."
  @type wait :: timeout() | false | nil

  @typedoc "The options of a call: read, and with their defaults."
  @type options :: %{
          required(:key) => term(),
          required(:outcome) => (result :: term() -> GrpcLb.outcome()) | nil,
          required(:telemetry) => boolean(),
          required(:load_report) => (result :: term() -> LoadReport.t() | nil) | nil,
          optional(:wait_for_ready) => wait()
        }

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

  @doc """
  See `GrpcLb.run/3`. Without options it does the same in fewer steps, each of which is a tenth of a call.

  `fun` and `balancer` are kept while the call begins, and the options between them are not: arguments side
  by side would be read in one go, for which a processor waits where they have just been written one by one.
  """
  @spec run(GrpcLb.balancer(), keyword(), (value :: term() -> result)) ::
          result | {:error, :no_backends | :closed | :overloaded}
        when result: term()
  def run(balancer, [], fun) when is_function(fun, 1) do
    # As `Slots.own/0`.
    case :erlang.get(Slots) do
      {pid, slots} when pid == self() ->
        run_in(slots, balancer, fun)

      _none ->
        Slots.own()
        run(balancer, [], fun)
    end
  end

  def run(balancer, opts, fun), do: run_with_options(balancer, opts, fun)

  # Inlined: all of a call is in one branch, or what is in both would be saved before them.
  defp run_in(slots, balancer, fun) do
    case Native.begin_call(balancer, slots) do
      {:ok, value, slot} when is_integer(slot) ->
        result =
          try do
            fun.(value)
          catch
            kind, reason ->
              Native.end_call(slots, slot, :error, nil, nil)
              :erlang.raise(kind, reason, __STACKTRACE__)
          end

        Native.end_call(slots, slot, result |> outcome() |> native_outcome!(), nil, nil)
        result

      {:ok, value, ticket} ->
        make(slots, ticket, value, fun, @prepared.defaults)

      {:error, reason} when reason in [:no_backends, :closed] ->
        {:error, reason}

      _not_yet ->
        run_with_options(balancer, [], fun)
    end
  end

  defp run_with_options(balancer, opts, fun) do
    options = read!(fun, opts, @prepared)
    slots = Slots.own()

    with {:ok, value, call} <- Line.begin(balancer, slots, options.key),
         do: make(balancer, slots, call, value, fun, options)
  end

  @doc "Reads the arguments of a run that can wait until there is something to pick."
  @spec read_to_wait!(fun :: term(), keyword()) :: options()
  def read_to_wait!(fun, opts), do: read!(fun, opts, @prepared_to_wait)

  defp read!(fun, [], prepared) when is_function(fun, 1), do: prepared.defaults

  defp read!(fun, opts, prepared) when is_function(fun, 1),
    do: Options.validate!(opts, prepared, "run/3")

  defp read!(fun, _opts, _prepared) do
    raise ArgumentError, "fun must be a function of one argument, got: #{Text.show(fun)}"
  end

  @doc "As `make/5`, and the call is told if its options say so."
  @spec make(
          CallEvent.whose(),
          Native.slots(),
          Slots.call(),
          value :: term(),
          (term() -> result),
          options()
        ) :: result
        when result: term()
  def make(_whose, slots, call, value, fun, %{telemetry: false} = options),
    do: make(slots, call, value, fun, options)

  def make(whose, slots, call, value, fun, options) do
    CallEvent.tell(whose, value, fn keep ->
      # What it has ended as where it does not come further.
      keep.(:error)

      calling = fn value ->
        result = fun.(value)
        keep.(:cancelled)
        result
      end

      make(slots, call, value, calling, judged(options, keep))
    end)
  end

  defp judged(%{outcome: judge, load_report: reported} = options, keep) do
    told = fn result ->
      outcome = if judge, do: judge.(result), else: outcome(result)
      keep.(native_outcome!(outcome))
      outcome
    end

    # The call is cancelled where a report is malformed, which is to be known before it is told.
    checked = fn result ->
      report = reported.(result)
      if report, do: LoadReport.to_native(report)
      report
    end

    %{options | outcome: told, load_report: reported && checked}
  end

  @doc "Calls `fun` with the value of a call that has begun, and ends the call."
  @spec make(Native.slots(), Slots.call(), value :: term(), (term() -> result), options()) ::
          result
        when result: term()
  def make(slots, call, value, fun, options) do
    result =
      try do
        fun.(value)
      catch
        kind, reason ->
          Slots.finish(slots, call, :error, nil)
          :erlang.raise(kind, reason, __STACKTRACE__)
      end

    case options do
      # Nothing in here can raise.
      %{outcome: nil, load_report: nil} ->
        Slots.finish(slots, call, result |> outcome() |> native_outcome!(), nil)

      options ->
        finish(slots, call, result, options)
    end

    result
  end

  defp finish(slots, call, result, %{outcome: judge, load_report: reported}) do
    report = reported && reported.(result)
    outcome = if judge, do: judge.(result), else: outcome(result)
    Slots.finish(slots, call, native_outcome!(outcome), report && LoadReport.to_native(report))
  catch
    kind, reason ->
      Slots.finish(slots, call, :cancelled, nil)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "An outcome as `GrpcLb.Native` has it."
  @spec native_outcome!(GrpcLb.outcome()) :: Native.outcome()
  def native_outcome!(:ok), do: :ok
  def native_outcome!({:error, {:transport, _reason}}), do: :transport_error
  def native_outcome!({:error, _reason}), do: :error
  def native_outcome!(:cancelled), do: :cancelled

  def native_outcome!(other) do
    raise ArgumentError,
          "outcome must be :ok, {:error, reason} or :cancelled, got: #{Text.show(other)}"
  end

  @doc "The outcome of a call, judged by its result."
  @spec outcome(result :: term()) :: GrpcLb.outcome()
  def outcome(:error), do: {:error, :error}
  def outcome({:error, {:transport, _reason}} = unreached), do: unreached
  def outcome(result) when elem(result, 0) == :error, do: {:error, result}
  def outcome(_result), do: :ok
end
