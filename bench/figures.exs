# What README and the guides show of the latest run: `mix run bench/figures.exs`.

Code.require_file("support.exs", __DIR__)
GrpcLb.Bench.Figures.main(Path.dirname(__DIR__))
