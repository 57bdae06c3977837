defmodule GrpcLbTelemetry.TelemetryTest do
  # The packages as users have them: nothing stands in for them.
  use ExUnit.Case, async: false

  # Not by an alias: Telemetry.Metrics is the package.
  import GrpcLb.Telemetry, only: [events: 0, metrics: 0]

  setup context do
    events = for %{name: name} <- events(), do: name
    :ok = :telemetry.attach_many(context.test, events, &__MODULE__.pass_on/4, self())
    on_exit(fn -> :telemetry.detach(context.test) end)
    %{name: "#{context.test}"}
  end

  def pass_on(event, measurements, metadata, test),
    do: send(test, {:event, event, measurements, metadata})

  defp await(event, name) do
    assert_receive {:event, ^event, measurements, %{name: ^name} = metadata}, 10_000
    {measurements, metadata}
  end

  # What a reporter makes of an event.
  defp reported(metrics, event, measurements, metadata) do
    for %{event_name: ^event} = metric <- metrics,
        metric.keep == nil or metric.keep.(metadata),
        into: %{} do
      tags = metadata |> metric.tag_values.() |> Map.take(metric.tags)
      assert Map.keys(tags) -- metric.tags == []

      value =
        if is_function(metric.measurement, 1),
          do: metric.measurement.(measurements),
          else: measurements[metric.measurement]

      {Enum.join(metric.name, "."), {value, tags}}
    end
  end

  test "metrics are of events that there are, and of what these measure" do
    documented = Map.new(events(), &{&1.name, &1})

    for %kind{} = metric <- metrics() do
      assert kind in [
               Telemetry.Metrics.Counter,
               Telemetry.Metrics.Sum,
               Telemetry.Metrics.LastValue
             ]

      assert %{measurements: measurements} = documented[metric.event_name]
      assert is_function(metric.measurement) or metric.measurement in Keyword.keys(measurements)
      assert metric.description != nil
    end
  end

  test "an ejection is counted under gRPC's name", %{name: name} do
    opts = [name: name, outlier_detection: [consecutive_failures: 1]]
    {:ok, lb} = GrpcLb.new(:round_robin, ["a", "b"], opts)
    GrpcLb.run(lb, fn _first -> {:error, :refused} end)
    {measurements, metadata} = await([:grpc_lb, :backend, :ejected], name)
    reported = reported(metrics(), [:grpc_lb, :backend, :ejected], measurements, metadata)

    assert {_duration, tags} = reported["grpc.lb.outlier_detection.ejections_enforced"]

    assert tags == %{
             grpc_target: name,
             grpc_lb_outlier_detection_detection_method: :consecutive_failures
           }

    GrpcLb.close(lb)
  end

  test "the poller measures", %{name: name} do
    {:ok, lb} = GrpcLb.new(:least_request, ["a"], name: name)
    {:ok, "a", ticket} = GrpcLb.checkout(lb)

    {:ok, poller} =
      :telemetry_poller.start_link(
        measurements: [{GrpcLb.Telemetry, :measure, []}],
        period: 10
      )

    {measurements, metadata} = await([:grpc_lb, :backend, :measured], name)
    reported = reported(metrics(), [:grpc_lb, :backend, :measured], measurements, metadata)
    assert reported["grpc_lb.backend.in_flight"] == {1, %{grpc_target: name, backend: "a"}}
    assert {1.0, _tags} = reported["grpc_lb.backend.share"]
    # It is not asked again where one has failed.
    await([:grpc_lb, :backend, :measured], name)
    GenServer.stop(poller)
    GrpcLb.complete(ticket, :ok)
    GrpcLb.close(lb)
  end

  test "a handler that raises is detached, and nobody else notices", %{name: name} do
    raises = fn _event, _measurements, _metadata, _config -> raise "on purpose" end
    :ok = :telemetry.attach(:raises, [:grpc_lb, :balancer, :overloaded], raises, nil)
    {:ok, lb} = GrpcLb.new(:round_robin, [:a], name: name, max_requests: 0)
    GrpcLb.checkout(lb)
    await([:grpc_lb, :balancer, :overloaded], name)
    herald = Process.whereis(GrpcLb.Herald)
    GrpcLb.checkout(lb)
    await([:grpc_lb, :balancer, :overloaded], name)
    assert Process.whereis(GrpcLb.Herald) == herald
    GrpcLb.close(lb)
  end

  test "the console reporter takes the metrics", %{name: name} do
    {:ok, device} = StringIO.open("")

    {:ok, _reporter} =
      Telemetry.Metrics.ConsoleReporter.start_link(metrics: metrics(), device: device)

    {:ok, _lb} = kept(GrpcLb.new(:random, ["shown"], name: name))
    GrpcLb.Telemetry.measure()
    {_input, output} = StringIO.contents(device)
    assert output =~ ~s(backend: "shown")
    refute output =~ "raised"
  end

  defp kept({:ok, lb} = made), do: Process.put(lb, made) || made
end
