defmodule GrpcLb.Metrics do
  alias GrpcLb.{Namesakes, Text}

  # In the order of the text. `of` is the field of what is measured.
  @gauges [
    %{
      name: "grpc_lb_balancer_backends",
      of: {:balancer, :backends},
      doc: "Backends that are listed."
    },
    %{
      name: "grpc_lb_balancer_healthy_backends",
      of: {:balancer, :healthy},
      doc: "Backends that are ready and not ejected."
    },
    %{
      name: "grpc_lb_backend_in_flight",
      of: {:backend, :in_flight},
      doc: "Calls that were checked out and have not ended."
    },
    %{
      name: "grpc_lb_backend_share",
      of: {:backend, :share},
      doc: "Part of the picks that the listed backends have had since each was listed, 0 to 1."
    },
    %{
      name: "grpc_lb_backend_weight",
      of: {:backend, :weight},
      doc: "Weight that picks go by now."
    },
    %{
      name: "grpc_lb_backend_ejected",
      of: {:backend, :ejected},
      doc: "1 while outlier detection leaves it out, else 0."
    },
    %{
      name: "grpc_lb_backend_latency_seconds",
      of: {:backend, :latency},
      doc: "Mean latency of calls, in which the past fades."
    }
  ]

  @most_balancers 1_000
  @most_backends 2_000
  @label 120

  @moduledoc """
  What balancers do now, as text for Prometheus and others that read OpenMetrics.

  Any handler of HTTP can serve it:

      send_resp(
        put_resp_header(conn, "content-type", GrpcLb.Metrics.content_type()),
        200,
        GrpcLb.Metrics.text()
      )

  It is of all balancers with a name: see `:name` of `GrpcLb.new/3`, which those of connections and pools
  have by themselves. A name that is a reference, as a connection has that was given none, is none, and
  closed balancers are left out.

  #{for gauge <- @gauges do
    "  * `#{gauge.name}` - #{gauge.doc}\n"
  end}
  The labels are `balancer`, the name, and `backend`, the id: a text as it is, any other term as Elixir shows
  it. Of what is longer than #{@label} characters the rest is left out. Where two backends would have the same
  label the second has `#2` behind it, and so on, in the order in which they are listed. Where two balancers
  would, the one that was made later has its number (see `GrpcLb.all/0`), such as `#17`, for as long as it
  lives. What has no value, such as the latency of a backend that was never called, has no line.

  There are #{@most_balancers} balancers and #{@most_backends} backends at most, those that were made first;
  `grpc_lb_balancers_left_out` and `grpc_lb_backends_left_out` say how many there are more. To read them takes the
  lock of every balancer with a name for a moment, and copies its backends: every some seconds, not every
  call.
  """

  @typedoc "What is known of a backend; `latency` is in native time units."
  @type backend :: %{
          id: term(),
          in_flight: non_neg_integer(),
          share: float(),
          weight: float() | nil,
          ejected: 0 | 1,
          latency: non_neg_integer() | nil
        }

  @typedoc "What is known of a balancer."
  @type balancer :: %{
          name: term(),
          label: String.t(),
          balancer: GrpcLb.view(),
          backends: non_neg_integer(),
          healthy: non_neg_integer()
        }

  @doc """
  The type of the text, for the header `content-type`.

      iex> GrpcLb.Metrics.content_type()
      "application/openmetrics-text; version=1.0.0; charset=utf-8"
  """
  @spec content_type() :: String.t()
  def content_type, do: "application/openmetrics-text; version=1.0.0; charset=utf-8"

  @doc """
  The metrics as text, see above.

      iex> {:ok, lb} = GrpcLb.new(:least_request, ["10.0.0.1"], name: "payments in a doctest")
      iex> {:ok, _value, ticket} = GrpcLb.checkout(lb)
      iex> GrpcLb.Metrics.text() =~
      ...>   ~s(grpc_lb_backend_in_flight{balancer="payments in a doctest",backend="10.0.0.1"} 1\\n)
      true
      iex> GrpcLb.complete(ticket, :ok)
      iex> GrpcLb.close(lb)
      :ok
  """
  @spec text() :: String.t()
  def text do
    {measured, left_out} = measure()
    labelled = labelled(measured)
    gauges = for gauge <- @gauges, do: family(gauge, labelled)
    rest = for what <- [:balancers, :backends], do: left_out(what, left_out[what])
    IO.iodata_to_binary([gauges, rest, "# EOF\n"])
  end

  defp left_out(what, count) do
    doc = "How many #{what} are left out here, since there are too many."
    family("grpc_lb_#{what}_left_out", doc, [[" ", Integer.to_string(count)]])
  end

  @doc false
  # Balancers with a name, with their backends, and how many of both are left out.
  @spec measure() :: {[{balancer(), [backend()]}], left_out}
        when left_out: %{balancers: non_neg_integer(), backends: non_neg_integer()}
  def measure do
    named = for %{name: name, closed: false} = listed <- GrpcLb.all(), named?(name), do: listed

    {some, rest} = Enum.split(named, @most_balancers)
    theirs = rest |> Enum.map(& &1.size) |> Enum.sum()
    labels = Namesakes.tell_apart(for %{name: name} = it <- some, do: {label(name), it.number})

    {measured, {_room, left_out}} =
      some
      |> Enum.zip(labels)
      |> Enum.flat_map_reduce({@most_backends, theirs}, fn {listed, label}, {room, left_out} ->
        measure_one(listed, label, room, left_out)
      end)

    {measured, %{balancers: length(rest), backends: left_out}}
  end

  defp named?(name), do: name != nil and not is_reference(name)

  # It is not asked where there is no room: that would copy all its backends.
  defp measure_one(%{size: size}, _label, 0, left_out), do: {[], {0, left_out + size}}

  defp measure_one(%{balancer: view, name: name}, label, room, left_out) do
    case GrpcLb.info(view) do
      # It has closed meanwhile.
      %{closed: true} ->
        {[], {room, left_out}}

      %{backends: all, layers: layers} ->
        {some, rest} = Enum.split(all, room)
        healthy = layers |> Enum.map(& &1.healthy) |> Enum.sum()

        about = %{
          name: name,
          label: label,
          balancer: view,
          backends: length(all),
          healthy: healthy
        }

        picks = all |> Enum.map(& &1.picks) |> Enum.sum()
        backends = Enum.map(some, &backend(&1, max(picks, 1)))
        {[{about, backends}], {room - length(some), left_out + length(rest)}}
    end
  end

  defp backend(backend, picks) do
    %{
      id: backend.id,
      in_flight: backend.in_flight,
      share: backend.picks / picks,
      weight: backend.current_weight,
      ejected: if(backend.ejected_until, do: 1, else: 0),
      latency:
        backend.latency_ns && System.convert_time_unit(backend.latency_ns, :nanosecond, :native)
    }
  end

  @doc false
  # A name or an id as a label.
  @spec label(term()) :: String.t()
  def label(term) do
    text =
      if is_binary(term) and byte_size(term) < 16 * @label and String.valid?(term),
        do: term,
        else: Text.show(term, @label)

    if String.length(text) > @label, do: String.slice(text, 0, @label) <> "...", else: text
  end

  defp labelled(measured) do
    for {about, backends} <- measured do
      ids = unique(for backend <- backends, do: label(backend.id))
      {~s(balancer="#{escape(about.label)}"), about, Enum.zip(Enum.map(ids, &escape/1), backends)}
    end
  end

  # With the number that the next one of each label has, if that is free.
  defp unique(labels) do
    {unique, _next} =
      Enum.map_reduce(labels, %{}, fn label, next ->
        {free, n} = first_free(label, next, Map.get(next, label, 1))
        {free, next |> Map.put(label, n + 1) |> Map.put_new(free, 2)}
      end)

    unique
  end

  defp first_free(label, _taken, 1), do: {label, 1}

  defp first_free(label, taken, n) do
    numbered = "#{label} ##{n}"
    if is_map_key(taken, numbered), do: first_free(label, taken, n + 1), else: {numbered, n}
  end

  # As the format has it; a line feed would end the line.
  defp escape(label) do
    label
    |> String.replace("\\", "\\\\")
    |> String.replace("\"", "\\\"")
    |> String.replace("\n", "\\n")
  end

  defp family(%{name: name, of: {:balancer, field}, doc: doc}, labelled) do
    samples = for {balancer, about, _backends} <- labelled, do: sample(balancer, about[field])
    family(name, doc, samples)
  end

  defp family(%{name: name, of: {:backend, field}, doc: doc}, labelled) do
    samples =
      for {balancer, _about, backends} <- labelled,
          {id, %{^field => value}} when value != nil <- backends,
          do: sample([balancer, ~s(,backend="), id, ?"], value(field, value))

    family(name, doc, samples)
  end

  defp family(name, doc, samples) do
    head = "# TYPE #{name} gauge\n# HELP #{name} #{doc}\n"
    [head | Enum.map(samples, &[name, &1, ?\n])]
  end

  defp sample(labels, value), do: [?{, labels, "} ", number(value)]

  defp value(:latency, native),
    do: System.convert_time_unit(native, :native, :nanosecond) / 1.0e9

  defp value(_field, value), do: value

  defp number(integer) when is_integer(integer), do: Integer.to_string(integer)
  defp number(float), do: Float.to_string(float)
end
