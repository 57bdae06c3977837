defmodule GrpcLb.Resolver.DNS.ResolvConfTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Resolver.DNS.ResolvConf

  doctest ResolvConf

  test "options are read with glibc's limits; what is malformed or unknown is passed over" do
    for {text, expected} <- [
          {"", %{ndots: 1, query: [], types: [:a, :aaaa], tld_query?: true}},
          {"nameserver 10.0.0.53\n# options ndots:3\n;options ndots:4", %{ndots: 1}},
          {"options ndots:0", %{ndots: 0}},
          {"options ndots:99", %{ndots: 15}},
          {"options ndots:-1 ndots:x ndots:", %{ndots: 1}},
          {"options ndots:2\n\toptions\tndots:3 ", %{ndots: 3}},
          {"options timeout:3 attempts:4", %{query: [retry: 4, timeout: 3_000]}},
          {"options timeout:99 attempts:99", %{query: [retry: 5, timeout: 30_000]}},
          {"options timeout:0 attempts:0", %{query: []}},
          {"options use-vc", %{query: [usevc: true]}},
          {"options rotate", %{query: [nameservers: :inet_db.res_option(:nameservers)]}},
          {"options no-aaaa", %{types: [:a]}},
          {"options no-tld-query", %{tld_query?: false}},
          {"options edns0 trust-ad single-request", %{query: [], types: [:a, :aaaa]}}
        ] do
      conf = ResolvConf.parse(text, ["example"])
      assert {text, Map.take(conf, Map.keys(expected))} == {text, expected}
      assert conf.search == ["example"]
    end
  end
end
