defmodule GrpcLb.Test.Example do
  @moduledoc false
  # An example as its reader runs it: a Mix project of its own, with this one as its dependency.

  @doc "Runs `mix` in the folder of an example. Returns its output and exit status."
  @spec mix(String.t(), [String.t()]) :: {String.t(), non_neg_integer()}
  def mix(example, args) do
    inherited = for {"MIX_" <> _ = name, _value} <- System.get_env(), do: {name, nil}
    library = Application.app_dir(:grpc_lb, "priv/grpc_lb_nif.so")
    env = inherited ++ [{"MIX_ENV", "test"}, {"GRPC_LB_NIF", library}, {"LC_ALL", "C.UTF-8"}]
    System.cmd("mix", args, cd: Path.join("examples", example), env: env, stderr_to_stdout: true)
  end
end
