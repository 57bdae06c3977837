defmodule GrpcLb.Examples.FantaTCPTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Example

  @moduletag timeout: :timer.minutes(2)

  test "compiles without a warning and passes its tests" do
    assert {output, 0} = mix("fanta_tcp", ~w(test --warnings-as-errors))
    refute output =~ "warning:"
  end

  test "has a demo that says what it shows, and fails when it is not so" do
    assert {output, 0} = mix("fanta_tcp", ~w(run demo.exs))
    assert output =~ "All of this was as it must be."

    assert {output, 1} = mix("fanta_tcp", ~w(run demo.exs pick_first))
    assert output =~ "this is not so: each connection had its exact share"
  end
end
