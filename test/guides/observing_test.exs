defmodule GrpcLb.Guides.ObservingTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.{Guide, Peer}

  @guide "guides/observing.md"

  setup_all do
    %{code: Guide.blocks(@guide), text: File.read!(@guide)}
  end

  test "the code runs, from top to bottom", %{code: code} do
    assert length(code) > 5
    # The module and the handlers that it leaves behind go with the VM.
    assert Peer.run(Peer.start(), Peer.Heralding, :run_guide, [code, @guide]) == :ok
  end

  test "the code is formatted", %{code: code} do
    for block <- code do
      assert IO.iodata_to_binary(Code.format_string!(block.code)) == block.code
    end
  end

  test "every event and every metric that it names exists", %{text: text} do
    events = for %{name: name} <- GrpcLb.Telemetry.events(), do: inspect(name)
    {:docs_v1, _, _, _, %{"en" => metrics}, _, _} = Code.fetch_docs(GrpcLb.Metrics)

    for [event] <- Regex.scan(~r/\[:grpc_lb, :[a-z_]+, :[a-z_]+\]/, text),
        do: assert(event in events)

    for [metric] <- Regex.scan(~r/grpc_lb_[a-z_]+/, text), do: assert(metrics =~ metric)
  end
end
