defmodule GrpcLb.Connection.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.{Backoff, Options}
  alias GrpcLb.{Secret, Settings}

  doctest Options

  @good [target: "ipv6:[::1]:1", transport: MyApp.Transport]

  test "spells out what is left out" do
    assert %Options{
             target: "ipv6:[::1]:1",
             transport: {MyApp.Transport, transport_opts},
             policy: {:round_robin, start: :random},
             resolver: {GrpcLb.Resolver.Static, resolver_opts},
             connect_timeout: 20_000,
             ready_timeout: 30_000,
             drain_timeout: 5_000,
             check_interval: 10_000,
             resolve_interval: 30_000,
             min_resolve_interval: 5_000,
             backoff: %Backoff{initial: 1_000, multiplier: 1.6, jitter: 0.2, max: 120_000},
             settings: [],
             caller: nil
           } = Options.new!(@good)

    assert {Secret.reveal(transport_opts), Secret.reveal(resolver_opts)} == {[], []}
  end

  test "gives every connection a name of its own, or the one that it was given" do
    names = for _ <- 1..2, do: Options.new!(@good).name
    assert [one, other] = names
    assert is_reference(one) and is_reference(other) and one != other

    for name <- [nil, false, :a, "a", {:a, 1}, self(), %{}] do
      assert Options.new!([name: name] ++ @good).name == name
      assert Options.put_name([name: name] ++ @good)[:name] == name
    end

    assert is_reference(Options.put_name(@good)[:name])
  end

  test "takes the bounds of every time" do
    for option <- [:connect_timeout, :ready_timeout, :check_interval, :resolve_interval] do
      for ms <- [1, 0xFFFFFFFF], do: assert(Map.get(new(option, ms), option) == ms)
    end

    for option <- [:drain_timeout, :min_resolve_interval] do
      for ms <- [0, 0xFFFFFFFF], do: assert(Map.get(new(option, ms), option) == ms)
    end

    for option <- [:check_interval, :resolve_interval] do
      assert Map.get(new(option, :infinity), option) == :infinity
    end
  end

  defp new(option, setting), do: Options.new!(Keyword.put(@good, option, setting))

  test "names what is wrong, and what is allowed" do
    for {opts, says} <- [
          {:none, "keyword list"},
          {[{:target, "ipv6:[::1]:1"} | :improper], "keyword list"},
          {[1], "keyword list"},
          {[], ":target is required"},
          {[target: "ipv6:[::1]:1"], ":transport is required"},
          {[shape: :round] ++ @good, "unknown option :shape"},
          {[caller: {self(), make_ref()}] ++ @good, "unknown option :caller"},
          {[transport: Enum, target: "ipv6:[::1]:1"],
           ":transport must be a module that exports open/2"},
          {[transport: NoSuchModule, target: "ipv6:[::1]:1"], "NoSuchModule"},
          {[transport: {MyApp.Transport}, target: "ipv6:[::1]:1"], ":transport"},
          {[transport: {MyApp.Transport, 1, 2}, target: "ipv6:[::1]:1"], ":transport"},
          {[transport: "text", target: "ipv6:[::1]:1"], ":transport"},
          {[policy: :fastest] ++ @good, ":fastest"},
          {[policy: {:peak_ewma, decay: 0}] ++ @good, "option :decay of :peak_ewma must be"},
          {[max_requests: -1] ++ @good, "option :max_requests must be an integer from 0 to"},
          {[max_requests_per_backend: 1.0] ++ @good, ":max_requests_per_backend must be"},
          {[panic_threshold: 101] ++ @good, ":panic_threshold must be"},
          {[slow_start: [window: 1]] ++ @good, "got it with :round_robin"},
          {[outlier_detection: [consecutive_transport_failures: nil]] ++ @good,
           ":outlier_detection must have :success_rate or"},
          {[owner: self()] ++ @good, "unknown option :owner, expected :target or :transport or"},
          {[on_owner_death: :remove] ++ @good, "unknown option :on_owner_death"},
          {[resolver: Enum] ++ @good, ":resolver"},
          {[backoff: 1] ++ @good, "options of :backoff must be a keyword list, got: 1"},
          {[backoff: [later: 1]] ++ @good,
           "unknown option :later of :backoff, expected :initial or :multiplier or :jitter or :max"},
          {[backoff: [initial: 0]] ++ @good, "option :initial of :backoff must be"},
          {[backoff: [initial: 1.5]] ++ @good, ":initial"},
          {[backoff: [initial: 0xFFFFFFFF + 1]] ++ @good, ":initial"},
          {[backoff: [max: 0]] ++ @good, ":max"},
          {[backoff: [max: :infinity]] ++ @good, ":max"},
          {[backoff: [multiplier: 0.9]] ++ @good,
           ":multiplier of :backoff must be a number from 1"},
          {[backoff: [multiplier: 1.0e308]] ++ @good, ":multiplier"},
          {[backoff: [multiplier: nil]] ++ @good, ":multiplier"},
          {[backoff: [jitter: -0.1]] ++ @good,
           ":jitter of :backoff must be a number from 0 to 1"},
          {[backoff: [jitter: 1.1]] ++ @good, ":jitter"},
          {[backoff: [jitter: "0.2"]] ++ @good, ":jitter"},
          {[connect_timeout: 0] ++ @good,
           ":connect_timeout must be a number of milliseconds from 1"},
          {[connect_timeout: :infinity] ++ @good, ":connect_timeout"},
          {[ready_timeout: 0xFFFFFFFF + 1] ++ @good, ":ready_timeout"},
          {[drain_timeout: -1] ++ @good,
           ":drain_timeout must be a number of milliseconds from 0"},
          {[drain_timeout: 1.0] ++ @good, ":drain_timeout"},
          {[min_resolve_interval: :infinity] ++ @good, ":min_resolve_interval"},
          {[check_interval: 0] ++ @good, "or :infinity"},
          {[resolve_interval: nil] ++ @good, ":resolve_interval"}
        ] do
      error = assert_raise ArgumentError, fn -> apply(Options, :new!, [opts]) end
      assert error.message =~ says
    end

    error = assert_raise ArgumentError, fn -> Options.new!("ipv6:[::1]:1", @good) end
    assert error.message =~ "option :target is unknown beside the target"
    error = assert_raise ArgumentError, fn -> Options.new!("ipv4:nowhere", @good -- @good) end
    assert error.message =~ ":transport"
  end

  test "what modules are given is not shown" do
    for opts <- [
          [transport: {NoSuchModule, token: "secret"}],
          [transport: {MyApp.Transport, "secret", 1}],
          [transport: "secret"],
          [resolver: {NoSuchModule, token: "secret"}],
          [resolver: {GrpcLb.Resolver.Static, "secret"}],
          [resolver: "secret"],
          %{transport: {MyApp.Transport, "secret"}}
        ] do
      opts = if is_list(opts), do: opts ++ @good, else: opts
      error = assert_raise ArgumentError, fn -> Options.new!(opts) end
      assert error.message =~ "must be"
      refute error.message =~ "secret"
    end
  end

  test "keeps what its balancer is made with" do
    settings = [slow_start: [window: 5_000], max_requests: 10]
    options = Options.new!(settings ++ [policy: :least_request] ++ @good)
    assert options.policy == :least_request
    assert options.settings == settings
  end

  test "documents every option" do
    docs = Options.docs()
    fields = Map.keys(Options.new!(@good)) -- [:__struct__, :target, :settings, :caller]

    for option <- fields ++ Keyword.keys(Settings.balancer_options()),
        do: assert(docs =~ "  * `#{inspect(option)}`")
  end

  test "takes the first of an option that is given twice" do
    opts = [name: :first, transport: MyApp.Transport, name: :second]
    assert Options.new!("ipv4:10.0.0.1:1", opts).name == :first
    assert Options.new!(@good ++ [target: "ipv6:[::1]:2"]).target == @good[:target]
    assert {GrpcLb.Connection, :first} = GrpcLb.Connection.child_spec(opts).id
  end
end
