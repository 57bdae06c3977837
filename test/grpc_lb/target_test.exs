defmodule GrpcLb.TargetTest do
  use ExUnit.Case, async: true

  alias GrpcLb.{Address, Target}

  doctest Target

  describe "dns" do
    test "in every form of gRPC's naming document, and without a scheme" do
      target = %Target{scheme: :dns, host: "a.example", port: 50051}

      for text <-
            ~w(dns:///a.example:50051 dns:a.example:50051 a.example:50051 DNS:///a.example:50051) do
        assert {text, Target.parse!(text)} == {text, target}
      end
    end

    test "as elixir-grpc writes it: what has no path is a name and no name server" do
      target = %Target{scheme: :dns, host: "my-service.local", port: 50051}
      assert Target.parse!("dns://my-service.local:50051") == target
      assert Target.parse!("dns://my-service.local:50051/") == target
      assert Target.parse!("dns://10.0.0.1") == %Target{scheme: :dns, host: "10.0.0.1", port: 443}
    end

    test "with a name server" do
      for {text, nameserver} <- [
            {"dns://10.0.0.53/a.example", {{10, 0, 0, 53}, 53}},
            {"dns://10.0.0.53:5353/a.example", {{10, 0, 0, 53}, 5353}},
            {"dns://[::1]/a.example", {{0, 0, 0, 0, 0, 0, 0, 1}, 53}},
            {"dns://[::1]:5353/a.example", {{0, 0, 0, 0, 0, 0, 0, 1}, 5353}}
          ] do
        assert %Target{host: "a.example", port: 443, nameserver: ^nameserver} =
                 Target.parse!(text)
      end

      message = refused("dns://ns.example/a.example")
      assert message =~ ~s(the name server "ns.example" is no IP address)
    end

    test "the port is 443 when it is left out" do
      for text <- ~w(dns:///a.example dns:a.example a.example dns://a.example) do
        assert {text, Target.parse!(text).port} == {text, 443}
      end
    end

    test "the host may be an address, of IPv6 in brackets when there is a port" do
      for {text, host, port} <- [
            {"127.0.0.1:50051", "127.0.0.1", 50051},
            {"dns:///[::1]:50051", "::1", 50051},
            {"[::1]", "::1", 443},
            {"2001:db8::1:8080", "2001:db8::1:8080", 443}
          ] do
        assert %Target{scheme: :dns, host: ^host, port: ^port} = Target.parse!(text)
      end
    end

    test "the port is a number from 1 to 65535" do
      assert Target.parse!("a.example:65535").port == 65_535

      for port <- ["", "0", "65536", "+1", "1x", "http", " 1"] do
        said = "the port must be a number from 1 to 65535, got #{inspect(port)}"
        assert refused("a.example:" <> port) =~ said
        assert refused("ipv4:10.0.0.1:" <> port) =~ said
        assert refused("ipv6:[::1]:" <> port) =~ said
        assert refused("static:10.0.0.1:" <> port) =~ said
        assert refused("dns://10.0.0.53:#{port}/a.example") =~ "of the name server " <> said
      end
    end

    test "names have the length and the characters of DNS names" do
      label = String.duplicate("a", 63)
      longest = Enum.join([label, label, label, String.duplicate("a", 61)], ".")

      for host <- [
            "a",
            "a.",
            "_grpc._tcp.a.example",
            "A-1.example",
            label,
            longest,
            longest <> "."
          ] do
        assert {host, Target.parse!("dns:///#{host}:1").host} == {host, host}
      end

      for host <-
            ["", ".", ".a", "a..b", "a.example/b", "a b", "a?b", "ä", "a" <> label] ++
              ["a." <> binary_part(longest, 1, 252), "a\n", "10.0.0.1%eth0", "fe80::1%", <<255>>] do
        assert refused("dns:///" <> host) =~ "is no host name"
      end
    end
  end

  describe "ipv4, ipv6 and static" do
    test "one address or several, in their order" do
      for {text, scheme, ids} <- [
            {"ipv4:10.0.0.2:1,10.0.0.1:2", :ipv4, ["10.0.0.2:1", "10.0.0.1:2"]},
            {"ipv4:10.0.0.1", :ipv4, ["10.0.0.1:443"]},
            {"ipv6:[2001:db8::2]:1,[::1]:2", :ipv6, ["[2001:db8::2]:1", "[::1]:2"]},
            {"ipv6:::1", :ipv6, ["[::1]:443"]},
            {"ipv6:[::1]", :ipv6, ["[::1]:443"]},
            {"static:[::1]:1,10.0.0.1:2,unix:/a", :static, ["[::1]:1", "10.0.0.1:2", "unix:/a"]}
          ] do
        assert %Target{scheme: ^scheme, addresses: addresses} = Target.parse!(text)
        assert {text, Enum.map(addresses, &Address.id/1)} == {text, ids}
      end
    end

    test "a list takes every form of an address, with its weight" do
      heavy = %Address{ip: {10, 0, 0, 3}, port: 3, weight: 9}
      forms = ["10.0.0.1", {"::1", 1}, {{10, 0, 0, 2}, 2}, heavy]

      assert %Target{scheme: :static, addresses: addresses} = Target.parse!({:static, forms})
      assert Enum.map(addresses, & &1.port) == [443, 1, 2, 3]
      assert List.last(addresses) == heavy
    end

    test "every address must be of the scheme's kind" do
      for {target, culprit} <- [
            {"ipv4:10.0.0.1:1,[::1]:1", ~s("[::1]:1" is no IPv4 address)},
            {"ipv4:10.0.0.1:1,unix:/a", ~s("unix:/a" is no IPv4 address)},
            {"ipv4:localhost:1", ~s("localhost:1" is no IPv4 address)},
            {"ipv4:10.0.0.1:1,", ~s("" is no IPv4 address)},
            {"ipv6:10.0.0.1:1", ~s("10.0.0.1:1" is no IPv6 address)},
            {"ipv6:::1:50051", ~s("::1:50051" is no IPv6 address)},
            {"static:", ~s("" is no address)},
            {{:static, ["10.0.0.1", :b]}, ":b is no address"},
            {{:static, ["10.0.0.1" | :b]}, "an improper list"}
          ] do
        assert refused(target) =~ culprit
      end
    end
  end

  describe "unix" do
    test "a relative or an absolute path, decoded as in a URI" do
      for {text, path} <- [
            {"unix:run/app.sock", "run/app.sock"},
            {"unix:/run/app.sock", "/run/app.sock"},
            {"unix:///run/app.sock", "/run/app.sock"},
            {"unix:///run/my%20app%25.sock", "/run/my app%.sock"}
          ] do
        assert %Target{scheme: :unix, addresses: [address]} = Target.parse!(text)
        assert address == %Address{ip: {:local, path}, port: 0}
      end
    end

    test "an authority, no path and paths that the kernel does not take are refused" do
      assert refused("unix://run/app.sock") =~ "the path must be absolute"

      for text <- ["unix:", "unix:a%00b", "unix:/" <> String.duplicate("a", 200)] do
        assert refused(text) =~ "is no path of a Unix domain socket"
      end
    end
  end

  describe "unix-abstract" do
    test "a name, decoded as in a URI, which no path begins with" do
      for {text, name} <- [
            {"unix-abstract:app", "app"},
            {"unix-abstract:5000", "5000"},
            {"UNIX-ABSTRACT:/run/app", "/run/app"},
            {"unix-abstract:a%00b%20c", "a\0b c"}
          ] do
        assert %Target{scheme: :unix_abstract, addresses: [address]} = Target.parse!(text)
        assert address == %Address{ip: {:local, <<0>> <> name}, port: 0}
      end

      assert Target.parse!("static:unix-abstract:a").addresses ==
               Target.parse!("unix-abstract:a").addresses
    end

    test "no name, one that is too long, and an authority are refused" do
      for text <- ["unix-abstract:", "unix-abstract:" <> String.duplicate("a", 200)] do
        assert refused(text) =~ "is no name of a socket in Linux's abstract namespace"
      end

      assert refused("unix-abstract://a") =~ "there is no //"
      assert refused("unix:%00a") =~ "is no path"
    end
  end

  test "percent-escapes and zones are those of gRPC's naming document" do
    here = %Address{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: 1}
    local = %Address{ip: {0xFE80, 0, 0, 0, 0, 0, 0, 1}, port: 1, zone: "eth0"}

    for {text, address} <- [
          {"ipv6:%5B::1%5D:1", here},
          {"ipv6:[fe80::1%25eth0]:1", local},
          {"ipv6:[fe80::1%eth0]:1", local},
          {"static:[fe80::1%25eth0]:1", local}
        ] do
      assert {text, Target.parse!(text).addresses} == {text, [address]}
    end

    for {text, host} <- [
          {"dns:///%5B::1%5D:1", "::1"},
          {"dns:///[fe80::1%25eth0]:1", "fe80::1%eth0"},
          {"dns:[fe80::1%25eth0]:1", "fe80::1%eth0"},
          {"dns://10.0.0.53/%61.example:1", "a.example"},
          # Without a scheme nothing is escaped.
          {"[fe80::1%eth0]:1", "fe80::1%eth0"}
        ] do
      assert %Target{scheme: :dns, host: ^host, port: 1} = Target.parse!(text)
    end

    assert refused("%61.example:1") =~ "is no host name"
    assert refused("dns://[fe80::1%25eth0]/a.example") =~ "must have no zone"
    assert refused("ipv4:10.0.0.1%25eth0") =~ "is no IPv4 address"
  end

  test "a host that is named like a scheme is a host" do
    assert %Target{scheme: :dns, host: "http", port: 80} = Target.parse!("http:80")
    assert %Target{scheme: :dns, host: "unix", port: 80} = Target.parse!("dns:unix:80")
  end

  test "other schemes are refused, and the message says which there are" do
    for text <- ~w(http://a.example:1 https://a.example xds:///a vsock:1:2 XDS:a ftp:/a) do
      message = refused(text)
      [scheme | _rest] = String.split(text, ":")
      assert message =~ "#{inspect(text)}: the scheme #{inspect(scheme)} is unknown, expected"

      for form <- ~w(dns:///host:port ipv4: ipv6: unix: unix-abstract: static:),
          do: assert(message =~ form)
    end
  end

  test "terms that are no target are refused" do
    for term <- [
          nil,
          :dns,
          1,
          ~c"dns:///a",
          [],
          {:static, []},
          {:static, "a"},
          {:other, ["a"]},
          %{}
        ] do
      assert refused(term) =~ "neither text nor a list of static addresses"
    end
  end

  test "any text is a target or refused" do
    pieces =
      ~w(dns ipv4 ipv6 unix unix-abstract xds static : / // /// [ ] , . 10.0.0.1 ::1 a % %00 %25) ++
        ~w(%5B :0 :1) ++ [<<255>>]

    for _ <- 1..2_000 do
      text = Enum.map_join(1..Enum.random(1..8), "", fn _ -> Enum.random(pieces) end)

      try do
        assert %Target{} = Target.parse!(text)
      rescue
        error in ArgumentError -> assert error.message =~ "expected one of"
      end
    end
  end

  defp refused(target) do
    assert_raise(ArgumentError, fn -> Target.parse!(target) end).message
  end
end
