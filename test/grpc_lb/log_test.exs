defmodule GrpcLb.LogTest do
  # The application environment is everybody's.
  use ExUnit.Case, async: false

  alias GrpcLb.Log
  alias GrpcLb.Test.Logs

  doctest Log

  @moduletag :capture_log

  setup do
    handler = Logs.attach()

    on_exit(fn ->
      Logs.detach(handler)
      Application.delete_env(:grpc_lb, :log)
    end)

    %{name: make_ref()}
  end

  @ejected %{
    id: "10.0.0.1:50051",
    rule: :consecutive_failures,
    successes: 0,
    failures: 5,
    limit: 5.0,
    duration: 30_000_000_000
  }

  defp log(name, event, fields \\ @ejected),
    do: Log.event(Log.open(), told(name, event, fields))

  defp told(name, event, fields, number \\ 7),
    do: {%{balancer: make_ref(), name: name, number: number}, event, fields}

  defp logged(name) do
    assert_receive {:log, %{meta: %{domain: [:grpc_lb], name: ^name}} = event}
    {event.level, text(event), event.meta}
  end

  defp text(%{msg: {:string, text}}), do: IO.chardata_to_string(text)

  # Of what this process logs: what others left out is logged up to ten seconds later.
  defp silent do
    test = self()
    refute_received {:log, %{meta: %{domain: [:grpc_lb], pid: ^test}}}
  end

  test "what a balancer decides is logged by it", %{name: name} do
    clock = GrpcLb.Clock.manual()
    detection = [consecutive_failures: 2, max_ejection_percent: 50]
    opts = [name: name, clock: clock, outlier_detection: detection]
    {:ok, lb} = GrpcLb.new(:round_robin, ["a", "b"], opts)
    for _ <- 1..4, do: GrpcLb.run(lb, fn it -> if it == "b", do: :error, else: :ok end)
    assert {:warning, text, meta} = logged(name)

    assert text ==
             "balancer #{inspect(name)}: backend \"b\" is ejected for 30.0 s at least: " <>
               "2 calls in a row failed"

    assert %{backend: "\"b\"", rule: :consecutive_failures} = meta
    assert meta.number == GrpcLb.Native.summary(lb).number
    assert meta.application == :grpc_lb
    # Who keeps what was logged keeps no balancer.
    refute meta |> Map.values() |> Enum.any?(&(&1 == lb))
    GrpcLb.Clock.advance(clock, 40_000)
    assert {:notice, text, _meta} = logged(name)
    assert text =~ "backend \"b\" is let back in"
  end

  test "every kind has words of its own", %{name: name} do
    ejected = fn rule, fields ->
      log(name, :ejected, Map.merge(@ejected, %{rule: rule} |> Map.merge(fields)))
    end

    ejected.(:success_rate, %{successes: 1, failures: 3, limit: 0.5})
    assert {_level, text, _meta} = logged(name)
    assert text =~ "a success rate of 25.0 %, below 50.0 %"
    ejected.(:failure_percentage, %{successes: 1, failures: 3, limit: 50.0})
    assert {_level, text, _meta} = logged(name)
    assert text =~ "3 of 4 calls failed, the limit is 50.0 %"
    ejected.(:consecutive_transport_failures, %{failures: 1})
    assert {_level, text, _meta} = logged(name)
    assert text =~ "1 calls in a row did not reach it"
    log(name, :panic_entered, %{healthy: 1, backends: 4, priority: nil})
    assert {:warning, text, _meta} = logged(name)
    assert text =~ "1 of 4 backends are healthy: those that are not are picked, too"
    log(name, :panic_left, %{healthy: 3, backends: 4, priority: 2})
    assert {:notice, text, _meta} = logged(name)
    assert text =~ "priority 2: 3 of 4 backends are healthy"
    log(name, :overloaded, %{count: 7})
    assert {:warning, text, _meta} = logged(name)
    assert text =~ "7 checkouts found no room under its limits"
    log(name, :slow_start, %{id: 1, duration: 1})
    silent()
  end

  test "one without a name is told by its number" do
    log(nil, :overloaded, %{count: 1})
    test = self()
    assert_receive {:log, %{meta: %{pid: ^test, name: nil, number: 7}} = logged}
    assert "balancer 7: 1 checkouts" <> _rest = text(logged)
  end

  test "what is long is cut, and what is hostile is one line", %{name: name} do
    for id <- ["a\nb\e[31m", String.duplicate("ü", 100_000), Enum.to_list(1..100_000), <<255>>] do
      log(name, :unejected, %{id: id, duration: 1})
      assert {:notice, text, meta} = logged(name)
      assert byte_size(text) < 1_000
      assert String.printable?(text)
      refute text =~ "\n"
      assert text =~ meta.backend
    end
  end

  test "levels are set, also to none", %{name: name} do
    Application.put_env(:grpc_lb, :log, ejected: :error, unejected: false)
    log(name, :ejected)
    assert {:error, _text, _meta} = logged(name)
    log(name, :unejected, %{id: 1, duration: 1})
    log(name, :overloaded, %{count: 1})
    assert {:warning, _text, _meta} = logged(name)
    silent()

    Application.put_env(:grpc_lb, :log, false)
    log(name, :ejected)
    silent()

    # What is malformed counts as not given.
    for malformed <- [
          nil,
          true,
          :error,
          [ejected: :loud],
          [:ejected],
          %{ejected: :error},
          [1 | 2],
          [{:panic_left, :error} | :x],
          [{:ejected, :error, :twice}],
          [{:ejected, [:error]}],
          {:ejected, :error},
          "error",
          self()
        ] do
      Application.put_env(:grpc_lb, :log, malformed)
      log(name, :ejected)
      assert {:warning, _text, _meta} = logged(name)
    end
  end

  test "few of one kind are logged, and then how many more there were", %{name: name} do
    event = fn n -> told(name, :ejected, %{@ejected | id: n}) end
    window = Enum.reduce(1..25, Log.open(), &Log.event(&2, event.(&1)))
    for _ <- 1..5, do: logged(name)
    silent()
    # Another kind, and another balancer, of the same name.
    window = Log.event(window, told(name, :overloaded, %{count: 1}))
    logged(name)
    window = Log.event(window, told(name, :ejected, @ejected, 8))
    logged(name)
    Log.close(window)
    assert {:warning, text, %{number: 7, left_out: 20}} = logged(name)
    assert text == "balancer 7: 20 more of :ejected were not logged"
    silent()
    Log.event(Log.open(), event.(1))
    logged(name)
  end

  test "few of all are logged, and then one line for all", %{name: name} do
    event = fn n -> told({name, n}, :overloaded, %{count: 1}, n) end
    window = Enum.reduce(1..1_000, Log.open(), &Log.event(&2, event.(&1)))
    for n <- 1..100, do: logged({name, n})
    silent()
    # It does not grow with what is left out.
    assert :erts_debug.flat_size(window) < 2_000
    Log.close(window)
    test = self()
    assert_receive {:log, %{level: :warning, meta: %{left_out: 900, pid: ^test}} = closing}
    assert text(closing) == "balancers: 900 more of :overloaded were not logged"
    silent()
  end

  test "what cannot be shown counts as left out", %{name: name} do
    id = %GrpcLb.Test.Unshowable{}
    window = Log.event(Log.open(), told(name, :ejected, %{@ejected | id: id}))
    window = Log.event(window, told(id, :overloaded, %{count: 1}))
    # Whether it was shown is for who shows it.
    if window != Log.open(), do: Log.close(window)
    log(name, :ejected)
    logged(name)
  end

  test "the documentation has every kind and its level" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Log)

    for kind <- [
          :ejected,
          :unejected,
          :panic_entered,
          :panic_left,
          :overloaded,
          :hung,
          :failing,
          :well
        ],
        do: assert(doc =~ "| `#{inspect(kind)}` | `#{inspect(Log.level(kind))}` |")

    message = ~r/^kind must be :ejected or :unejected or .*, got: :nothing$/
    assert_raise ArgumentError, message, fn -> Log.level(:nothing) end
  end
end
