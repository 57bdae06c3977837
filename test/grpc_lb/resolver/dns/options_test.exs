defmodule GrpcLb.Resolver.DNS.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.Options

  doctest Options

  test "every option is in the documentation, with its default" do
    for {option, default} <- Options.validate!([]) do
      assert Options.docs() =~ "`#{inspect(option)}` (default `#{inspect(default)}`)"
    end
  end

  test "takes the first of an option that is given twice" do
    assert Options.validate!(timeout: 1, srv: true, timeout: 2).timeout == 1
  end
end
