defmodule GrpcLb.CallEventTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Workers

  setup context do
    GrpcLb.Test.Telemetry.attach_all()
    test = self()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
    name = :"#{context.test}"
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name)
    %{lb: lb, name: name}
  end

  @event [:grpc_lb, :call, :stop]

  defp told(name) do
    assert_received {:event, @event, %{duration: duration} = measured, %{name: ^name} = metadata}
    assert map_size(measured) == 1 and is_integer(duration) and duration >= 0
    documented = Enum.find(GrpcLb.Telemetry.events(), &(&1.name == @event))
    assert Enum.sort(Map.keys(metadata)) == Enum.sort(Keyword.keys(documented.metadata))
    metadata
  end

  test "a call is told where that is asked for", %{lb: lb, name: name} do
    assert GrpcLb.run(lb, fn :a -> :done end) == :done
    refute_received {:event, @event, _measured, %{name: ^name}}
    assert GrpcLb.run(lb, fn :a -> :done end, telemetry: true) == :done
    assert told(name) == %{name: name, balancer: lb, value: :a, outcome: :ok}
    GrpcLb.close(lb)
    assert GrpcLb.run(lb, fn :a -> :done end, telemetry: true) == {:error, :closed}
    refute_received {:event, @event, _measured, %{name: ^name}}

    assert_raise ArgumentError, ~r/option :telemetry of run\/3 must be true or false/, fn ->
      GrpcLb.run(lb, fn :a -> :done end, telemetry: :yes)
    end
  end

  test "with the outcome that is counted", %{lb: lb, name: name} do
    for {result, outcome} <- [
          {{:error, :x}, :error},
          {{:error, {:transport, :closed}}, :transport_error},
          {:fine, :ok}
        ] do
      assert GrpcLb.run(lb, fn :a -> result end, telemetry: true) == result
      assert told(name).outcome == outcome
    end

    GrpcLb.run(lb, fn :a -> 1 end, telemetry: true, outcome: fn 1 -> :cancelled end)
    assert told(name).outcome == :cancelled
    assert catch_throw(GrpcLb.run(lb, fn :a -> throw(:it) end, telemetry: true)) == :it
    assert told(name).outcome == :error
    outcome = fn 1 -> exit(:it) end
    assert catch_exit(GrpcLb.run(lb, fn :a -> 1 end, telemetry: true, outcome: outcome)) == :it
    assert told(name).outcome == :cancelled
    report = fn 1 -> %{cpu_utilization: :much} end
    opts = [telemetry: true, load_report: report]
    assert_raise ArgumentError, fn -> GrpcLb.run(lb, fn :a -> 1 end, opts) end
    assert told(name).outcome == :cancelled
    report = fn 1 -> %{cpu_utilization: 0.5} end
    assert GrpcLb.run(lb, fn :a -> 1 end, telemetry: true, load_report: report) == 1
    assert told(name).outcome == :ok
    assert %{backends: [%{in_flight: 0, successes: 2, failures: 3}]} = GrpcLb.info(lb)
  end

  test "a call within another is told by itself", %{lb: lb, name: name} do
    inner = fn -> GrpcLb.run(lb, fn :a -> {:error, :inner} end, telemetry: true) end

    GrpcLb.run(
      lb,
      fn :a ->
        inner.()
        :outer
      end,
      telemetry: true
    )

    assert [told(name).outcome, told(name).outcome] == [:error, :ok]
    assert Process.get_keys() |> Enum.filter(&is_reference/1) == []
  end

  test "those of pools have the pool's name", context do
    pool = :"pool of #{context.test}"
    start_supervised!({GrpcLb.Pool, name: pool})
    :ok = GrpcLb.Pool.join(pool, Workers.idle())
    assert GrpcLb.Pool.run(pool, fn _pid -> :ok end, telemetry: true) == :ok
    assert %{balancer: balancer, outcome: :ok} = told(pool)
    assert GrpcLb.info(balancer).name == pool
  end
end
