defmodule GrpcLb.DashboardTest do
  # Counts what lives on the node.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Dashboard
  alias GrpcLb.Dashboard.{Json, Looks, Page, Site}
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

      for path <- ["/../../etc/passwd", "/%2e%2e/etc/passwd", "/mix.exs"] do
        assert {status, _, _} = get(port, path)
        assert status in [400, 403, 404]
      end

      # The httpd of OTP 27 takes it for "/".
      assert {status, _, body} = get(port, "//")
      assert {status, body} in [{404, "there is nothing here\n"}, {200, Page.html()}]
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
    # A connection that was about to be taken is reset.
    assert {:error, closed} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
    assert closed in [:econnrefused, :econnreset]

    supervised = start_supervised!({Dashboard, port: 0})
    %URI{port: port} = URI.parse(Dashboard.url(supervised))
    assert {200, _, _} = get(port, "/")
    monitor = Process.monitor(:sys.get_state(supervised).httpd)
    Process.exit(supervised, :kill)
    # httpd ends with who started it, and another is started, which may be given the same port.
    assert_receive {:DOWN, ^monitor, :process, _httpd, _reason}
    eventually(fn -> is_pid(restarted(supervised)) end)
    %URI{port: other} = URI.parse(Dashboard.url(restarted(supervised)))
    assert {200, _, _} = get(other, "/")
    if other != port, do: assert({:error, _} = :gen_tcp.connect({127, 0, 0, 1}, port, []))
  end

  defp restarted(before) do
    {:ok, supervisor} = ExUnit.fetch_test_supervisor()
    [{_id, pid, _type, _modules}] = Supervisor.which_children(supervisor)
    if pid != before, do: pid
  end

  test "nothing of it runs unless it is asked for" do
    # In a VM of its own: in this one others use it.
    applications = Peer.run(Peer.start(), Application, :started_applications)
    refute List.keymember?(applications, :inets, 0)
  end

  test "says what a release without :inets needs" do
    peer = Peer.start()
    path = Enum.reject(Peer.run(peer, :code, :get_path), &(to_string(&1) =~ "/inets-"))
    true = Peer.run(peer, :code, :set_path, [path])
    # Where the code server looks last.
    :ok = Peer.run(peer, :erl_prim_loader, :set_path, [path])
    Peer.run(peer, :logger, :set_primary_config, [:level, :none])
    assert {:error, {:inets_is_missing, why}} = Peer.run(peer, Dashboard, :start, [[port: 0]])
    assert why =~ "extra_applications: [:inets]"
  end

  test "answers any request" do
    for host <- [nil, "", "a:b:c", "[", "\xFF", "localhost\r\n"], origin <- [nil, "", "\xFF"] do
      request = %{method: "GET", path: "/", host: host, origin: origin, fetched_by: nil}
      assert {403, _headers, _body} = Site.answer(request, ["localhost"], &flunk/1)
    end
  end

  test "looks at nothing for a page of another site" do
    {_dashboard, port} = start!()

    for path <- ["/balancers.json", "/balancers/1.json"], site <- ["cross-site", "same-site"] do
      assert {403, _headers, "requests of other sites" <> _} =
               get(port, path, ["Sec-Fetch-Site: #{site}"])
    end

    for site <- ["same-origin", "none"],
        do: assert({200, _, _} = get(port, "/balancers.json", ["Sec-Fetch-Site: #{site}"]))

    # A link may lead to the page.
    assert {200, _, _} = get(port, "/", ["Sec-Fetch-Site: cross-site"])
  end

  test "url/1 and stop/1 name what is no dashboard" do
    for other <- [nil, 4040, "http://127.0.0.1:4040/"],
        ask <- [&GrpcLb.Dashboard.url/1, &GrpcLb.Dashboard.stop/1] do
      assert_raise ArgumentError,
                   ~r/^dashboard must be the pid that start\/1 returned, got: /,
                   fn ->
                     ask.(other)
                   end
    end
  end

  describe "looks" do
    # A look that waits until it is told what it sees, and is young for as long as a test lasts.
    defp looks! do
      test = self()

      start_supervised!(%{
        id: Looks,
        start:
          {Looks, :start_link,
           [
             fn what ->
               send(test, {:asked, what, self()})
               receive do: ({:saw, seen} -> seen)
             end,
             60_000
           ]}
      })
    end

    test "are taken one at a time, and one serves all who ask for the same" do
      looks = looks!()
      asking = for _ <- 1..20, do: Task.async(fn -> Looks.at(looks, {:balancer, 1}) end)
      assert_receive {:asked, {:balancer, 1}, looking}
      eventually(fn -> Process.info(looks, :message_queue_len) == {:message_queue_len, 19} end)
      other = Task.async(fn -> Looks.at(looks, :list) end)
      eventually(fn -> Process.info(looks, :message_queue_len) == {:message_queue_len, 20} end)
      refute_received {:asked, _what, _looking}
      send(looking, {:saw, {:ok, %{a: 1}}})
      assert_receive {:asked, :list, looking}
      send(looking, {:saw, :error})
      assert Task.await(other) == :error
      assert Enum.uniq(Task.await_many(asking)) == [{:ok, ~S({"a":1})}]
      refute_received {:asked, _what, _looking}
    end

    test "are not taken for who has given up, and one that fails ends nothing" do
      looks = looks!()
      first = Task.async(fn -> Looks.at(looks, :list) end)
      assert_receive {:asked, :list, looking}
      # As its caller sends it, who has been waiting since.
      gone = {:at, {:balancer, 2}, System.monotonic_time(:millisecond)}
      send(looks, {:"$gen_call", {self(), make_ref()}, gone})
      next = Task.async(fn -> Looks.at(looks, {:balancer, 3}) end)
      Process.exit(looking, :kill)
      assert Task.await(first) == :busy
      assert_receive {:asked, what, looking}
      assert what == {:balancer, 3}
      send(looking, {:saw, {:ok, %{}}})
      assert Task.await(next) == {:ok, "{}"}
    end
  end

  test "has 500 backends of more, and counts all" do
    {_dashboard, port} = start!()
    {:ok, lb} = GrpcLb.new(:round_robin, Enum.map(1..2_000, &{&1, &1}))
    {200, _headers, sample} = get(port, "/balancers/#{GrpcLb.Native.summary(lb).number}.json")
    assert length(String.split(sample, ~s("key":))) == 1 + 500
    assert sample =~ ~s("left_out":1500,)
    assert sample =~ ~s("states":{"ready":2000}}})
    assert is_reference(lb)
  end

  test "refuses a long address, and has no place for a body" do
    {_dashboard, port} = start!()
    assert {414, _, _} = get(port, "/" <> String.duplicate("a", 2_000))
    assert {413, _, _} = get(port, "/", ["Content-Length: 2000"])
  end

  test "hangs up on who does not end a request" do
    {_dashboard, port} = start!()
    much = String.duplicate("a", 1_000_000)

    for {begun, more} <- [
          {"GET /", much},
          {"GET / HTTP/1.1\r\nHost: localhost\r\nx: ", much},
          {"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
           ["F4240\r\n", much, "\r\n"]}
        ] do
      {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      :ok = :gen_tcp.send(socket, begun)
      sent = Enum.find(1..64, fn _ -> match?({:error, _}, :gen_tcp.send(socket, more)) end)
      assert is_integer(sent), begun
    end
  end

  test "at all addresses, it says where it is, and which names it has" do
    {dashboard, port} = start!(ip: {0, 0, 0, 0}, hosts: ["Node.example", "[fd00::1]"])
    assert Dashboard.url(dashboard) == "http://127.0.0.1:#{port}/"
    assert {200, _, _} = request(port, ["GET / HTTP/1.1", "Host: node.example:#{port}"])
    assert {200, _, _} = request(port, ["GET / HTTP/1.1", "Host: [FD00::1]"])
    assert {403, _, body} = request(port, ["GET / HTTP/1.1", "Host: 10.0.0.9"])
    assert body == "this host is not one of the dashboard's: its option :hosts takes others\n"

    for hosts <- [["name:4040"], ["a b"], [""], ["http://a"], ["::1"], "a", [:a], ["a" | "b"]] do
      assert_raise ArgumentError, ~r/option :hosts of GrpcLb.Dashboard must be a list/, fn ->
        Dashboard.start(hosts: hosts)
      end
    end
  end
end
