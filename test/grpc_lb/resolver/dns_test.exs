defmodule GrpcLb.Resolver.DNSTest do
  use ExUnit.Case, async: true

  import GrpcLb.Test.Eventually
  import GrpcLb.Test.Workers

  alias GrpcLb.{Address, Resolver}
  alias GrpcLb.Resolver.DNS
  alias GrpcLb.Test.{DnsServer, Peer}

  doctest DNS

  @ipv6 {0x2001, 0xDB8, 0, 0, 0, 0, 0, 1}

  describe "A and AAAA" do
    test "both are asked for, and what both bring is the result" do
      server = serve(%{{"a.example", :a} => {30, [ip(1)]}, {"a.example", :aaaa} => {60, [@ipv6]}})

      assert {:ok, %{addresses: addresses, ttl: 30}} = ask(server, "a.example:50051")

      assert addresses == [
               %Address{ip: ip(1), port: 50051, host: "a.example"},
               %Address{ip: @ipv6, port: 50051, host: "a.example"}
             ]

      assert Enum.sort(asked(server)) == [
               {"a.example", :a},
               {"a.example", :aaaa}
             ]
    end

    test "one of them is enough" do
      server =
        serve(%{{"v4.example", :a} => {30, [ip(1)]}, {"v6.example", :aaaa} => {40, [@ipv6]}})

      assert ips(ask(server, "v4.example")) == {[ip(1)], 30}
      assert ips(ask(server, "v6.example")) == {[@ipv6], 40}
    end

    test "one of them is enough when the other fails, and it is soon asked again" do
      for failure <- [:servfail, :refused, :notimp, :silence, {:garbage, "no message"}] do
        server = serve(%{{"a.example", :a} => failure, {"a.example", :aaaa} => {100, [@ipv6]}})

        assert {failure, ips(ask_once(server, "a.example", timeout: 2_000))} ==
                 {failure, {[@ipv6], 5}}

        DnsServer.put(server, %{
          {"a.example", :a} => {100, [ip(1)]},
          {"a.example", :aaaa} => failure
        })

        assert {failure, ips(ask_once(server, "a.example", timeout: 2_000))} ==
                 {failure, {[ip(1)], 5}}
      end
    end

    test "what is not known of them is said" do
      for {type, family} <- [a: :inet, aaaa: :inet6],
          failure <- [:servfail, :refused, :silence] do
        server =
          serve(%{{"a.example", :a} => {100, [ip(1)]}, {"a.example", :aaaa} => {100, [@ipv6]}})

        refute match?({:ok, %{unknown: _}}, ask(server, "a.example"))

        zone = %{{"a.example", :a} => {100, [ip(1)]}, {"a.example", :aaaa} => {100, [@ipv6]}}
        DnsServer.put(server, %{zone | {"a.example", type} => failure})
        assert {:ok, %{unknown: unknown, addresses: [_other]}} = ask_once(server, "a.example", [])
        assert unknown == [%{family: family}]
      end
    end

    test "neither waits for the other for long, and what comes late is pushed" do
      for {late, family, first} <- [{:aaaa, :inet6, ip(1)}, {:a, :inet, @ipv6}] do
        zone = %{{"a.example", :a} => {100, [ip(1)]}, {"a.example", :aaaa} => {100, [@ipv6]}}
        server = serve(Map.update!(zone, {"a.example", late}, &{:late, &1}))
        push = push_to(self())
        opts = [nameservers: [DnsServer.address(server)], timeout: 60_000]

        assert {:ok, %{addresses: [address], ttl: 5, unknown: [%{family: ^family}]}} =
                 DNS.resolve("a.example", opts, push)

        assert address.ip == first
        refute_received {:pushed, _result}
        DnsServer.release(server)
        assert_receive {:pushed, result}, 10_000
        assert ips(result) == {[ip(1), @ipv6], 100}
        refute match?({:ok, %{unknown: _}}, result)
      end
    end

    test "what comes late and says nothing new is not pushed" do
      server =
        serve(%{{"a.example", :a} => {100, [ip(1)]}, {"a.example", :aaaa} => {:late, :servfail}})

      opts = [nameservers: [DnsServer.address(server)], timeout: 60_000]
      push = push_to(self())
      Process.flag(:trap_exit, true)
      assert {:ok, %{unknown: [_]}} = DNS.resolve("a.example", opts, push)
      DnsServer.release(server)
      assert_receive {:EXIT, _asking, :normal}, 10_000
      refute_received {:pushed, _result}
    end

    test "a server that says that the other does not exist has answered" do
      server = serve(%{{"a.example", :a} => {100, [ip(1)]}, {"a.example", :aaaa} => :nxdomain})
      assert ips(ask(server, "a.example")) == {[ip(1)], 100}
    end

    test "aliases are followed, and their TTL counts" do
      server =
        serve(%{
          {"alias.example", :cname} => {20, [~c"a.example"]},
          {"a.example", :a} => {30, [ip(1)]}
        })

      assert {:ok, %{addresses: [address], ttl: 20}} = ask(server, "alias.example:1")
      assert address == %Address{ip: ip(1), port: 1, host: "alias.example"}
    end

    test "the order in which a server lists them is kept, IPv4 before IPv6" do
      server = serve(%{})

      for order <- [[1, 2, 3], [3, 1, 2], [2, 3, 1]] do
        v4 = Enum.map(order, &ip/1)
        v6 = Enum.map(order, &put_elem(@ipv6, 7, &1))
        # An answer that has one twice has it once.
        zone = %{{"a.example", :a} => {30, v4 ++ [hd(v4)]}, {"a.example", :aaaa} => {30, v6}}
        DnsServer.put(server, zone)
        assert ips(ask(server, "a.example")) == {v4 ++ v6, 30}
      end
    end

    test "what changes is seen by the next question" do
      server = serve(%{{"a.example", :a} => {300, [ip(1), ip(2)]}})
      assert ips(ask(server, "a.example")) == {[ip(1), ip(2)], 300}

      DnsServer.put(server, %{{"a.example", :a} => {300, [ip(2), ip(3)]}})
      assert ips(ask(server, "a.example")) == {[ip(2), ip(3)], 300}

      DnsServer.put(server, %{})
      assert ask(server, "a.example") == {:error, :nxdomain}
    end

    test "more addresses than a datagram holds" do
      v4 = for i <- 1..400, do: {10, 0, div(i, 256), rem(i, 256)}
      v6 = for i <- 1..400, do: put_elem(@ipv6, 7, i)
      server = serve(%{{"a.example", :a} => {30, v4}, {"a.example", :aaaa} => {30, v6}})

      assert ips(ask(server, "a.example")) == {v4 ++ v6, 30}
      assert {:tcp, "a.example", :aaaa} in DnsServer.questions(server)
    end
  end

  describe "errors" do
    test "no such name" do
      assert ask(serve(%{}), "a.example") == {:error, :nxdomain}
    end

    test "a name without addresses" do
      server = serve(%{{"a.example", :mx} => {30, [{10, ~c"mail.example"}]}})
      assert ask(server, "a.example") == {:error, :no_addresses}
    end

    test "a server that cannot or does not want to" do
      for {failure, reason} <- [
            servfail: :servfail,
            refused: :refused,
            notimp: :notimp
          ] do
        server = serve(%{{"a.example", :a} => failure, {"a.example", :aaaa} => failure})
        assert ask(server, "a.example") == {:error, reason}
      end
    end

    test "an answer that is none" do
      answer = {:garbage, "no message"}
      server = serve(%{{"a.example", :a} => answer, {"a.example", :aaaa} => answer})
      assert {:error, reason} = ask(server, "a.example", timeout: 500)
      # Newer releases of OTP go on waiting for one that is.
      assert reason in [:formerr, :timeout]
    end

    test "SERVFAIL is said at once: nobody waits for another try" do
      server = serve(%{{"a.example", :a} => :servfail, {"a.example", :aaaa} => :servfail})
      assert ask(server, "a.example", timeout: 60_000) == {:error, :servfail}
      # Three tries of both would be six.
      assert length(DnsServer.questions(server)) < 6
    end

    test "no answer, over UDP or over TCP" do
      for silence <- [:silence, {:tcp, :silence}] do
        server = serve(%{{"a.example", :a} => silence, {"a.example", :aaaa} => silence})
        assert {silence, ask(server, "a.example", timeout: 200)} == {silence, {:error, :timeout}}
      end
    end

    test "no server" do
      assert DNS.resolve("dns://127.0.0.1:1/a.example", []) == {:error, :econnrefused}
    end
  end

  describe "TTL" do
    test "is the shortest of the answers', between floor and ceiling" do
      server = serve(%{{"a.example", :a} => {30, [ip(1)]}, {"a.example", :aaaa} => {20, [@ipv6]}})

      for {opts, ttl} <- [
            {[], 20},
            {[min_ttl: 25], 25},
            {[max_ttl: 10], 10},
            {[min_ttl: 20, max_ttl: 20], 20}
          ] do
        assert {:ok, %{ttl: ^ttl}} = ask(server, "a.example", opts)
      end
    end

    test "by default from 5 to 300 seconds" do
      for {given, ttl} <- [{0, 5}, {5, 5}, {6, 6}, {300, 300}, {86_400, 300}] do
        server = serve(%{{"a.example", :a} => {given, [ip(1)]}})
        assert {:ok, %{ttl: ^ttl}} = ask(server, "a.example")
      end
    end
  end

  describe "names" do
    test "an address is taken as it is, and nobody is asked" do
      server = serve(%{})

      for {text, ip} <- [
            {"10.0.0.1:50051", {10, 0, 0, 1}},
            {"[::1]:50051", {0, 0, 0, 0, 0, 0, 0, 1}}
          ] do
        assert ask(server, text) ==
                 {:ok, %{addresses: [%Address{ip: ip, port: 50051}], ttl: :infinity}}
      end

      assert DnsServer.questions(server) == []
    end

    test "the host of an address has no dot at its end" do
      server = serve(%{{"a.example", :a} => {30, [ip(1)]}})
      assert {:ok, %{addresses: [%Address{host: "a.example"}]}} = ask(server, "a.example.")
    end

    test "a server that is named is asked for what is in the hosts file too, as it is" do
      server = serve(%{{"localhost", :a} => {30, [ip(7)]}})
      assert ips(ask(server, "localhost")) == {[ip(7)], 30}
    end
  end

  describe "name servers" do
    test "the one in the target is asked in place of those in the options" do
      named = serve(%{{"a.example", :a} => {30, [ip(1)]}})
      other = serve(%{{"a.example", :a} => {30, [ip(2)]}})
      {ip, port} = DnsServer.address(named)

      target = "dns://#{:inet.ntoa(ip)}:#{port}/a.example"
      result = resolve(target, nameservers: [DnsServer.address(other)])

      assert ips(result) == {[ip(1)], 30}
      assert DnsServer.questions(other) == []
    end

    test "the next is asked when one cannot answer" do
      works = serve(%{{"a.example", :a} => {30, [ip(1)]}})

      for failure <- [:servfail, :refused] do
        fails = serve(%{{"a.example", :a} => failure, {"a.example", :aaaa} => failure})
        servers = Enum.map([fails, works], &DnsServer.address/1)
        assert ips(resolve("a.example", nameservers: servers)) == {[ip(1)], 30}
        assert DnsServer.questions(fails) != []
      end
    end

    test "can be written in every form of an address" do
      server = serve(%{{"a.example", :a} => {30, [ip(1)]}})
      {ip, port} = DnsServer.address(server)

      for form <- [{ip, port}, {"127.0.0.1", port}, "127.0.0.1:#{port}"] do
        assert ips(resolve("a.example", nameservers: [form])) == {[ip(1)], 30}
      end
    end
  end

  describe "SRV" do
    test "brings hosts, ports and weights; the port of the target is not used" do
      server =
        serve(%{
          {"_grpc._tcp.example", :srv} =>
            {60, [{1, 10, 5001, ~c"a.example"}, {1, 30, 5002, ~c"b.example"}]},
          {"a.example", :a} => {50, [ip(1), ip(2)]},
          {"b.example", :aaaa} => {40, [@ipv6]}
        })

      assert {:ok, %{addresses: addresses, ttl: 40}} =
               ask(server, "_grpc._tcp.example:9", srv: true)

      assert addresses == [
               %Address{ip: ip(1), port: 5001, host: "a.example", weight: 5},
               %Address{ip: ip(2), port: 5001, host: "a.example", weight: 5},
               %Address{ip: @ipv6, port: 5002, host: "b.example", weight: 30}
             ]
    end

    test "what is not known of hosts is said, with what they weigh" do
      zone = %{
        {"s", :srv} => {60, [{1, 1, 1, ~c"a"}, {1, 2, 2, ~c"b"}, {1, 4, 3, ~c"c"}]},
        {"a", :a} => {60, [ip(1), ip(2)]},
        {"b", :a} => :servfail,
        {"b", :aaaa} => :servfail,
        {"c", :a} => {60, [ip(3)]},
        {"c", :aaaa} => :refused
      }

      assert {:ok, %{addresses: addresses, unknown: unknown, ttl: 5}} =
               ask(serve(zone), "s", srv: true)

      assert Enum.map(addresses, &{&1.host, &1.weight}) == [{"a", 1}, {"a", 1}, {"c", 8}]

      assert unknown == [
               %{host: "b", port: 2, weight: 4},
               %{host: "c", port: 3, weight: 8, family: :inet6}
             ]
    end

    test "a host that no message can hold does not exist" do
      long = List.duplicate(?a, 64)
      records = for {host, i} <- Enum.with_index([~c"a", long], 1), do: {1, 1, i, host}
      assert [group] = DNS.SRV.groups(records)
      query = DNS.Query.new([], 5_000)

      for %{host: host} <- tl(group), type <- [:a, :aaaa] do
        assert DNS.Query.records(query, host, type) == {:error, :nxdomain}
      end
    end

    test "its own TTL counts too" do
      server =
        serve(%{
          {"s", :srv} => {20, [{1, 1, 1, ~c"a.example"}]},
          {"a.example", :a} => {50, [ip(1)]}
        })

      assert {:ok, %{ttl: 20}} = ask(server, "s", srv: true)
    end

    test "weight 0 is a small share beside others, and a full one among its like" do
      zone = for i <- 1..3, into: %{}, do: {{"h#{i}", :a}, {30, [ip(i)]}}
      server = serve(zone)

      for {weights, expected} <- [{[0, 0, 0], [1, 1, 1]}, {[0, 1, 20], [1, 100, 2000]}] do
        records = for {weight, i} <- Enum.with_index(weights, 1), do: {1, weight, 1, ~c"h#{i}"}
        DnsServer.put(server, Map.put(zone, {"s", :srv}, {30, records}))

        assert {:ok, %{addresses: addresses}} = ask(server, "s", srv: true)
        assert Enum.map(addresses, & &1.weight) == expected
      end
    end

    test "each address has the priority of its host, the first being 0" do
      zone = %{
        {"s", :srv} => {30, [{20, 7, 1, ~c"h3"}, {10, 1, 1, ~c"h1"}, {10, 1, 1, ~c"h2"}]},
        {"h1", :a} => {30, [ip(1)]},
        {"h2", :a} => {30, [ip(2)]},
        {"h3", :a} => {30, [ip(3), ip(4)]}
      }

      server = serve(zone)
      assert {:ok, %{addresses: addresses}} = ask(server, "s", srv: true)

      # The weights are those of a priority: what others share makes no difference.
      assert for(address <- addresses, do: {address.ip, address.priority, address.weight}) ==
               [{ip(1), 0, 1}, {ip(2), 0, 1}, {ip(3), 1, 7}, {ip(4), 1, 7}]

      DnsServer.put(server, Map.drop(zone, [{"h1", :a}, {"h2", :a}]))
      assert {:ok, %{addresses: [one, _other], ttl: 30} = found} = ask(server, "s", srv: true)
      assert {one.ip, one.priority} == {ip(3), 1}
      refute is_map_key(found, :unknown)
    end

    test "a host that fails keeps nobody else out, and is soon asked for again" do
      zone = %{
        {"s", :srv} => {30, [{20, 1, 1, ~c"h3"}, {10, 1, 1, ~c"h1"}, {10, 1, 1, ~c"h2"}]},
        {"h1", :a} => :servfail,
        {"h1", :aaaa} => :servfail,
        {"h2", :a} => {30, [ip(2)]},
        {"h3", :a} => {30, [ip(3)]}
      }

      server = serve(zone)
      assert ips(ask(server, "s", srv: true)) == {[ip(2), ip(3)], 5}

      # Nobody knows that there is nobody: this is not what the spare is for.
      DnsServer.put(server, Map.delete(zone, {"h2", :a}))
      assert ask(server, "s", srv: true) == {:error, :servfail}

      DnsServer.put(server, Map.drop(zone, [{"h2", :a}, {"h3", :a}]))
      assert ask(server, "s", srv: true) == {:error, :servfail}
    end

    test "a service that is not offered, or whose hosts nobody knows, has no addresses" do
      for records <- [[{0, 0, 0, ~c"."}], [{0, 0, 1, ~c"."}], [{1, 1, 0, ~c"a.example"}]] do
        server = serve(%{{"s", :srv} => {30, records}, {"a.example", :a} => {30, [ip(1)]}})
        assert ask(server, "s", srv: true) == {:error, :no_addresses}
      end

      server = serve(%{{"s", :srv} => {30, [{1, 1, 1, ~c"a.example"}]}})
      assert ask(server, "s", srv: true) == {:error, :no_addresses}
      assert ask(server, "other", srv: true) == {:error, :nxdomain}
    end

    test "many hosts" do
      hosts = 1..200

      zone =
        for i <- hosts, into: %{} do
          {{"host-#{i}.example", :a}, {30, [ip(i)]}}
        end

      records = for i <- hosts, do: {1, i, 50_000 + i, ~c"host-#{i}.example"}
      server = serve(Map.put(zone, {"s", :srv}, {30, records}))

      assert {:ok, %{addresses: addresses}} = ask(server, "s", srv: true)

      expected =
        for i <- hosts do
          %Address{ip: ip(i), port: 50_000 + i, host: "host-#{i}.example", weight: i}
        end

      assert addresses == expected
    end
  end

  describe "timeout" do
    # With the time of one question for each of them, one after the other, it would take longer.
    @tag timeout: 20_000
    test "is that of all questions together" do
      hosts = 1..80
      records = for i <- hosts, do: {1, 1, 1, ~c"host-#{i}.example"}

      zone =
        for i <- hosts, type <- [:a, :aaaa], into: %{{"s", :srv} => {30, records}} do
          {{"host-#{i}.example", type}, :silence}
        end

      assert ask(serve(zone), "s", srv: true, timeout: 500) == {:error, :timeout}
    end
  end

  describe "what the system says" do
    setup :system

    test "a name in the hosts file has its addresses, and DNS is not asked", %{
      server: server,
      resolve: resolve
    } do
      DnsServer.put(server, %{{"both.example", :a} => {30, [ip(9)]}})

      assert resolve.("localhost:50051") ==
               {:ok,
                %{
                  addresses: [
                    %Address{ip: {127, 0, 0, 1}, port: 50051, host: "localhost"},
                    %Address{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: 50051, host: "localhost"}
                  ],
                  ttl: nil
                }}

      assert ips(resolve.("both.example")) == {[ip(2), ip(1)], nil}
      assert ips(resolve.("BOTH.example.")) == {[ip(2), ip(1)], nil}
      assert DnsServer.questions(server) == []
    end

    test "the system's name servers are asked, with its search list", %{
      server: server,
      resolve: resolve
    } do
      DnsServer.put(server, %{
        {"db.two.example", :a} => {30, [ip(1)]},
        {"empty.one.example", :mx} => {30, [{10, ~c"mail.example"}]},
        {"empty.two.example", :a} => {30, [ip(2)]},
        {"_grpc._tcp.db.two.example", :srv} => {30, [{1, 1, 7, ~c"db.two.example"}]}
      })

      assert found(resolve.("db")) == [ip(1)]
      assert names(server) == ["db.one.example", "db.two.example"]
      assert {:ok, %{addresses: [%Address{host: "db"}]}} = resolve.("db")

      assert found(resolve.("empty")) == [ip(2)]
      assert DnsServer.questions(server) != []

      assert resolve.("no.db") == {:error, :nxdomain}
      assert names(server) == ["no.db", "no.db.one.example", "no.db.two.example"]

      assert resolve.("db.") == {:error, :nxdomain}
      assert names(server) == ["db"]
    end

    test "SERVFAIL of one name is that of this one", %{server: server, resolve: resolve} do
      DnsServer.put(server, %{
        {"db.one.example", :a} => :servfail,
        {"db.one.example", :aaaa} => :servfail,
        {"db.two.example", :a} => {30, [ip(1)]}
      })

      assert found(resolve.("db")) == [ip(1)]
      DnsServer.put(server, %{{"db.one.example", :a} => :servfail})
      # Not that there is none.
      assert resolve.("db") == {:error, :servfail}
    end

    @tag resolv_conf: "search one.example .\noptions ndots:2 no-aaaa\n"
    test "options are respected, and the root in a search list", context do
      %{server: server, resolve: resolve} = context
      DnsServer.put(server, %{{"db.a", :a} => {30, [ip(1)]}})
      assert found(resolve.("db.a")) == [ip(1)]
      assert asked(server) == [{"db.a.one.example", :a}, {"db.a", :a}]
      assert resolve.("db.a.b") == {:error, :nxdomain}
      assert asked(server) == [{"db.a.b", :a}, {"db.a.b.one.example", :a}]
    end

    @tag resolv_conf:
           "search a..b #{String.duplicate("b", 64)} .example #{String.duplicate("c.", 120)}c\n"
    test "names that no message can hold are passed over", %{server: server, resolve: resolve} do
      DnsServer.put(server, %{{"db.example", :a} => {30, [ip(1)]}})
      # glibc passes over the dot before a domain.
      assert found(resolve.("db")) == [ip(1)]
      assert found(resolve.("db:1")) == [ip(1)]
      name = String.duplicate("a", 60)
      assert resolve.(name) == {:error, :nxdomain}

      assert names(server) |> Enum.uniq() |> Enum.sort() ==
               Enum.sort(["db.example", name, name <> ".example"])
    end

    test "another failure ends the search", %{server: server, resolve: resolve} do
      DnsServer.put(server, %{
        {"db.one.example", :a} => :refused,
        {"db.one.example", :aaaa} => :refused,
        {"db.two.example", :a} => {30, [ip(1)]}
      })

      assert resolve.("db") == {:error, :refused}
    end
  end

  describe "options" do
    test "are checked, with a message that says what is allowed" do
      for {option, setting, allowed} <- [
            {:nameservers, [], "with one at least"},
            {:nameservers, "10.0.0.53", "a list of"},
            {:nameservers, ["ns.example"], "a list of"},
            {:nameservers, ["unix:/a"], "a list of"},
            {:nameservers, ["10.0.0.53" | :more], "a list of"},
            {:nameservers, [{{10, 0, 0, 53}, 0}], "a list of"},
            {:timeout, 0, "milliseconds"},
            {:timeout, :infinity, "milliseconds"},
            {:timeout, 0x100000000, "milliseconds"},
            {:srv, nil, "false or true"},
            {:min_ttl, 0, "seconds from 1"},
            {:max_ttl, 1.5, "seconds"},
            {:max_ttl, 4, ":min_ttl, which is 5"}
          ] do
        message = "option #{inspect(option)} of GrpcLb.Resolver.DNS must be "

        for check <- [&DNS.validate!/2, &DNS.resolve/2] do
          error = assert_raise ArgumentError, fn -> check.("a.example", [{option, setting}]) end
          assert error.message =~ message
          assert error.message =~ allowed
          assert error.message =~ "got: #{inspect(setting)}"
        end
      end

      assert_raise ArgumentError, ~r/unknown option :ttl .* expected :nameservers or/, fn ->
        DNS.validate!("a.example", ttl: 5)
      end

      assert_raise ArgumentError, ~r/must be a keyword list, got: :srv/, fn ->
        apply(DNS, :validate!, ["a.example", :srv])
      end
    end

    test "that are right are taken" do
      assert DNS.validate!("a.example", []) == :ok

      assert DNS.validate!("a.example",
               nameservers: ["10.0.0.53", "[::1]:5353", {"::1", 53}],
               timeout: 1,
               srv: true,
               min_ttl: 300,
               max_ttl: 300
             ) == :ok

      assert DNS.validate!("a.example", nameservers: :system) == :ok
    end
  end

  describe "in many processes" do
    @describetag :concurrency

    test "each gets the answer to its own question" do
      zone = for i <- 1..50, into: %{}, do: {{"h#{i}.example", :a}, {30, [ip(i)]}}
      server = serve(zone)

      results = together(50, fn i -> for _ <- 1..10, do: ips(ask(server, "h#{i}.example")) end)
      assert results == for(i <- 1..50, do: List.duplicate({[ip(i)], 30}, 10))
    end

    test "one that is killed while it waits leaves no process and no socket" do
      server = serve(%{{"a.example", :a} => :silence, {"a.example", :aaaa} => :silence})
      sockets = MapSet.new(Port.list())

      asking = for _ <- 1..10, do: spawn(fn -> ask_once(server, "a.example", timeout: 60_000) end)
      eventually(fn -> server |> DnsServer.questions() |> length() > 0 end)
      # Each has a process that asks, and that one a task for each question.
      below = fn pids -> pids |> Enum.flat_map(&linked/1) |> Kernel.--(asking) end
      eventually(fn -> asking |> below.() |> below.() |> length() == 20 end)
      tasks = asking |> below.() |> below.()
      eventually(fn -> Enum.all?(tasks, &(sockets_of(&1) != [])) end)
      opened = Enum.flat_map(tasks, &sockets_of/1)
      assert Enum.all?(opened, &(&1 not in sockets))

      kill(asking)
      eventually(fn -> not Enum.any?(tasks, &Process.alive?/1) end)
      eventually(fn -> Enum.all?(opened, &(Port.info(&1) == nil)) end)
    end
  end

  # A VM that has our directory in place of /etc, and our server. As resolv.conf cannot say the port of
  # a server, that stands in an inetrc, as an alternative one: resolv.conf does not replace those.
  defp system(context) do
    server = serve(%{})
    {ip, port} = DnsServer.address(server)
    etc = Path.join(System.tmp_dir!(), "dns-test-#{System.unique_integer([:positive])}")
    inetrc = Path.join(etc, "inetrc")

    File.mkdir_p!(etc)
    on_exit(fn -> File.rm_rf!(etc) end)

    File.write!(inetrc, "{alt_nameserver, #{:io_lib.write(ip)}, #{port}}.\n")
    conf = Map.get(context, :resolv_conf, "search one.example two.example\n")
    File.write!(Path.join(etc, "resolv.conf"), conf)

    File.write!(Path.join(etc, "hosts"), """
    127.0.0.1 localhost
    ::1 localhost
    10.0.0.2 both.example
    10.0.0.1 both.example
    """)

    args = ["-env", "ERL_INET_ETC_DIR", etc, "-kernel", "inetrc", inspect(inetrc)]
    peer = args |> Enum.map(&String.to_charlist/1) |> Peer.start()

    %{server: server, resolve: &Peer.run(peer, DNS, :resolve, [&1, []])}
  end

  defp serve(zone) do
    start_supervised!(%{id: make_ref(), start: {DnsServer, :start_link, [zone]}})
  end

  defp push_to(pid) do
    fn result ->
      send(pid, {:pushed, result})
      :ok
    end
  end

  defp ask(server, name, opts \\ []), do: resolve("dns:///" <> name, at(server, opts))

  # What is known in the end: on a busy machine an answer can be late.
  defp resolve(target, opts) do
    asking =
      Task.async(fn ->
        Process.flag(:trap_exit, true)
        push = push_to(self())
        first = DNS.resolve(target, opts, push)

        receive do
          {:EXIT, _asking, :normal} -> first
          {:pushed, result} -> result
        end
      end)

    result = Task.await(asking, 60_000)
    assert Resolver.check(result) == result
    result
  end

  # What is known at first.
  defp ask_once(server, name, opts), do: DNS.resolve("dns:///" <> name, at(server, opts))

  # With as much time as an answer may take on a busy machine.
  defp at(server, opts),
    do: [nameservers: [DnsServer.address(server)]] ++ Keyword.put_new(opts, :timeout, 30_000)

  # What was asked over UDP. A client that is kept waiting asks again, so that the same may come twice.
  defp asked(server) do
    Enum.uniq(for {:udp, name, type} <- DnsServer.questions(server), do: {name, type})
  end

  defp names(server), do: for({name, :a} <- asked(server), do: name)

  # Of these the first result is looked at, which has another TTL where an answer is late.
  defp found({:ok, %{addresses: addresses}}), do: Enum.map(addresses, & &1.ip)

  defp ips({:ok, %{addresses: addresses, ttl: ttl}}), do: {Enum.map(addresses, & &1.ip), ttl}

  defp ip(n), do: {10, 0, 0, n}

  defp linked(pid) do
    case Process.info(pid, :links) do
      {:links, links} -> Enum.filter(links, &is_pid/1)
      nil -> []
    end
  end

  defp sockets_of(pid) do
    case Process.info(pid, :links) do
      {:links, links} -> Enum.filter(links, &is_port/1)
      nil -> []
    end
  end
end
