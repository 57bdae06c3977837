defmodule GrpcLb.AddressTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address

  doctest Address

  test "id and new! are inverse, for any address" do
    for _ <- 1..500 do
      address = Enum.random([&ipv4/0, &ipv6/0, &zoned/0, &unix/0, &abstract/0]).()
      assert Address.valid?(address)
      assert address == address |> Address.id() |> Address.new!()
    end
  end

  test "so are they where Erlang sees a zone in the second word" do
    for first <- [0xFE80, 0xFF01, 0xFF02], zone <- [nil, "eth0"] do
      address = %Address{ip: {first, 1, 0, 0, 0, 0, 0, 0x8A}, port: 1, zone: zone}
      assert address == address |> Address.id() |> Address.new!()
    end

    assert Address.id(%Address{ip: {0xFE80, 1, 0, 0, 0, 0, 0, 0x8A}, port: 1}) ==
             "[fe80:1:0:0:0:0:0:8a]:1"
  end

  test "the id has neither host nor weight in it" do
    address = %Address{ip: {10, 0, 0, 1}, port: 1, host: "a.example", weight: 7}
    assert Address.id(address) == "10.0.0.1:1"
    assert Address.id(%{address | host: nil, weight: 1}) == "10.0.0.1:1"
    assert Address.id(%{address | port: 2}) != "10.0.0.1:1"
  end

  test "a struct with wrong fields has neither id nor sockaddr" do
    for fields <- [
          [],
          [ip: "10.0.0.1", port: 1],
          [ip: {1, 2, 3, 4}, port: nil],
          [ip: {:local, ""}, port: 0]
        ],
        ask <- [&Address.id/1, &Address.sockaddr/1] do
      address = struct(Address, fields)
      assert_raise ArgumentError, ~r/no valid ip, port and zone/, fn -> ask.(address) end
    end

    for other <- ["10.0.0.1:1", %{ip: {1, 2, 3, 4}, port: 1}, nil],
        ask <- [&Address.id/1, &Address.sockaddr/1] do
      assert_raise ArgumentError, ~r/^address must be a %GrpcLb.Address{}, got: /, fn ->
        ask.(other)
      end
    end

    address = %Address{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: 1, zone: <<0xFF>>}
    assert_raise ArgumentError, fn -> Address.sockaddr(address) end
  end

  test "a struct is taken with its weight and host" do
    address = %Address{ip: {10, 0, 0, 1}, port: 1, host: "a.example", weight: 0xFFFFFFFF}
    assert Address.new(address) == {:ok, address}
  end

  test "text without a port gets the default, text with one keeps it" do
    assert Address.new!("10.0.0.1").port == 443
    assert Address.new!("[::1]", 7).port == 7
    assert Address.new!("2001:db8::1:8080", 7).port == 7
    assert Address.new!("[2001:db8::1]:8080", 7).port == 8080
    assert Address.new!("unix:/run/app.sock", 7).port == 0
  end

  test "refuses what is no address" do
    address = %Address{ip: {10, 0, 0, 1}, port: 1}

    for malformed <- [
          "",
          "10.0.0.1:",
          "10.0.0.1:0",
          "10.0.0.1:65536",
          "10.0.0.1:+1",
          "10.0.0.1:1:2",
          "10.0.0.256:1",
          "127.1:1",
          "[10.0.0.1]:1",
          "[::1]1",
          "[::1",
          "::1:50051",
          "fe80::1%",
          "[fe80::1%a]b]:1",
          "[fe80::1%a b]:1",
          "10.0.0.1%eth0:1",
          "unix:",
          "unix:a\0b",
          "unix:\0a",
          "unix-abstract:",
          "unix-abstract:" <> String.duplicate("a", 108),
          "unix:" <> String.duplicate("a", 200),
          <<255>>,
          {<<255>>, 1},
          {"a.example", 1},
          {{10, 0, 0}, 1},
          {{10, 0, 0, 256}, 1},
          {{10, 0, 0, 1}, 0},
          {{10, 0, 0, 1}, "1"},
          {{:local, "/run/app.sock"}, 1},
          {{:local, ~c"/run/app.sock"}, 0},
          %{address | weight: 0},
          %{address | weight: 1.0},
          %{address | weight: 0x100000000},
          %{address | host: ~c"a.example"},
          %{address | zone: "eth0"},
          %Address{ip: {0xFE80, 0, 0, 0, 0, 0, 0, 1}, port: 1, zone: 7},
          %Address{ip: {0xFE80, 0, 0, 0, 0, 0, 0, 1}, port: 1, zone: "a%b"},
          %{address | ip: nil},
          %{address | alternatives: nil},
          %{address | alternatives: ["10.0.0.2:1"]},
          %{address | alternatives: [{{10, 0, 0, 2}, 0}]},
          %{address | alternatives: [{{10, 0, 0, 2}, 1} | :rest]},
          [],
          nil
        ] do
      assert {malformed, Address.new(malformed)} == {malformed, :error}
      assert_raise ArgumentError, ~r/is no address, expected/, fn -> Address.new!(malformed) end
    end
  end

  test "a backend may listen in several places" do
    address = %{ipv4() | alternatives: [{ipv6().ip, 1}, {unix().ip, 0}]}
    assert Address.new(address) == {:ok, address}
    assert Address.id(address) == Address.id(%{address | alternatives: []})
  end

  test "gen_tcp takes ip and port as they are" do
    path = socket_path()

    for ip <- [{127, 0, 0, 1}, {:local, path}] do
      {:ok, listening} = :gen_tcp.listen(0, ip: ip, active: false)
      {:ok, port} = port(listening)
      address = Address.new!(%Address{ip: ip, port: port})

      assert {:ok, _socket} = :gen_tcp.connect(address.ip, address.port, active: false)
    end
  end

  test "sockaddr leads to every kind of IP address, as gen_tcp takes it" do
    here = {0, 0, 0, 0, 0, 0, 0, 1}

    for {listen, zone} <- [
          {[ip: {127, 0, 0, 1}], nil},
          {[:inet6, ip: here], nil},
          {[:inet6, ip: here], loopback()},
          {[:inet6, ip: here], "1"}
        ] do
      {:ok, listening} = :gen_tcp.listen(0, [active: false] ++ listen)
      {:ok, port} = port(listening)
      address = Address.new!(%Address{ip: listen[:ip], port: port, zone: zone})

      assert {:ok, sockaddr} = Address.sockaddr(address)
      assert {:ok, _socket} = :gen_tcp.connect(sockaddr, active: false)
    end
  end

  test "sockaddr leads to Unix domain sockets, as socket takes it" do
    for path <- [socket_path(), abstract_name()] do
      {:ok, _listening} = :gen_tcp.listen(0, ip: {:local, path}, active: false)
      {:ok, sockaddr} = Address.sockaddr(%Address{ip: {:local, path}, port: 0})
      {:ok, socket} = :socket.open(:local, :stream)
      assert :socket.connect(socket, sockaddr) == :ok
    end
  end

  # The machine may have no such address; then this has nothing to try.
  test "a link-local address is reached in its zone" do
    for {name, {0xFE80, _, _, _, _, _, _, _} = ip} <- interfaces(), zone = to_string(name) do
      {:ok, index} = :net.if_name2index(name)
      {:ok, listening} = :socket.open(:inet6, :stream, :tcp)
      :ok = :socket.bind(listening, %{family: :inet6, addr: ip, port: 0, scope_id: index})
      :ok = :socket.listen(listening)
      {:ok, %{port: port}} = :socket.sockname(listening)

      for zone <- [zone, "#{index}"] do
        {:ok, sockaddr} = Address.sockaddr(Address.new!({"#{:inet.ntoa(ip)}%#{zone}", port}))
        assert {:ok, _socket} = :gen_tcp.connect(sockaddr, active: false)
      end
    end
  end

  test "a zone that is no interface of this machine has no sockaddr" do
    assert {:error, posix} = Address.sockaddr(Address.new!("[fe80::1%nowhere]:1"))
    assert is_atom(posix)
  end

  test "gen_tcp can be given the longest path" do
    longest = Enum.find(200..1//-1, &match?({:ok, _address}, Address.new(unix(&1))))
    {:ok, %Address{ip: ip}} = Address.new(unix(longest))
    assert :gen_tcp.connect(ip, 0, active: false) == {:error, :enoent}
  end

  test "gen_tcp can be given the longest abstract name" do
    name = fn length -> "unix-abstract:" <> String.duplicate("a", length) end
    longest = Enum.find(200..1//-1, &match?({:ok, _address}, Address.new(name.(&1))))
    {:ok, %Address{ip: ip}} = Address.new(name.(longest))
    assert :gen_tcp.connect(ip, 0, active: false) == {:error, :econnrefused}
  end

  defp unix(length), do: "unix:" <> String.duplicate("a", length)
  defp unix, do: Address.new!(unix(Enum.random(1..103)))

  defp socket_path do
    path =
      Path.join(
        System.tmp_dir!(),
        "address-#{System.pid()}-#{System.unique_integer([:positive])}.sock"
      )

    on_exit(fn -> File.rm(path) end)
    path
  end

  defp abstract, do: %Address{ip: {:local, abstract_name()}, port: 0}
  defp abstract_name, do: <<0>> <> :crypto.strong_rand_bytes(12)
  defp zoned, do: %{ipv6() | zone: Enum.random(["eth0", "7", "wlp3s0.4"])}

  defp interfaces do
    {:ok, interfaces} = :inet.getifaddrs()
    for {name, options} <- interfaces, {:addr, ip} <- options, do: {name, ip}
  end

  defp loopback do
    {name, _ip} = Enum.find(interfaces(), fn {_name, ip} -> ip == {127, 0, 0, 1} end)
    to_string(name)
  end

  defp ipv4, do: %Address{ip: numbers(4, 0xFF), port: Enum.random(1..0xFFFF)}
  defp ipv6, do: %Address{ip: numbers(8, 0xFFFF), port: Enum.random(1..0xFFFF)}

  # Zeros often, as they are what IPv6 addresses leave out.
  defp numbers(n, highest) do
    List.to_tuple(for _ <- 1..n, do: Enum.random([0, Enum.random(0..highest)]))
  end

  defp port(listening) do
    case :inet.sockname(listening) do
      {:ok, {:local, _path}} -> {:ok, 0}
      {:ok, {_ip, port}} -> {:ok, port}
    end
  end
end
