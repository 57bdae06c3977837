defmodule GrpcLb.DashboardTest do
  # Counts what lives on the node.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Dashboard
  alias GrpcLb.Dashboard.{Json, Page, Site}
  alias GrpcLb.Test.Peer

  doctest Dashboard
  doctest Json

  defp start!(opts \\ []) do
    {:ok, dashboard} = Dashboard.start([port: 0] ++ opts)
    on_exit(fn -> if Process.alive?(dashboard), do: Dashboard.stop(dashboard) end)
    {dashboard, URI.parse(Dashboard.url(dashboard)).port}
  end

  # A request as it goes over the wire.
  defp request(port, lines, address \\ {127, 0, 0, 1}) do
    {:ok, socket} = :gen_tcp.connect(address, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, [Enum.map(lines, &[&1, "\r\n"]), "Connection: close\r\n\r\n"])
    answer = receive_all(socket, "")
    [head, body] = String.split(answer, "\r\n\r\n", parts: 2)
    ["HTTP/1.1 " <> status | headers] = String.split(head, "\r\n")

    headers =
      for header <- headers, do: header |> String.downcase() |> String.split(~r{: ?}, parts: 2)

    {status |> String.slice(0, 3) |> String.to_integer(), Map.new(headers, &List.to_tuple/1),
     body}
  end

  defp receive_all(socket, received) do
    case :gen_tcp.recv(socket, 0, 30_000) do
      {:ok, more} -> receive_all(socket, received <> more)
      {:error, :closed} -> received
    end
  end

  defp get(port, path, more \\ []),
    do: request(port, ["GET #{path} HTTP/1.1", "Host: localhost:#{port}" | more])

  describe "start/1" do
    test "serves the page, which refers to nothing elsewhere" do
      {_dashboard, port} = start!()
      assert {200, headers, page} = get(port, "/")
      assert headers["content-type"] == "text/html; charset=utf-8"
      assert page == Page.html()
      refute page =~ ~r{(src|href)="(?!data:,)}
      assert page =~ "<title>grpc_lb</title>"
      refute page =~ "innerHTML"
      refute page =~ "eval("
    end

    test "has the browser run and fetch nothing but what is in the page" do
      {_dashboard, port} = start!()

      for path <- ["/", "/balancers.json", "/nothing"] do
        {_status, headers, _body} = get(port, path)

        assert headers["content-security-policy"] =~
                 ~r/^default-src 'none'; script-src 'sha256-\S+'; /

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "deny"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        refute Map.has_key?(headers, "access-control-allow-origin")
      end

      [_, script] = Regex.run(~r{<script>(.*)</script>}s, Page.html())
      assert Page.policy() =~ "'sha256-#{Base.encode64(:crypto.hash(:sha256, script))}'"
    end

    test "tells of the balancers, and of one" do
      {_dashboard, port} = start!()
      {:ok, lb} = GrpcLb.new(:ring_hash, ["<script>", "b"], name: "</script>", owner: self())
      %{number: number} = GrpcLb.Native.summary(lb)

      {200, %{"content-type" => "application/json"}, list} = get(port, "/balancers.json")
      assert list =~ ~s("name":"\\u003C/script\\u003E","number":#{number},)
      {200, _headers, sample} = get(port, "/balancers/#{number}.json?x=1")
      assert sample =~ ~s("id":"\\u003Cscript\\u003E")
      assert sample =~ ~s("table":{"bytes":)
      refute list <> sample =~ "<"
      assert is_reference(lb)

      for file <- [
            "#{number}",
            "0.json",
            "-1.json",
            "x.json",
            "99999999999999999999.json",
            ".json"
          ] do
        assert {404, _headers, "there is no such balancer\n"} = get(port, "/balancers/#{file}")
      end
    end

    test "refuses what is for another host, of another origin, or no GET" do
      {_dashboard, port} = start!(hosts: ["Ops.example"])

      for host <- [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:1:2",
            ""
          ] do
        assert {403, _, _} = request(port, ["GET / HTTP/1.1", "Host: #{host}"])
      end

      for host <- ["localhost", "LOCALHOST:8080", "127.0.0.1:#{port}", "[::1]:9", "ops.example"] do
        assert {200, _, _} = request(port, ["GET / HTTP/1.1", "Host: #{host}"])
      end

      for origin <- ["http://evil.example", "null", "http://localhost:1", "file://"] do
        assert {403, _, _} = get(port, "/balancers.json", ["Origin: #{origin}"])
      end

      assert {200, _, _} = get(port, "/balancers.json", ["Origin: http://localhost:#{port}"])

      for method <- ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"] do
        assert {status, _, _} = request(port, ["#{method} / HTTP/1.1", "Host: localhost:#{port}"])
        assert status in [405, 501]
      end

      for path <- ["/../../etc/passwd", "/%2e%2e/etc/passwd", "//", "/mix.exs"] do
        assert {status, _, _} = get(port, path)
        assert status in [400, 403, 404]
      end
    end

    test "says that the port is in use, and serves on several" do
      {_dashboard, port} = start!()

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          assert Dashboard.start(port: port) == {:error, :eaddrinuse}
        end)

      refute log =~ "httpd"
      {_other, other_port} = start!()
      assert {200, _, _} = get(other_port, "/")
      assert {200, _, _} = get(port, "/")
    end

    test "listens at the address that it is given" do
      {dashboard, port} = start!(ip: "::1")
      assert Dashboard.url(dashboard) == "http://[::1]:#{port}/"

      assert {200, _, _} =
               request(port, ["GET / HTTP/1.1", "Host: [::1]:#{port}"], {0, 0, 0, 0, 0, 0, 0, 1})

      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])

      for {opts, message} <- [
            {[ip: "nowhere"], ~r/option :ip of GrpcLb.Dashboard must be an IP address/},
            {[ip: {1, 2}], ~r/option :ip/},
            {[port: -1], ~r/option :port/},
            {[host: "a"], ~r/unknown option :host/}
          ] do
        assert_raise ArgumentError, message, fn -> Dashboard.start(opts) end
      end
    end
  end

  test "stop/1 and the end of a supervisor close its port" do
    {dashboard, port} = start!()
    assert Dashboard.stop(dashboard) == :ok
    assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])

    supervised = start_supervised!({Dashboard, port: 0})
    %URI{port: port} = URI.parse(Dashboard.url(supervised))
    assert {200, _, _} = get(port, "/")
    Process.exit(supervised, :kill)
    # httpd ends with who started it, and another is started.
    eventually(fn ->
      match?({:error, :econnrefused}, :gen_tcp.connect({127, 0, 0, 1}, port, []))
    end)
  end

  test "nothing of it runs unless it is asked for" do
    # In a VM of its own: in this one others use it.
    applications = Peer.run(Peer.start(), Application, :started_applications)
    refute List.keymember?(applications, :inets, 0)
  end

  test "answers any request" do
    for host <- [nil, "", "a:b:c", "[", "\xFF", "localhost\r\n"], origin <- [nil, "", "\xFF"] do
      request = %{method: "GET", path: "/", host: host, origin: origin}
      assert {403, _headers, _body} = Site.answer(request, ["localhost"])
    end
  end
end
