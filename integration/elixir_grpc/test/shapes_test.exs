defmodule GrpcLbElixirGrpc.ShapesTest do
  # The package's own tests use doubles of elixir-grpc's structs and of its behaviour: they are to have
  # what the real ones have.
  use ExUnit.Case, async: true

  @doubles Path.expand("../../../test/support/elixir_grpc.ex", __DIR__)
  @double GrpcLbElixirGrpc.Double

  setup_all do
    # Under names of their own.
    source =
      @doubles
      |> File.read!()
      |> String.replace("defmodule GRPC", "defmodule #{inspect(@double)}")

    Code.compile_string(source, @doubles)
    :ok
  end

  for struct <- [GRPC.Channel, GRPC.Client.Stream, GRPC.RPCError] do
    test "#{inspect(struct)} has the fields of its double" do
      real = unquote(struct).__struct__() |> Map.keys() |> Enum.sort()
      assert double(unquote(struct)).__struct__() |> Map.keys() |> Enum.sort() == real
    end
  end

  test "GRPC.Client.Adapter has the callbacks of its double, and the adapter has them all" do
    callbacks = Enum.sort(GRPC.Client.Adapter.behaviour_info(:callbacks))
    assert Enum.sort(double(GRPC.Client.Adapter).behaviour_info(:callbacks)) == callbacks
    {:module, adapter} = Code.ensure_loaded(GrpcLb.ElixirGrpc.Adapter)
    for {name, arity} <- callbacks, do: assert(function_exported?(adapter, name, arity))
  end

  test "GRPC.Client.LoadBalancing has the callbacks of its double" do
    [double, real] =
      for module <- [double(GRPC.Client.LoadBalancing), GRPC.Client.LoadBalancing],
          do: Enum.sort(module.behaviour_info(:callbacks))

    assert double == real
  end

  test "the statuses of GRPC.Status are those of the table" do
    for {status, outcome} <- [
          cancelled: :cancelled,
          unknown: {:error, :unknown},
          deadline_exceeded: {:error, :deadline_exceeded},
          resource_exhausted: {:error, :resource_exhausted},
          internal: {:error, :internal},
          unavailable: {:error, {:transport, :unavailable}},
          data_loss: {:error, :data_loss},
          not_found: :ok
        ] do
      assert GrpcLb.ElixirGrpc.Outcome.of(GRPC.RPCError.exception(status: status)) == outcome
    end
  end

  test "Gun has the events that are heard of" do
    assert {:disconnect, 2} in :gun_event.behaviour_info(:callbacks)
  end

  defp double(module),
    do: Module.concat(@double, module |> Module.split() |> tl() |> Module.concat())
end
