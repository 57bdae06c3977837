defmodule GrpcLb.TelemetryTest do
  # Its examples emit, which other tests would hear.
  use ExUnit.Case, async: false

  alias GrpcLb.Telemetry

  doctest Telemetry

  test "events are told apart, and every one says what is in it" do
    events = Telemetry.events()
    names = Enum.map(events, & &1.name)
    assert names == Enum.uniq(names)

    for event <- events do
      assert [:grpc_lb | _] = event.name
      assert String.trim(event.doc) != ""
      fields = event.measurements ++ event.metadata
      # All but that of what nobody is told of.
      assert Keyword.has_key?(event.metadata, :name) or event.name == [:grpc_lb, :events, :lost]
      assert Enum.all?(fields, fn {_key, doc} -> String.trim(doc) != "" end)
      assert Keyword.keys(fields) == Enum.uniq(Keyword.keys(fields))
    end
  end

  test "the documentation is made from them" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Telemetry)

    for event <- Telemetry.events() do
      assert doc =~ "## `#{inspect(event.name)}`"

      for {key, _doc} <- event.measurements ++ event.metadata,
          do: assert(doc =~ "`#{inspect(key)}`")
    end
  end
end
