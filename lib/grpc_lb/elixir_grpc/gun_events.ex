defmodule GrpcLb.ElixirGrpc.GunEvents do
  @moduledoc false
  # An event handler of Gun (`gun_event`) that tells a process who Gun is, when the connection is lost,
  # and of load reports that come with failures. elixir-grpc's adapter for Gun tells nobody. The handler
  # that the user may have goes on to see all events.

  @report "endpoint-load-metrics-bin"

  @doc """
  Options of Gun whose handler sends `{:gun_started, mark, pid}` and `{:gun_disconnected, mark}` to the
  calling process, and with `reports?` also `{:gun_report, mark, report}`, for each call that fails with a
  load report in its trailers (gRFC A51).
  """
  @spec put(keyword(), mark :: reference(), reports? :: boolean()) :: keyword()
  def put(opts, mark, reports?) do
    state = %{pid: self(), mark: mark, reports?: reports?, users: opts[:event_handler]}
    Keyword.put(opts, :event_handler, {__MODULE__, state})
  end

  @doc false
  def init(event, state) do
    send(state.pid, {:gun_started, state.mark, self()})
    pass_on(:init, event, state)
  end

  @doc false
  def disconnect(event, state) do
    send(state.pid, {:gun_disconnected, state.mark})
    pass_on(:disconnect, event, state)
  end

  @doc false
  def response_trailers(event, state) do
    look_for_report(event.headers, state)
    pass_on(:response_trailers, event, state)
  end

  # A call that fails at once has its trailers here.
  @doc false
  def response_headers(event, state) do
    look_for_report(event.headers, state)
    pass_on(:response_headers, event, state)
  end

  # Gun has some thirty events, and more with every version.
  @doc false
  def unquote(:"$handle_undefined_function")(name, [event, state]),
    do: pass_on(name, event, state)

  # Those of successful calls are the adapter's to return.
  defp look_for_report(_headers, %{reports?: false}), do: :ok

  defp look_for_report(headers, state) do
    with {_name, status} when status != "0" <- List.keyfind(headers, "grpc-status", 0),
         {_name, encoded} <- List.keyfind(headers, @report, 0),
         {:ok, report} <- Base.decode64(encoded, padding: false) do
      send(state.pid, {:gun_report, state.mark, report})
    end
  end

  defp pass_on(_name, _event, %{users: nil} = state), do: state

  defp pass_on(name, event, %{users: {module, users}} = state) do
    %{state | users: {module, apply(module, name, [event, users])}}
  end
end
