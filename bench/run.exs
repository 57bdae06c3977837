# The benchmark: `mix run bench/run.exs [--quick] [--only SECTION,...]`, in the prod environment.
#
# Everything that is timed is compiled, to a folder that other VMs are given as well.

folder = Path.join(Mix.Project.build_path(), "bench")
File.rm_rf!(folder)
File.mkdir_p!(folder)
Code.prepend_path(folder)
files = Path.wildcard(Path.join(__DIR__, "support/**/*.ex"))
{:ok, _modules, _warnings} = Kernel.ParallelCompiler.compile_to_path(files, folder)

GrpcLb.Bench.main(System.argv(), Path.join(__DIR__, "results/latest.json"))
