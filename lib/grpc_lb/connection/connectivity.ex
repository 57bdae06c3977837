defmodule GrpcLb.Connection.Connectivity do
  @moduledoc false
  # The state of a connection, from those of its backends, as gRPC's round_robin has it (gRFC A61, A62
  # and [connectivity
  # semantics](https://github.com/grpc/grpc/blob/master/doc/connectivity-semantics-and-api.md)). Pure.

  alias GrpcLb.Connection.Plan

  @type state :: :idle | :connecting | :ready | :transient_failure | :shutdown

  @typedoc "What is known of each backend."
  @type t :: %{Plan.id() => state()}

  @doc """
  What is known after a change, given the backends that are wanted with the states that they have. One
  that has failed has failed until it is up: another attempt does not change that. With pick_first
  until any is, for then all is begun anew when that is lost (gRFC A62).

      iex> alias GrpcLb.Connection.Connectivity
      iex> failed = Connectivity.update(%{}, [{"a", :up}, {"b", :backoff}])
      %{"a" => :ready, "b" => :transient_failure}
      iex> Connectivity.update(failed, [{"a", :opening}, {"b", :opening}, {"c", :opening}])
      %{"a" => :connecting, "b" => :transient_failure, "c" => :connecting}
  """
  @spec update(t(), [{Plan.id(), Plan.state()}]) :: t()
  def update(known, backends) do
    known = if List.keymember?(backends, :up, 1), do: forget_idle(known, backends), else: known
    Map.new(backends, fn {id, state} -> {id, next(Map.get(known, id), state)} end)
  end

  defp forget_idle(known, backends), do: Map.drop(known, for({id, :idle} <- backends, do: id))

  defp next(_before, :up), do: :ready
  defp next(_before, :backoff), do: :transient_failure
  defp next(:transient_failure, _on_its_way), do: :transient_failure
  defp next(_before, :idle), do: :idle
  defp next(_before, _on_its_way), do: :connecting

  @doc """
  The state of the whole. Without a backend that of the resolution counts.

      iex> GrpcLb.Connection.Connectivity.of(%{"a" => :transient_failure, "b" => :connecting}, :ok)
      :connecting
      iex> GrpcLb.Connection.Connectivity.of(%{}, {:error, :nxdomain})
      :transient_failure
  """
  @spec of(t(), resolution :: :pending | :ok | {:error, term()}) :: state()
  def of(none, {:error, _reason}) when none == %{}, do: :transient_failure
  def of(none, _no_answer_yet) when none == %{}, do: :connecting

  def of(known, _resolution) do
    states = Map.values(known)

    Enum.find([:ready, :connecting, :idle], :transient_failure, &(&1 in states))
  end
end
