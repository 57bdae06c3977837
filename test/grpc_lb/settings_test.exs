defmodule GrpcLb.SettingsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Settings

  doctest Settings

  @policies [
    :round_robin,
    :weighted_round_robin,
    :least_request,
    :peak_ewma,
    :random,
    :pick_first
  ]

  defp settings(opts, policy \\ :random) do
    Settings.to_native(opts, GrpcLb.Policy.to_native(policy))
  end

  test "everything is off by default" do
    for policy <- @policies do
      assert settings([], policy) == %{
               owner: nil,
               on_owner_death: :keep,
               outlier_detection: nil,
               slow_start: nil,
               panic_threshold: 0,
               subset: nil,
               overprovisioning_factor: nil,
               locality_weights: %{},
               max_requests: nil,
               name: nil,
               max_requests_per_backend: nil,
               seed: nil,
               clock: nil,
               checkout_wait: 0,
               remember: 0,
               values: :copied
             }
    end
  end

  test "outlier detection has gRPC's defaults (gRFC A50)" do
    outlier = &settings(outlier_detection: &1).outlier_detection

    default = %{
      interval: 10_000,
      base_ejection_time: 30_000,
      max_ejection_time: 300_000,
      max_ejection_percent: 10,
      strict: true,
      backoff_recovery: :time,
      success_rate: nil,
      failure_percentage: nil,
      consecutive_failures: nil,
      consecutive_transport_failures: 1
    }

    success_rate = %{
      stdev_factor: 1_900,
      enforcement_percentage: 100,
      minimum_hosts: 5,
      request_volume: 100
    }

    failure_percentage = %{
      threshold: 85,
      enforcement_percentage: 100,
      minimum_hosts: 5,
      request_volume: 50
    }

    assert outlier.(success_rate: []) == %{default | success_rate: success_rate}

    assert outlier.(failure_percentage: []) ==
             %{default | failure_percentage: failure_percentage}

    in_a_row = %{failures: 3, minimum_hosts: 2}
    assert outlier.([]) == default
    assert outlier.(consecutive_failures: 3) == %{default | consecutive_failures: in_a_row}

    assert outlier.(consecutive_failures: [failures: 3, minimum_hosts: 0]) ==
             %{default | consecutive_failures: %{in_a_row | minimum_hosts: 0}}

    assert outlier.(
             interval: 1,
             base_ejection_time: 2,
             max_ejection_time: 3,
             max_ejection_percent: 100,
             strict: false,
             backoff_recovery: :success,
             success_rate: [
               stdev_factor: 0,
               enforcement_percentage: 0,
               minimum_hosts: 0,
               request_volume: 0
             ],
             failure_percentage: [
               threshold: 0,
               enforcement_percentage: 1,
               minimum_hosts: 2,
               request_volume: 3
             ],
             consecutive_failures: 1,
             consecutive_transport_failures: 2
           ) == %{
             interval: 1,
             base_ejection_time: 2,
             max_ejection_time: 3,
             max_ejection_percent: 100,
             strict: false,
             backoff_recovery: :success,
             success_rate: %{
               stdev_factor: 0,
               enforcement_percentage: 0,
               minimum_hosts: 0,
               request_volume: 0
             },
             failure_percentage: %{
               threshold: 0,
               enforcement_percentage: 1,
               minimum_hosts: 2,
               request_volume: 3
             },
             consecutive_failures: %{failures: 1, minimum_hosts: 2},
             consecutive_transport_failures: 2
           }
  end

  test "an ejection lasts at most 300 seconds, or the base time if that is longer" do
    for {opts, most} <- [
          {[base_ejection_time: 299_999], 300_000},
          {[base_ejection_time: 300_001], 300_001},
          {[base_ejection_time: 300_001, max_ejection_time: nil], 300_001},
          {[base_ejection_time: 300_001, max_ejection_time: 7], 7}
        ] do
      outlier = [consecutive_failures: 1] ++ opts
      assert settings(outlier_detection: outlier).outlier_detection.max_ejection_time == most
    end
  end

  test "slow start has Envoy's defaults" do
    assert settings(slow_start: [window: 1]).slow_start ===
             %{window: 1, aggression: 1.0, min_weight_percent: 10.0}

    opts = [window: 9, aggression: 2, min_weight_percent: 0]

    assert settings(slow_start: opts).slow_start ===
             %{window: 9, aggression: 2.0, min_weight_percent: 0.0}
  end

  test "limits can be anything from 0" do
    for n <- [nil, 0, 1, 0xFFFFFFFF] do
      assert %{max_requests: ^n, max_requests_per_backend: ^n} =
               settings(max_requests: n, max_requests_per_backend: n)
    end
  end

  test "names what is wrong, what was given, and what is allowed" do
    outlier = fn opts -> [outlier_detection: [consecutive_failures: 1] ++ opts] end
    rate = fn opts -> [outlier_detection: [success_rate: opts]] end
    share = fn opts -> [outlier_detection: [failure_percentage: opts]] end
    slow = fn opts -> [slow_start: [window: 1] ++ opts] end

    for {opts, message} <- [
          {%{owner: self()}, "options must be a keyword list, got: %{owner:"},
          {[oner: self()], "unknown option :oner, expected :owner or :on_owner_death or"},
          {[owner: :me], "option :owner must be a pid of this node, or nil, got: :me"},
          {[on_owner_death: :forget],
           "option :on_owner_death must be :keep or :remove, got: :forget"},
          {[outlier_detection: true], "options of :outlier_detection must be a keyword list"},
          {[outlier_detection: [consecutive_transport_failures: nil]],
           "option :outlier_detection must have :success_rate or :failure_percentage or " <>
             ":consecutive_failures or :consecutive_transport_failures"},
          {outlier.(strict: 1), "option :strict of :outlier_detection must be true or false"},
          {outlier.(backoff_recovery: :never),
           "option :backoff_recovery of :outlier_detection must be :time or :success, got: :never"},
          {outlier.(consecutive_transport_failures: 0),
           "option :consecutive_transport_failures of :outlier_detection must be an integer from 1"},
          {[outlier_detection: [consecutive_failures: [minimum_hosts: 3]]],
           "option :failures of :consecutive_failures is required"},
          {[outlier_detection: [consecutive_failures: [failures: 0]]],
           "option :failures of :consecutive_failures must be an integer from 1"},
          {[outlier_detection: [consecutive_failures: []]],
           "option :consecutive_failures of :outlier_detection must be an integer from 1"},
          {[
             outlier_detection: [
               interval: 5,
               success_rate: nil,
               consecutive_transport_failures: nil
             ]
           ], "option :outlier_detection must have :success_rate or"},
          {outlier.(intervall: 1),
           "unknown option :intervall of :outlier_detection, expected :interval or"},
          {outlier.(interval: 0), "option :interval of :outlier_detection must be a number of"},
          {outlier.(interval: 1.5), "option :interval"},
          {outlier.(base_ejection_time: -1), "option :base_ejection_time of :outlier_detection"},
          {outlier.(max_ejection_time: -1), "option :max_ejection_time of :outlier_detection"},
          {outlier.(max_ejection_time: :infinity), "option :max_ejection_time"},
          {outlier.(max_ejection_percent: 101),
           "option :max_ejection_percent of :outlier_detection must be an integer from 0 to 100, " <>
             "got: 101"},
          {outlier.(max_ejection_percent: -1), "option :max_ejection_percent"},
          {outlier.(max_ejection_percent: 9.5), "option :max_ejection_percent"},
          {[outlier_detection: [consecutive_failures: 0]],
           "option :consecutive_failures of :outlier_detection must be an integer from 1"},
          {rate.(true), "options of :success_rate of :outlier_detection must be a keyword list"},
          {rate.(threshold: 1),
           "unknown option :threshold of :success_rate of :outlier_detection, expected "},
          {rate.(stdev_factor: -1),
           "option :stdev_factor of :success_rate of :outlier_detection"},
          {rate.(stdev_factor: 1.9), "option :stdev_factor"},
          {rate.(enforcement_percentage: 101), "option :enforcement_percentage of :success_rate"},
          {rate.(minimum_hosts: -1), "option :minimum_hosts of :success_rate"},
          {rate.(request_volume: -1), "option :request_volume of :success_rate"},
          {share.(stdev_factor: 1), "unknown option :stdev_factor of :failure_percentage of "},
          {share.(threshold: 101), "option :threshold of :failure_percentage of "},
          {share.(threshold: 99.9), "option :threshold"},
          {share.(enforcement_percentage: -1), "option :enforcement_percentage"},
          {share.(minimum_hosts: 0x100000000), "option :minimum_hosts"},
          {share.(request_volume: nil), "option :request_volume"},
          {[slow_start: []],
           "option :window of :slow_start is required, and must be a number of milliseconds from 1"},
          {[slow_start: 1_000], "options of :slow_start must be a keyword list, got: 1000"},
          {[slow_start: [window: 0]], "option :window of :slow_start must be"},
          {slow.(aggression: 0),
           "option :aggression of :slow_start must be a number above 0, got: 0"},
          {slow.(aggression: -1.0), "option :aggression"},
          {slow.(aggression: "1"), "option :aggression"},
          {slow.(min_weight_percent: -1),
           "option :min_weight_percent of :slow_start must be a number from 0 to 100, got: -1"},
          {slow.(min_weight_percent: 100.1), "option :min_weight_percent"},
          {[panic_threshold: -1],
           "option :panic_threshold must be an integer from 0 to 100, got: -1"},
          {[panic_threshold: 101], "option :panic_threshold"},
          {[panic_threshold: nil], "option :panic_threshold"},
          {[max_requests: -1],
           "option :max_requests must be an integer from 0 to 4294967295, or"},
          {[max_requests: 1.0], "option :max_requests"},
          {[max_requests: :infinity], "option :max_requests"},
          {[max_requests_per_backend: -1], "option :max_requests_per_backend must be an integer"},
          {[max_requests_per_backend: 0x100000000], "option :max_requests_per_backend"}
        ] do
      error = assert_raise ArgumentError, fn -> settings(opts) end
      assert String.starts_with?(error.message, message), error.message
      # What a user calls validates the same.
      error = assert_raise ArgumentError, fn -> apply(GrpcLb, :new, [:random, [], opts]) end
      assert String.starts_with?(error.message, message), error.message
    end
  end

  test "refuses combinations with a policy that make no sense, and no others" do
    outlier = [outlier_detection: [consecutive_failures: 1]]
    slow = [slow_start: [window: 1_000]]
    panic = [panic_threshold: 50]

    for {option, opts, refused} <- [
          {:outlier_detection, outlier, [:pick_first]},
          {:slow_start, slow, [:round_robin, :pick_first]},
          {:panic_threshold, panic, [:pick_first]},
          {:max_requests, [max_requests: 1, max_requests_per_backend: 1], []}
        ],
        policy <- @policies do
      if policy in refused do
        error = assert_raise ArgumentError, fn -> settings(opts, policy) end
        assert error.message =~ "option #{inspect(option)} goes with "
        assert error.message =~ "only, got it with #{inspect(policy)}"
        for other <- @policies -- refused, do: assert(error.message =~ inspect(other))
      else
        assert settings(opts, policy)
      end
    end

    # What is off goes with all.
    off = [outlier_detection: nil, slow_start: nil, panic_threshold: 0, max_requests: nil]
    for policy <- @policies, do: assert(settings(off, policy) == settings([], policy))
  end

  test "documents every option in new/3" do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(GrpcLb)
    {_, _, _, %{"en" => doc}, _} = List.keyfind(docs, {:function, :new, 3}, 0)

    for option <-
          ~w(owner on_owner_death outlier_detection slow_start panic_threshold max_requests
                     max_requests_per_backend interval base_ejection_time max_ejection_time
                     max_ejection_percent success_rate failure_percentage consecutive_failures
                     stdev_factor threshold enforcement_percentage minimum_hosts request_volume
                     window aggression min_weight_percent) do
      assert doc =~ ~r/^ +\* `:#{option}`/m
    end
  end
end
