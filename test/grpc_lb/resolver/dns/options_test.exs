defmodule GrpcLb.Resolver.DNS.OptionsTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.Options

  doctest Options

  test "every option is in the documentation, with its default" do
    for {option, default} <- Options.read!([]) do
      assert Options.doc() =~ "`#{inspect(option)}` (default `#{inspect(default)}`)"
    end
  end
end
