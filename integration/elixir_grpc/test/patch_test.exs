defmodule GrpcLbElixirGrpc.PatchTest do
  use ExUnit.Case, async: true

  alias GrpcLbElixirGrpc.{Patch, Variants}

  @source """
  defmodule Shop do
    @doc "Opens."
    def open(day \\\\ :monday)
    def open(:sunday), do: :closed

    # In the morning.
    def open(day) when is_atom(day) do
      {:open, day}
    end

    defp hours, do: 8
  end
  """

  test "a function takes the place of all clauses of the same name and arity" do
    {:ok, changed} =
      Patch.apply(@source, "def open(_day), do: :always\n\ndefp hours do\n  24\nend")

    assert changed == """
           defmodule Shop do
             @doc "Opens."
           def open(_day), do: :always

             # In the morning.

           defp hours do
             24
           end
           end
           """
  end

  test "a function that is not there is an error" do
    assert Patch.apply(@source, "def open(_day), do: 1\ndef close, do: 2\ndef open, do: 3") ==
             {:error, [close: 0, open: 0]}
  end

  test "the policy module is a change of choose_lb alone" do
    {:ok, changed} = Patch.apply(Variants.source(), Variants.patch(:policy_module))
    assert changed =~ "GrpcLb.ElixirGrpc.RoundRobin"
    refute changed =~ "GRPC.Client.LoadBalancing.RoundRobin"
  end

  test "with the balancer as reference a pick is one of grpc_lb" do
    {:ok, changed} = Patch.apply(Variants.source(), Variants.patch(:balancer_reference))
    assert changed =~ "GrpcLb.Native.pick("
    refute changed =~ "lb_mod.pick("
  end

  test "the guide shows the patches as they are" do
    guide = File.read!(Path.join(__DIR__, "../../../guides/elixir_grpc.md"))

    for variant <- [:policy_module, :balancer_reference], patch <- Variants.patches(variant) do
      assert guide =~ "```elixir\n" <> patch <> "```"
    end
  end
end
