defmodule Mix.TasksTest do
  # What is in lib/ is in every release of every user.
  use ExUnit.Case, async: true

  setup do
    {:ok, modules} = :application.get_key(:grpc_lb, :modules)
    %{modules: modules}
  end

  test "the package has the task that installs its library, and the one that people look with",
       %{modules: modules} do
    tasks =
      for module <- modules, "Elixir.Mix.Tasks." <> _ <- [Atom.to_string(module)], do: module

    assert Enum.sort(tasks) == [Mix.Tasks.Compile.GrpcLbNative, Mix.Tasks.GrpcLb.Top]
  end

  test "the package has no demo", %{modules: modules} do
    assert Enum.filter(modules, &(Atom.to_string(&1) =~ ~r/demo/i)) == []
  end
end
