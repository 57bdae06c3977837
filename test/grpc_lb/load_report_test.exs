defmodule GrpcLb.LoadReportTest do
  use ExUnit.Case, async: true

  alias GrpcLb.LoadReport

  doctest LoadReport

  test "makes every number a float" do
    assert LoadReport.to_native(%{}) == %{}

    assert LoadReport.to_native(%{
             cpu_utilization: 1,
             mem_utilization: 2.5,
             rps_fractional: 3,
             eps: 4,
             application_utilization: 5,
             request_cost: %{"a" => 6},
             utilization: %{"b" => 7},
             named_metrics: %{"c" => 8}
           }) === %{
             cpu_utilization: 1.0,
             mem_utilization: 2.5,
             rps_fractional: 3.0,
             eps: 4.0,
             application_utilization: 5.0,
             request_cost: %{"a" => 6.0},
             utilization: %{"b" => 7.0},
             named_metrics: %{"c" => 8.0}
           }

    assert LoadReport.to_native(%{named_metrics: %{"a" => 1, "ü" => -2, "" => 0.5}}) ===
             %{named_metrics: %{"a" => 1.0, "ü" => -2.0, "" => 0.5}}
  end

  test "leaves a binary as it is, whatever is in it" do
    for encoded <- ["", <<255>>, :binary.copy("x", 100_000)] do
      assert LoadReport.to_native(encoded) == encoded
    end
  end

  @malformed [
    {nil, "a load report must be a binary or a map, got: nil"},
    {[cpu_utilization: 1], "a load report must be a binary or a map, got: [cpu"},
    {<<1::1>>, "a load report must be a binary or a map"},
    {%{cpu: 1}, "unknown field :cpu of a load report, expected :cpu_utilization or"},
    {%{"eps" => 1}, "unknown field \"eps\" of a load report"},
    {%{rps: 1}, "unknown field :rps of a load report"},
    {%{eps: nil}, ":eps of a load report must be a number, got: nil"},
    {%{eps: "1"}, ":eps of a load report must be a number, got: \"1\""},
    {%{cpu_utilization: :high}, ":cpu_utilization of a load report"},
    {%{mem_utilization: []}, ":mem_utilization of a load report"},
    {%{rps_fractional: %{}}, ":rps_fractional of a load report"},
    {%{application_utilization: {}}, ":application_utilization of a load report"},
    {%{eps: Integer.pow(10, 400)}, ":eps of a load report must be a number"},
    {%{utilization: []},
     ":utilization of a load report must be a map from strings to numbers, got: []"},
    {%{request_cost: %{a: 1}},
     "names in :request_cost of a load report must be strings, got: :a"},
    {%{named_metrics: %{<<255>> => 1}}, "names in :named_metrics of a load report"},
    {%{named_metrics: %{"a" => nil}},
     "\"a\" in :named_metrics of a load report must be a number, got: nil"},
    {%{utilization: %{"a" => Integer.pow(10, 400)}}, "\"a\" in :utilization of a load report"}
  ]

  test "names what is malformed" do
    for {report, message} <- @malformed ++ [{URI.parse("a"), "a load report must be a binary"}] do
      error = assert_raise ArgumentError, fn -> apply(LoadReport, :to_native, [report]) end
      assert String.starts_with?(error.message, message), error.message
    end
  end

  test "takes maps of 8 KiB, and no larger ones" do
    metrics = fn n -> Map.new(1..n, &{String.pad_leading("#{&1}", 8), &1}) end
    assert %{named_metrics: read} = LoadReport.to_native(%{named_metrics: metrics.(512)})
    assert map_size(read) == 512

    for report <- [
          %{named_metrics: metrics.(513)},
          %{named_metrics: metrics.(512), request_cost: %{"" => 0}},
          %{utilization: %{:binary.copy("x", 0x2000) => 0}}
        ] do
      assert_raise ArgumentError, ~r/must take at most 8192 bytes/, fn ->
        LoadReport.to_native(report)
      end
    end
  end

  test "is refused by complete/3 and report/3, which change nothing then" do
    policy = {:weighted_round_robin, weights: :reported}
    # The call does not grow older meanwhile.
    {:ok, lb} = GrpcLb.new(policy, [:a], clock: GrpcLb.Clock.manual())
    {:ok, :a, ticket} = GrpcLb.checkout(lb)
    before = GrpcLb.info(lb)

    for {report, message} <- @malformed do
      # nil is no report, for a call.
      if report != nil do
        error =
          assert_raise ArgumentError, fn -> GrpcLb.complete(ticket, :ok, load_report: report) end

        assert String.starts_with?(error.message, message)
      end

      error = assert_raise ArgumentError, fn -> apply(GrpcLb, :report, [lb, :a, report]) end
      assert String.starts_with?(error.message, message)
    end

    assert GrpcLb.info(lb) == before
    assert GrpcLb.complete(ticket, :ok, load_report: nil) == :ok
  end
end
