defmodule Mix.Tasks.GrpcLb.TopTest do
  # It distributes a VM, and starts others.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias GrpcLb.Test.Nodes

  @cookie "grpc_lb_test"

  # A balancer that is held and called.
  @traffic """
  test = self()
  call = fn call, lb ->
    # Of both, whenever it has its turn.
    for _ <- 1..2, do: {:ok, _value} = GrpcLb.pick(lb)
    Process.sleep(1)
    call.(call, lb)
  end
  spawn(fn ->
    {:ok, lb} = GrpcLb.new(:round_robin, ["10.0.0.1:50051", "10.0.0.2:50051"], name: "payments")
    send(test, :made)
    call.(call, lb)
  end)
  receive do: (:made -> :ok)
  """

  setup_all do
    [node] = Nodes.start(1)
    {:ok, _bindings} = Nodes.run(node, Code, :eval_string, [@traffic])
    %{name: Atom.to_string(node.name)}
  end

  # As a user has it: a VM of its own.
  defp mix(arguments),
    do:
      System.cmd("mix", ["grpc_lb.top" | arguments],
        stderr_to_stdout: true,
        env: [{"MIX_ENV", "test"}]
      )

  test "prints the table once where there is no terminal", %{name: name} do
    {output, 0} = mix(["--node", name, "--cookie", @cookie, "--interval", "200"])
    assert [title, _general, titles | rows] = String.split(output, "\n", trim: true)
    assert title =~ ~r/^balancer 1 payments  round_robin  2 ready  on grpc_lb_/
    assert titles =~ "picks/s"
    shares = for row <- rows, do: Regex.run(~r/ready +1 +(\d+)%/, row, capture: :all_but_first)
    assert [first, second] = for([share] <- shares, do: String.to_integer(share))
    assert first > 0 and second > 0 and (first + second) in 99..101
    refute output =~ "\e"
  end

  # A chroot may have no terminals.
  test "takes keys as they are pressed, and gives the terminal back", %{name: name} do
    case System.cmd("script", ["-qec", "true", "/dev/null"], stderr_to_stdout: true) do
      {_nothing, 0} -> takes_keys(name)
      {why, _status} -> IO.puts("grpc_lb_top_test: NOT RUN: #{String.trim(why)}")
    end
  end

  defp takes_keys(name) do
    command =
      "stty rows 24 cols 80; mix grpc_lb.top --node #{name} --cookie #{@cookie}; stty -a | tr ' ' '\\n'"

    # A terminal that is typed in.
    terminal =
      Port.open(
        {:spawn_executable, System.find_executable("script")},
        [
          :binary,
          :exit_status,
          args: ["-qec", command, "/dev/null"],
          env: [{~c"TERM", ~c"xterm"}, {~c"MIX_ENV", ~c"test"}]
        ]
      )

    seen = until("", terminal, "sort (as listed)")
    assert seen =~ "payments"
    assert seen =~ "\e["
    Port.command(terminal, "s")
    until("", terminal, "sort (share)")
    Port.command(terminal, "p")
    until("", terminal, "PAUSED")
    # Escape takes nothing of what follows.
    Port.command(terminal, "\eq")
    assert until("", terminal, :exit) =~ ~r/\sicanon\s/
  end

  defp until(seen, terminal, what) do
    if is_binary(what) and seen =~ what do
      seen
    else
      receive do
        {^terminal, {:data, more}} -> until(seen <> more, terminal, what)
        {^terminal, {:exit_status, 0}} when what == :exit -> seen
        {^terminal, {:exit_status, status}} -> flunk("it ended with #{status}, after #{seen}")
      after
        60_000 -> flunk("nothing came any more after #{seen}")
      end
    end
  end

  test "says what is wrong", %{name: name} do
    assert {output, 1} = mix(["--node", name, "--cookie", "wrong"])
    assert output =~ "cannot connect to #{name}: it is not there, or it has another cookie"

    for {arguments, message} <- [
          {[], ~r/needs --node/},
          {["--node"], ~r/has no option --node, or it needs a value/},
          {["--nodes", "a"], ~r/has no option --nodes/},
          {["--node", "a@b", "c"], ~r/takes no argument, got: c/},
          {["--node", "a@b", "--interval", "often"], ~r/option --interval .* cannot be often/},
          {["--node", "a@b", "--interval", "5"], ~r/option :interval .* from 100/},
          {["--node", "a@b@c"], ~r/must be the name of a node, got: a@b@c/}
        ] do
      assert_raise Mix.Error, message, fn ->
        capture_io(fn -> Mix.Tasks.GrpcLb.Top.run(arguments) end)
      end
    end
  end

  test "top/1 refuses what is neither a balancer nor options" do
    assert_raise ArgumentError, ~r/argument 1 is not a balancer/, fn -> GrpcLb.top(make_ref()) end

    for other <- [:payments, "payments", %{node: node()}, self()] do
      assert_raise ArgumentError,
                   ~r/argument 1 must be a balancer, a view of one, or options, got: /,
                   fn -> GrpcLb.top(other) end
    end

    assert_raise ArgumentError, ~r/unknown option :sort of top\/1/, fn ->
      GrpcLb.top(sort: :id)
    end

    assert_raise ArgumentError,
                 ~r/option :node of top\/1 must be the name of a node, or nil, got: :shop/,
                 fn -> GrpcLb.top(node: :shop) end

    assert GrpcLb.top(node: :nobody@nowhere) == {:error, "no connection to nobody@nowhere"}
  end
end
