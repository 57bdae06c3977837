defmodule GrpcLb.ElixirGrpc.GunEventsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.ElixirGrpc.GunEvents

  defmodule Counting do
    def init(_event, count), do: count + 1
    def disconnect(_event, count), do: count + 1
    def connect_end(_event, count), do: count + 1
    def response_headers(_event, count), do: count + 1
    def response_trailers(_event, count), do: count + 1
  end

  @report "endpoint-load-metrics-bin"

  # As Gun calls its handler.
  defp through(opts, events \\ [connect_end: %{}, disconnect: %{reason: :closed}]) do
    {module, state} = opts[:event_handler]
    state = module.init(%{}, state)
    Enum.reduce(events, state, fn {name, event}, state -> apply(module, name, [event, state]) end)
  end

  test "it tells of Gun's process and of the loss, and of nothing else" do
    mark = make_ref()
    through(GunEvents.put([retry: 0], mark, false))
    test = self()
    assert_received {:gun_started, ^mark, ^test}
    assert_received {:gun_disconnected, ^mark}
    refute_received _other
  end

  test "it tells of the load reports of calls that fail, where they are asked for" do
    failed = [{"grpc-status", "14"}, {@report, Base.encode64("a report", padding: false)}]
    fine = [{"grpc-status", "0"}, {@report, Base.encode64("another")}]

    events = [
      response_headers: %{status: 200, headers: [{"content-type", "application/grpc"}]},
      response_trailers: %{headers: failed},
      response_headers: %{status: 200, headers: failed},
      response_trailers: %{headers: fine},
      response_trailers: %{headers: [{"grpc-status", "2"}, {@report, "not base 64"}]},
      response_trailers: %{headers: [{"grpc-status", "2"}]},
      response_trailers: %{headers: [{@report, "no status"}]}
    ]

    mark = make_ref()
    through(GunEvents.put([], mark, true), events)
    for _ <- 1..2, do: assert_received({:gun_report, ^mark, "a report"})
    refute_received {:gun_report, _mark, _report}

    through(GunEvents.put([], mark, false), events)
    refute_received {:gun_report, _mark, _report}
  end

  test "the user's handler sees all" do
    events = [
      connect_end: %{},
      response_headers: %{status: 200, headers: []},
      response_trailers: %{headers: []},
      disconnect: %{reason: :closed}
    ]

    assert %{users: {Counting, 5}} =
             [event_handler: {Counting, 0}]
             |> GunEvents.put(make_ref(), true)
             |> through(events)
  end
end
