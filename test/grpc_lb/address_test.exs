defmodule GrpcLb.AddressTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Address

  doctest Address

  test "id and new! are inverse, for any address" do
    for _ <- 1..500 do
      address = Enum.random([&ipv4/0, &ipv6/0, &unix/0]).()
      assert Address.valid?(address)
      assert address == address |> Address.id() |> Address.new!()
    end
  end

  test "the id has neither host nor weight in it" do
    address = %Address{ip: {10, 0, 0, 1}, port: 1, host: "a.example", weight: 7}
    assert Address.id(address) == "10.0.0.1:1"
    assert Address.id(%{address | host: nil, weight: 1}) == "10.0.0.1:1"
    assert Address.id(%{address | port: 2}) != "10.0.0.1:1"
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
          "fe80::1%eth0",
          "[fe80::1%eth0]:1",
          "unix:",
          "unix:a\0b",
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
          %{address | ip: nil},
          [],
          nil
        ] do
      assert {malformed, Address.new(malformed)} == {malformed, :error}
      assert_raise ArgumentError, ~r/is no address, expected/, fn -> Address.new!(malformed) end
    end
  end

  test "gen_tcp takes ip and port as they are" do
    path = Path.join(System.tmp_dir!(), "address-#{System.unique_integer([:positive])}.sock")
    on_exit(fn -> File.rm(path) end)

    for ip <- [{127, 0, 0, 1}, {:local, path}] do
      {:ok, listening} = :gen_tcp.listen(0, ip: ip, active: false)
      {:ok, port} = port(listening)
      address = Address.new!(%Address{ip: ip, port: port})

      assert {:ok, _socket} = :gen_tcp.connect(address.ip, address.port, active: false)
    end
  end

  test "gen_tcp can be given the longest path" do
    longest = Enum.find(200..1//-1, &match?({:ok, _address}, Address.new(unix(&1))))
    {:ok, %Address{ip: ip}} = Address.new(unix(longest))
    assert :gen_tcp.connect(ip, 0, active: false) == {:error, :enoent}
  end

  defp unix(length), do: "unix:" <> String.duplicate("a", length)
  defp unix, do: Address.new!(unix(Enum.random(1..103)))
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
