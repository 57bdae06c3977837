defmodule GrpcLb.Connection.CallbackTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Connection.Callback

  doctest Callback

  test "returns whatever the function does" do
    assert Callback.call(Kernel, :+, [1, 2]) == {:ok, 3}
    assert Callback.call(Kernel, :throw, [:ball]) == {:error, {:thrown, :ball}}
    assert Callback.call(Kernel, :exit, [:normal]) == {:error, {:exited, :normal}}

    assert Callback.call(:erlang, :error, [:oops]) ==
             {:error, {:raised, %ErlangError{original: :oops}}}

    assert {:error, {:raised, %UndefinedFunctionError{}}} = Callback.call(Kernel, :nope, [])
  end
end
