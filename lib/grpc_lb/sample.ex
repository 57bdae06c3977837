defmodule GrpcLb.Sample do
  # What people are shown of a balancer at one moment. Terms are texts in it: it can be sent to another
  # node or a browser, and says nothing of values.
  @moduledoc false

  alias GrpcLb.{Native, Shown}

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
          backends: [backend()]
        }

  @id_columns 120

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

  defp of(listed, info) do
    layers = Enum.map(info.layers, &%{&1 | locality: &1.locality && text(&1.locality)})

    %{
      at: System.monotonic_time(:millisecond),
      balancer: listed(listed),
      generation: info.generation,
      malformed_reports: info.malformed_reports,
      table: info.table,
      layers: layers,
      backends: backends(info)
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

  defp backends(info) do
    layer = &{&1.priority, &1.locality}
    shares = Map.new(info.layers, &{layer.(&1), &1.share})

    weights =
      Enum.reduce(info.backends, %{}, fn backend, weights ->
        Map.update(weights, layer.(backend), weighs(backend), &(&1 + weighs(backend)))
      end)

    for backend <- info.backends do
      due =
        case weights[layer.(backend)] do
          sum when sum > 0 -> Map.get(shares, layer.(backend), 0.0) * weighs(backend) / sum
          _nobody -> 0.0
        end

      backend(backend, due)
    end
  end

  # What a policy goes by that looks at weights alone.
  defp weighs(%{state: :ready, in_subset: true} = backend), do: backend.current_weight || 0.0
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
      state: if(backend.in_subset, do: backend.state, else: :unused),
      left: backend.ejected_until,
      due: due,
      locality: backend.locality && text(backend.locality)
    })
  end

  defp text(term), do: Shown.term(term, @id_columns)
end
