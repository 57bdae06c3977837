defmodule GrpcLb.LoadReport do
  alias GrpcLb.{Options, Text}

  # As in the message, in the order of the documentation.
  @numbers [
    cpu_utilization:
      "how busy the CPUs are, 1.0 is fully; more when more is asked for than there is.",
    mem_utilization: "how much of the memory is in use, 0.0 to 1.0.",
    application_utilization:
      "how busy the application is by its own measure, 1.0 is fully. It goes before the CPUs.",
    rps_fractional: "requests a second that the server answers.",
    eps: "errors a second."
  ]

  @maps [
    request_cost: "what this call cost, by resource.",
    utilization: "how much of other resources is in use, 0.0 to 1.0 each.",
    named_metrics: "anything else."
  ]

  @number_fields Keyword.keys(@numbers)
  @map_fields Keyword.keys(@maps)

  # Keeps the time short that a report holds a normal scheduler.
  @max_bytes 8 * 1024

  @moduledoc """
  What a server says about its load: an `xds.data.orca.v3.OrcaLoadReport` (ORCA, gRFC A51).

  `{:weighted_round_robin, weights: :reported}` makes its weights from these, see `GrpcLb.Policy`.
  `GrpcLb.complete/3` takes the report that came with an answer, `GrpcLb.report/3` any other. Other
  policies ignore reports.

  A report can be

    * a binary: the message in a gRPC server's trailer `endpoint-load-metrics-bin`, decoded from
      base64. One that is malformed, or exceeds 8 KiB (gRPC's default limit for all metadata of a
      call), is ignored and counted, see `:malformed_reports` in `GrpcLb.info/1`: what a server sends
      is never an error of the call.
    * a map with some of the fields below as keys, for servers that send something else. A wrong
      one is a mistake of the caller, and raises `ArgumentError`.

  ## Fields

  Numbers:

  #{for {field, doc} <- @numbers, do: "  * `#{inspect(field)}` - #{doc}\n"}
  Maps from names, which are strings, to numbers:

  #{for {field, doc} <- @maps, do: "  * `#{inspect(field)}` - #{doc}\n"}
  A weight is made of `:rps_fractional` and a utilization, so a report needs both to count: without
  `metric_names`, `:application_utilization` or `:cpu_utilization`.
  """

  @typedoc "A report as a map, with any of its fields."
  @type fields :: %{
          optional(:cpu_utilization) => number(),
          optional(:mem_utilization) => number(),
          optional(:application_utilization) => number(),
          optional(:rps_fractional) => number(),
          optional(:eps) => number(),
          optional(:request_cost) => metrics(),
          optional(:utilization) => metrics(),
          optional(:named_metrics) => metrics()
        }

  @typedoc "Numbers by name."
  @type metrics :: %{optional(String.t()) => number()}

  @typedoc "A report: encoded, or as a map."
  @type t :: binary() | fields()

  @doc """
  Validates a report and makes its numbers floats, as `GrpcLb.Native` takes it.

  Raises `ArgumentError` when it is neither a binary nor a map of known fields, or when the names and
  numbers in its maps take more than 8 KiB.

      iex> GrpcLb.LoadReport.to_native(%{cpu_utilization: 1, named_metrics: %{"queue" => 3}})
      %{cpu_utilization: 1.0, named_metrics: %{"queue" => 3.0}}

      iex> GrpcLb.LoadReport.to_native(<<0x09, 0.5::float-little>>)
      <<9, 0, 0, 0, 0, 0, 0, 224, 63>>

      iex> GrpcLb.LoadReport.to_native(%{cpu: 0.5})
      ** (ArgumentError) unknown field :cpu of a load report, expected :cpu_utilization or :mem_utilization or :application_utilization or :rps_fractional or :eps or :request_cost or :utilization or :named_metrics
  """
  @spec to_native(t()) :: GrpcLb.Native.load_report()
  def to_native(encoded) when is_binary(encoded), do: encoded

  def to_native(report) when is_map(report) and not is_struct(report) do
    report |> bounded!() |> Map.new(fn {field, reported} -> {field, read!(field, reported)} end)
  end

  def to_native(other) do
    raise ArgumentError, "a load report must be a binary or a map, got: #{Text.show(other)}"
  end

  defp read!(field, reported) when field in @number_fields do
    float!(reported, inspect(field), "a number")
  end

  defp read!(field, metrics) when field in @map_fields do
    unless is_map(metrics) and not is_struct(metrics) do
      refuse!(inspect(field), "a map from strings to numbers", metrics)
    end

    Map.new(metrics, fn {name, reported} ->
      unless is_binary(name) and String.valid?(name) do
        raise ArgumentError,
              "names in #{inspect(field)} of a load report must be strings, got: #{Text.show(name)}"
      end

      {name, float!(reported, "#{Text.show(name)} in #{inspect(field)}", "a number")}
    end)
  end

  defp read!(field, _reported) do
    raise ArgumentError,
          "unknown field #{Text.show(field)} of a load report, " <>
            "expected #{Options.one_of(@number_fields ++ @map_fields)}"
  end

  defp float!(reported, what, expected) do
    with true <- is_number(reported), {:ok, float} <- Options.float(reported) do
      float
    else
      _no_number -> refuse!(what, expected, reported)
    end
  end

  @spec refuse!(String.t(), String.t(), term()) :: no_return()
  defp refuse!(what, expected, got) do
    raise ArgumentError, "#{what} of a load report must be #{expected}, got: #{Text.show(got)}"
  end

  @doc """
  Bounds what `GrpcLb.Native` looks at of a report, which may be anything.

  A binary that is too long stays so, and becomes short. Raises `ArgumentError` when the names and numbers
  in the maps of a report take more than 8 KiB.

      iex> GrpcLb.LoadReport.bounded!(<<0::800_000>>) |> byte_size()
      8193
  """
  @spec bounded!(term()) :: term()
  def bounded!(encoded) when is_binary(encoded) and byte_size(encoded) > @max_bytes,
    do: binary_part(encoded, 0, @max_bytes + 1)

  def bounded!(report) when is_map(report) do
    bytes =
      for field <- @map_fields, is_map_key(report, field), reduce: 0 do
        bytes -> bytes + bytes(Map.get(report, field))
      end

    if bytes > @max_bytes do
      raise ArgumentError,
            "the maps of a load report must take at most #{@max_bytes} bytes, 8 for each number " <>
              "and the names, got: #{bytes}"
    end

    report
  end

  def bounded!(other), do: other

  # Without a look at names that are too many anyway.
  defp bytes(metrics) when is_map(metrics) and 8 * map_size(metrics) > @max_bytes,
    do: 8 * map_size(metrics)

  defp bytes(metrics) when is_map(metrics) do
    for name when is_binary(name) <- Map.keys(metrics),
        reduce: 8 * map_size(metrics),
        do: (bytes -> bytes + byte_size(name))
  end

  defp bytes(_no_metrics), do: 0
end
