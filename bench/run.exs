# The benchmark: `mix run bench/run.exs [--quick] [--only SECTION,...]`, in the prod environment.

Code.require_file("support.exs", __DIR__)
GrpcLb.Bench.main(System.argv(), Path.join(__DIR__, "results/latest.json"))
