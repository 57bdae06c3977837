defmodule GrpcLb.Look.Sample do
  # What people are shown of a balancer at one moment. Terms are texts in it: it can be sent to another
  # node or a browser, and says nothing of values. Nobody reads a table of 100,000 backends: a sample has
  # some of them, and sums of all.
  @moduledoc false

  alias GrpcLb.Look.Shown
  alias GrpcLb.Native

  @type backend :: %{
          key: String.t(),
          id: String.t(),
          state: GrpcLb.state() | :ejected | :down | :unused,
          left: non_neg_integer() | nil,
          ejected_by: GrpcLb.ejection_rule() | nil,
          weight: non_neg_integer(),
          current_weight: float() | nil,
          table_share: float() | nil,
          due: float(),
          picks: non_neg_integer(),
          in_flight: non_neg_integer(),
          oldest_in_flight: non_neg_integer() | nil,
          latency_ns: non_neg_integer() | nil,
          successes: non_neg_integer(),
          failures: non_neg_integer(),
          times_ejected: non_neg_integer(),
          priority: non_neg_integer(),
          locality: String.t() | nil
        }

  @type listed :: %{
          number: pos_integer(),
          name: String.t() | nil,
          policy: String.t(),
          owner: String.t() | nil,
          size: non_neg_integer(),
          closed: boolean()
        }

  @type t :: %{
          at: integer(),
          balancer: listed(),
          generation: non_neg_integer(),
          malformed_reports: non_neg_integer(),
          table: map() | nil,
          layers: [map()],
          totals: totals(),
          left_out: non_neg_integer(),
          backends: [backend()]
        }

  @typedoc "Of all backends, also of those that are left out."
  @type totals :: %{
          states: %{atom() => pos_integer()},
          picks: non_neg_integer(),
          failures: non_neg_integer(),
          in_flight: non_neg_integer(),
          oldest_in_flight: non_neg_integer() | nil
        }

  @id_columns 120
  @most 500

  @doc "How many backends a sample has at most."
  @spec most() :: pos_integer()
  def most, do: @most

  @doc "The balancers that live, those last that are closed."
  @spec list() :: [listed()]
  def list, do: GrpcLb.all() |> Enum.map(&listed/1) |> Enum.sort_by(& &1.closed)

  @doc "A balancer by its number, if it lives."
  @spec take(pos_integer()) :: {:ok, t()} | :error
  def take(number) do
    # The last build comes first, where there are several.
    case Enum.concat(Native.find(number)) do
      [found | _of_builds_before] -> {:ok, of(found, GrpcLb.info(found.balancer))}
      [] -> :error
    end
  end

  @doc "One that is at hand. By its number it would be mistaken for one of another build."
  @spec of(GrpcLb.balancer() | GrpcLb.view()) :: t()
  def of(balancer) do
    summary = Native.summary(balancer)
    info = GrpcLb.info(balancer)
    same = &(&1.policy == summary.policy)

    # Where builds disagree about whose number it is, nobody knows its owner, and of one that has gone neither.
    owner =
      case summary.number |> Native.find() |> Enum.concat() |> Enum.filter(same) do
        [one] -> one.owner
        _none_or_several -> nil
      end

    of(Map.merge(summary, %{name: info[:name], owner: owner}), info)
  end

  defp of(listed, info) do
    layers = Enum.map(info.layers, &%{&1 | locality: &1.locality && text(&1.locality)})

    %{
      at: System.monotonic_time(:millisecond),
      balancer: listed(listed),
      generation: info.generation,
      malformed_reports: info.malformed_reports,
      table: info.table,
      layers: layers,
      totals: totals(info.backends),
      left_out: max(length(info.backends) - @most, 0),
      backends:
        info |> due() |> some() |> Enum.map(fn {backend, due} -> backend(backend, due) end)
    }
  end

  defp listed(listed) do
    %{
      number: listed.number,
      name: if(listed.name != nil, do: text(listed.name)),
      policy: Atom.to_string(listed.policy),
      owner: listed.owner && text(listed.owner),
      size: listed.size,
      closed: listed.closed
    }
  end

  defp totals(backends) do
    none = %{states: %{}, picks: 0, failures: 0, in_flight: 0, oldest_in_flight: nil}

    Enum.reduce(backends, none, fn backend, totals ->
      %{
        states: Map.update(totals.states, state(backend), 1, &(&1 + 1)),
        picks: totals.picks + backend.picks,
        failures: totals.failures + backend.failures,
        in_flight: totals.in_flight + backend.in_flight,
        oldest_in_flight: oldest(totals.oldest_in_flight, backend.oldest_in_flight)
      }
    end)
  end

  defp oldest(nil, other), do: other
  defp oldest(one, nil), do: one
  defp oldest(one, other), do: max(one, other)

  # Those that are not well first, else as listed: by what changes all the time, such as picks, others
  # would be shown at each look, and nothing could be told of what happened in between.
  defp some(backends) do
    {well, unwell} =
      Enum.split_with(backends, fn {backend, _due} -> state(backend) in [:ready, :unused] end)

    if unwell != [] and match?([_ | _], Enum.drop(backends, @most)),
      do: Enum.take(unwell ++ well, @most),
      else: Enum.take(backends, @most)
  end

  defp state(%{in_subset: false}), do: :unused
  defp state(%{state: state}), do: state

  # Each backend with the part of picks that is due to it.
  defp due(info) do
    layer = &{&1.priority, &1.locality}
    shares = Map.new(info.layers, &{layer.(&1), &1.share})

    weights =
      for {layer, backends} <- Enum.group_by(info.backends, layer, &weighs/1), into: %{} do
        known = for weight <- backends, is_number(weight), weight > 0, do: weight
        # Of whom reports are awaited each is an average one (gRFC A58).
        average = if known == [], do: 1.0, else: Enum.sum(known) / length(known)
        {layer, {average, Enum.sum(for weight <- backends, do: weight || average)}}
      end

    for backend <- info.backends do
      due =
        case weights[layer.(backend)] do
          {average, sum} when sum > 0 ->
            Map.get(shares, layer.(backend), 0.0) * (weighs(backend) || average) / sum

          _nobody ->
            0.0
        end

      {backend, due}
    end
  end

  # What a policy goes by that looks keys up in a table, or at weights alone; `nil` is not known.
  defp weighs(%{state: :ready, in_subset: true, table_share: share}) when is_number(share),
    do: share

  defp weighs(%{state: :ready, in_subset: true} = backend), do: backend.current_weight
  defp weighs(_other), do: 0.0

  defp backend(backend, due) do
    id = text(backend.id)

    backend
    |> Map.take([
      :weight,
      :current_weight,
      :table_share,
      :picks,
      :in_flight,
      :oldest_in_flight,
      :latency_ns,
      :successes,
      :failures,
      :ejected_by,
      :times_ejected,
      :priority
    ])
    # A build of the library from before an upgrade says less.
    |> Map.merge(%{table_share: nil, ejected_by: nil}, fn _field, said, _nil -> said end)
    |> Map.merge(%{
      # Two may look the same.
      key: "#{id} #{:erlang.phash2(backend.id)}",
      id: id,
      state: state(backend),
      left: backend.ejected_until,
      due: due,
      locality: backend.locality && text(backend.locality)
    })
  end

  defp text(term), do: Shown.term(term, @id_columns)
end
