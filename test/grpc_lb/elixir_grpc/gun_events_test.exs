defmodule GrpcLb.ElixirGrpc.GunEventsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.ElixirGrpc.GunEvents

  defmodule Counting do
    def init(_event, count), do: count + 1
    def disconnect(_event, count), do: count + 1
    def connect_end(_event, count), do: count + 1
  end

  # As Gun calls its handler.
  defp through(opts) do
    {module, state} = opts[:event_handler]
    state = module.init(%{}, state)
    state = module.connect_end(%{}, state)
    module.disconnect(%{reason: :closed}, state)
  end

  test "it tells of Gun's process and of the loss, and of nothing else" do
    mark = make_ref()
    through(GunEvents.put([retry: 0], mark))
    test = self()
    assert_received {:gun_started, ^mark, ^test}
    assert_received {:gun_disconnected, ^mark}
    refute_received _other
  end

  test "the user's handler sees all" do
    assert {_pid, _mark, {Counting, 3}} =
             [event_handler: {Counting, 0}] |> GunEvents.put(make_ref()) |> through()
  end
end
