defmodule GrpcLb.MetricsTest do
  # They are of all balancers of the node.
  use ExUnit.Case, async: false

  alias GrpcLb.Metrics
  alias GrpcLb.Test.OpenMetrics

  doctest Metrics

  setup context do
    %{name: "#{context.test} #{System.unique_integer([:positive])}"}
  end

  # Of the balancer with this name: by metric and backend.
  defp read(name) do
    {samples, _types} = OpenMetrics.parse!(Metrics.text())

    for {{metric, %{"balancer" => ^name} = labels}, value} <- samples, into: %{} do
      {{metric, labels["backend"]}, value}
    end
  end

  # For as long as the test runs, and no longer: the next one would not be shown beside so many.
  defp kept({:ok, lb}) do
    on_exit(fn -> GrpcLb.close(lb) end)
    lb
  end

  defp attach_all do
    test = self()
    GrpcLb.Test.Telemetry.attach_all()
    on_exit(fn -> apply(:telemetry, :detach, [{GrpcLb.Test.Telemetry, test}]) end)
  end

  test "the parser finds what is wrong" do
    for {text, wrong} <- [
          {"# TYPE a gauge\na 1\n", MatchError},
          {"# TYPE a gauge\na{b=\"c\nd\"} 1\n# EOF\n", FunctionClauseError},
          {"# TYPE a gauge\na{b=\"\\d\"} 1\n# EOF\n", RuntimeError},
          {"# TYPE a gauge\na{b=\"c\"} 1\na{b=\"c\"} 2\n# EOF\n", RuntimeError},
          {"# TYPE a gauge\nb 1\n# EOF\n", RuntimeError},
          {"# TYPE a gauge\na 1\n# TYPE b gauge\na 2\n# EOF\n", RuntimeError}
        ],
        do: assert_raise(wrong, fn -> OpenMetrics.parse!(text) end)
  end

  test "what is known of each backend", %{name: name} do
    clock = GrpcLb.Clock.manual()

    {:ok, lb} =
      GrpcLb.new(:round_robin, [{"10.0.0.1:50051", 1, weight: 3}, {:b, 2}],
        name: name,
        clock: clock,
        outlier_detection: [consecutive_failures: 1]
      )

    {:ok, value, ticket} = GrpcLb.checkout(lb)
    GrpcLb.Clock.advance(clock, 250)
    {:ok, other, failing} = GrpcLb.checkout(lb)
    assert Enum.sort([value, other]) == [1, 2]
    GrpcLb.complete(ticket, :ok)
    GrpcLb.complete(failing, {:error, :refused})
    {:ok, ^value, open} = GrpcLb.checkout(lb)
    ids = %{1 => "10.0.0.1:50051", 2 => ":b"}
    {good, bad} = {ids[value], ids[other]}

    read = read(name)
    assert read[{"grpc_lb_balancer_backends", nil}] == 2
    assert read[{"grpc_lb_balancer_healthy_backends", nil}] == 1
    assert read[{"grpc_lb_backend_in_flight", good}] == 1
    assert read[{"grpc_lb_backend_in_flight", bad}] == 0
    assert_in_delta read[{"grpc_lb_backend_share", good}], 2 / 3, 1.0e-9
    assert read[{"grpc_lb_backend_weight", "10.0.0.1:50051"}] == 3
    assert read[{"grpc_lb_backend_weight", ":b"}] == 1
    assert read[{"grpc_lb_backend_ejected", good}] == 0
    assert read[{"grpc_lb_backend_ejected", bad}] == 1
    assert read[{"grpc_lb_backend_latency_seconds", good}] == 0.25
    # It has none to tell of.
    refute is_map_key(read, {"grpc_lb_backend_latency_seconds", bad})
    GrpcLb.complete(open, :ok)
    GrpcLb.close(lb)
    assert read(name) == %{}
  end

  test "only those with a name, which a reference is not", %{name: name} do
    kept(GrpcLb.new(:random, ["nobody's"]))
    kept(GrpcLb.new(:random, ["nobody's"], name: make_ref()))
    kept(GrpcLb.new(:random, ["mine"], name: {:atom, name}))
    refute Metrics.text() =~ "nobody's"
    assert Metrics.text() =~ "mine"
  end

  test "ids and names that are hostile, long or alike", %{name: name} do
    ids = [
      "a\"} 1\nevil{b=\"",
      "\\",
      "\\n",
      ":b",
      :b,
      ":b #2",
      <<255, 254>>,
      String.duplicate("ü", 50_000),
      String.duplicate("ü", 50_001),
      Enum.to_list(1..50_000),
      {"\n", %{deep: {self()}}},
      "e" <> String.duplicate("\u0301", 5_000),
      "",
      nil
    ]

    kept(GrpcLb.new(:random, ids, name: name <> "\"\n\\"))
    second = kept(GrpcLb.new(:random, ["x"], name: name <> "\"\n\\"))
    read = read(name <> "\"\n\\")
    backends = for {{"grpc_lb_backend_in_flight", id}, count} <- read, count == 0, do: id
    assert length(backends) == length(ids)
    for id <- Enum.take(ids, 4), do: assert(id in backends)
    assert ":b #2" in backends
    assert ":b #2 #2" in backends
    assert Enum.all?(backends, &(byte_size(&1) < 2_000))

    assert Enum.any?(read(name <> "\"\n\\ ##{number(second)}"), fn {labels, count} ->
             match?({_in_flight, "x"}, labels) and count == 0
           end)
  end

  defp number(lb), do: GrpcLb.Native.summary(lb).number

  test "the label of one balancer is no other's, also when the first closes", %{name: name} do
    [first, second, third] =
      for id <- ["a", "b", "c"], do: kept(GrpcLb.new(:random, [id], name: name))

    labels = fn ->
      {samples, _types} = OpenMetrics.parse!(Metrics.text())

      for {{"grpc_lb_backend_in_flight", %{"balancer" => label, "backend" => id}}, _} <- samples,
          String.starts_with?(label, name),
          into: %{},
          do: {id, String.replace_prefix(label, name, "")}
    end

    {two, three} = {" ##{number(second)}", " ##{number(third)}"}
    assert labels.() == %{"a" => "", "b" => two, "c" => three}
    GrpcLb.close(first)
    assert labels.() == %{"b" => two, "c" => three}
    # Who comes in the place of the first has its label.
    kept(GrpcLb.new(:random, ["d"], name: name))
    assert labels.() == %{"b" => two, "c" => three, "d" => ""}
    GrpcLb.close(third)
    kept(GrpcLb.new(:random, ["e"], name: name <> two))
    assert %{"b" => ^two, "d" => "", "e" => e} = labels.()
    assert e =~ ~r/^#{two} #\d+$/

    # The same in events, and what they are tagged with.
    attach_all()
    GrpcLb.Telemetry.measure()
    event = [:grpc_lb, :backend, :measured]
    assert_received {:event, ^event, _measured, %{name: ^name, id: "b", label: label} = metadata}
    assert label == name <> two
    assert GrpcLb.Telemetry.tag_values(metadata) == %{grpc_target: label, backend: "b"}
  end

  test "what tells them apart is forgotten with them", %{name: name} do
    lbs = for _ <- 1..3, do: kept(GrpcLb.new(:random, ["a"], name: name))
    remembered = fn -> for {{^name, number}} <- :ets.tab2list(GrpcLb.Namesakes), do: number end
    Metrics.text()
    assert Enum.sort(remembered.()) == lbs |> tl() |> Enum.map(&number/1)
    for lb <- lbs, do: GrpcLb.close(lb)
    Metrics.text()
    assert remembered.() == []
  end

  test "no more than so many backends, of those that were made first", %{name: name} do
    kept(GrpcLb.new(:random, Enum.to_list(1..3_000), name: name))
    kept(GrpcLb.new(:random, Enum.to_list(1..7), name: "later " <> name))
    {samples, _types} = OpenMetrics.parse!(Metrics.text())
    shown = for {{"grpc_lb_backend_weight", _labels}, _value} <- samples, do: 1
    assert length(shown) == 2_000
    assert samples[{"grpc_lb_backends_left_out", %{}}] >= 1_007
    assert read("later " <> name) == %{}
  end

  test "no more than so many balancers", %{name: name} do
    for _each <- 1..1_100, do: kept(GrpcLb.new(:random, [:a, :b], name: name))
    {samples, _types} = OpenMetrics.parse!(Metrics.text())
    shown = for {{"grpc_lb_balancer_backends", _labels}, _value} <- samples, do: 1
    assert length(shown) == 1_000
    assert samples[{"grpc_lb_balancers_left_out", %{}}] >= 100
    assert samples[{"grpc_lb_backends_left_out", %{}}] >= 200
  end

  test "labels that are alike cost no more than others", %{name: name} do
    prefix = String.duplicate("a", 200)

    work = fn ids ->
      {:ok, lb} = GrpcLb.new(:random, ids, name: name)
      {:reductions, before} = Process.info(self(), :reductions)
      text = Metrics.text()
      {:reductions, later} = Process.info(self(), :reductions)
      GrpcLb.close(lb)
      assert text =~ name
      later - before
    end

    alike = work.(for n <- 1..2_000, do: "#{prefix}#{n}")
    others = work.(for n <- 1..2_000, do: String.pad_trailing("#{n}", 200, "a"))
    assert alike < 2 * others
  end

  test "what is measured is emitted as it is documented", %{name: name} do
    attach_all()
    {:ok, lb} = GrpcLb.new(:least_request, [:a, :b], name: name)
    GrpcLb.run(lb, fn _value -> :ok end)
    assert GrpcLb.Telemetry.measure() == :ok

    assert_received {:event, [:grpc_lb, :balancer, :measured], measured, %{name: ^name} = of}
    assert measured == %{backends: 2, healthy: 2}
    assert GrpcLb.size(of.balancer) == 2

    for id <- [:a, :b] do
      event = [:grpc_lb, :backend, :measured]
      assert_received {:event, ^event, measured, %{name: ^name, id: ^id}}
      documented = Enum.find(GrpcLb.Telemetry.events(), &(&1.name == event))
      left = Keyword.keys(documented.measurements) -- Map.keys(measured)
      assert left in [[], [:latency]]
      assert %{in_flight: 0, ejected: 0, weight: 1.0} = measured
    end

    GrpcLb.close(lb)
  end

  test "metrics need their package" do
    assert_raise RuntimeError, ~r/needs the package :telemetry_metrics/, fn ->
      GrpcLb.Telemetry.metrics()
    end
  end

  # Debian's package is prometheus.
  if promtool = System.find_executable("promtool") do
    test "promtool finds nothing wrong", %{name: name} do
      lb = kept(GrpcLb.new(:least_request, ["a\"\n\\", :b], name: name))
      GrpcLb.run(lb, fn _value -> :ok end)
      file = Path.join(System.tmp_dir!(), "grpc_lb_metrics_#{System.unique_integer([:positive])}")
      File.write!(file, Metrics.text())
      on_exit(fn -> File.rm!(file) end)
      command = ~s("#{unquote(promtool)}" check metrics < "#{file}")
      assert {"", 0} = System.cmd("sh", ["-c", command], stderr_to_stdout: true)
    end
  else
    IO.puts("metrics_test: NOT RUN: promtool was not found, please install prometheus")
  end
end
