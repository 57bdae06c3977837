defmodule GrpcLb.Examples.FantaTCPTest do
  # The example as its reader runs it: a Mix project of its own, with this one as its dependency.
  use ExUnit.Case, async: true

  @moduletag timeout: :timer.minutes(2)

  test "compiles without a warning and passes its tests" do
    assert {output, 0} = mix(~w(test --warnings-as-errors))
    refute output =~ "warning:"
  end

  test "has a demo that says what it shows, and fails when it is not so" do
    assert {output, 0} = mix(~w(run demo.exs))
    assert output =~ "All of this was as it must be."

    assert {output, 1} = mix(~w(run demo.exs pick_first))
    assert output =~ "this is not so: each connection had its exact share"
  end

  defp mix(args) do
    inherited = for {"MIX_" <> _ = name, _value} <- System.get_env(), do: {name, nil}
    library = Application.app_dir(:grpc_lb, "priv/grpc_lb_nif.so")
    env = inherited ++ [{"MIX_ENV", "test"}, {"GRPC_LB_NIF", library}, {"LC_ALL", "C.UTF-8"}]
    System.cmd("mix", args, cd: "examples/fanta_tcp", env: env, stderr_to_stdout: true)
  end
end
