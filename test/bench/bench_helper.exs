# Loads what the benchmark consists of, once.

{:ok, _modules, _warnings} =
  "../../bench/support/**/*.ex"
  |> Path.expand(__DIR__)
  |> Path.wildcard()
  |> Kernel.ParallelCompiler.compile(return_diagnostics: true)
