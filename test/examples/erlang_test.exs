defmodule GrpcLb.Examples.ErlangTest do
  # The example has no Mix project, and rebar3 need not be there: its modules are compiled as rebar3
  # would.
  use ExUnit.Case, async: true

  @modules [:echo_transport, :echo_server, :echo_lb]
  @options [:binary, :warnings_as_errors, :return_errors]

  setup_all do
    for module <- @modules do
      {:ok, ^module, binary} = :compile.file(~c"examples/erlang/src/#{module}", @options)
      {:module, ^module} = :code.load_binary(module, ~c"#{module}", binary)
    end

    on_exit(fn -> for module <- @modules, do: :code.purge(module) && :code.delete(module) end)
  end

  test "a balancer is used from Erlang" do
    assert apply(:echo_lb, :balancer, []) == [1, 1, 1, 2]
  end

  test "a connection over sockets is used from Erlang" do
    assert apply(:echo_lb, :connection, []) == ["1 hello\n", "2 hello\n"]
  end

  test "the README says what it prints" do
    readme = File.read!("examples/erlang/README.md")
    assert readme =~ ~s(picked: [1,1,1,2]\n)
    assert readme =~ ~S(answered: [<<"1 hello\n">>,<<"2 hello\n">>])
  end
end
