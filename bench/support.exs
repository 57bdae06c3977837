# Compiles what the scripts of this folder use, to a folder that other VMs are given as well.

folder = Path.join(Mix.Project.build_path(), "bench")
File.rm_rf!(folder)
File.mkdir_p!(folder)
Code.prepend_path(folder)
files = Path.wildcard(Path.join(__DIR__, "support/**/*.ex"))

{:ok, _modules, _warnings} =
  Kernel.ParallelCompiler.compile_to_path(files, folder, return_diagnostics: true)
