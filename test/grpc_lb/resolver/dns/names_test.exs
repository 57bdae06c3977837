defmodule GrpcLb.Resolver.DNS.NamesTest do
  use ExUnit.Case, async: true

  doctest GrpcLb.Resolver.DNS.Names
end
