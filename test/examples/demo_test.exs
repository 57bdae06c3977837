defmodule GrpcLb.Examples.DemoTest do
  # Not async: it takes all the processors there are.
  use ExUnit.Case

  import GrpcLb.Test.Example

  @moduletag timeout: :timer.minutes(10)

  test "compiles without a warning and passes its tests" do
    assert {output, 0} = mix("demo", ~w(test --warnings-as-errors))
    refute output =~ "warning:"
  end

  test "runs as the README says" do
    assert {output, 0} = mix("demo", ~w(demo --scene pool --seconds 0))
    assert output =~ "All is as it must be."

    assert {output, 1} = mix("demo", ~w(demo --scene none))
    assert output =~ "unknown scene"
  end
end
