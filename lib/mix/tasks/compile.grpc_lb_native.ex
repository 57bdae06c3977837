defmodule Mix.Tasks.Compile.GrpcLbNative do
  @shortdoc "Builds the NIF crate with cargo and installs it in priv/"

  @moduledoc """
  Builds the NIF library and installs it as `priv/grpc_lb_nif.so` of the compiled application.

  `mix compile` runs it after the Elixir compiler, also where `grpc_lb` is a dependency of another
  project. It needs a Rust toolchain (cargo >= 1.91, <https://rustup.rs>), and does nothing as long
  as the crates' sources and the installed library are what the last run left. `--force` runs
  cargo again all the same.

  ## Environment variables

    * `GRPC_LB_NIF` - absolute path of a prebuilt library. It is installed as it is, and no
      Rust toolchain is needed.
    * `CARGO_TARGET_DIR` - cargo's own build folder. The default is `_build/grpc_lb_native`, shared
      by all environments, because the library is the same in each of them.
  """

  use Mix.Task.Compiler

  @cargo_args ~w(build --release -p grpc_lb_nif --locked)
  @sources ~w(Cargo.toml Cargo.lock native/**/Cargo.toml native/**/*.rs)

  @impl true
  def run(args) do
    origin = origin()
    digest = digest(origin)

    if "--force" not in args and up_to_date?(digest) do
      {:noop, []}
    else
      origin |> library() |> install()
      File.mkdir_p!(Path.dirname(manifest()))
      File.write!(manifest(), digest)
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    File.rm(manifest())
    File.rm(installed())
    :ok
  end

  # In a dependency's compilation the current project is the dependency, so this root is always
  # that of grpc_lb.
  defp origin do
    case System.get_env("GRPC_LB_NIF", "") do
      "" -> {:crate, Path.dirname(Mix.Project.project_file())}
      path -> {:prebuilt, path}
    end
  end

  defp digest({:prebuilt, path}) do
    unless File.regular?(path) do
      Mix.raise("GRPC_LB_NIF names the library #{path}, and there is no such file")
    end

    digest([path])
  end

  defp digest({:crate, root}) do
    @sources |> Enum.flat_map(&Path.wildcard(Path.join(root, &1))) |> digest()
  end

  defp digest(files) do
    files |> Enum.map(&{&1, File.read!(&1)}) |> :erlang.term_to_binary() |> :erlang.md5()
  end

  defp up_to_date?(digest) do
    File.exists?(installed()) and File.read(manifest()) == {:ok, digest}
  end

  defp library({:prebuilt, path}), do: path

  defp library({:crate, root}) do
    unless System.find_executable("cargo") do
      Mix.raise("""
      cargo was not found, and grpc_lb builds its NIF library with it. Install a Rust toolchain \
      (cargo >= 1.91, https://rustup.rs), or set GRPC_LB_NIF to the path of a prebuilt library\
      """)
    end

    target = target_dir(root)
    env = [{"CARGO_TARGET_DIR", target}]
    opts = [cd: root, env: env, into: IO.stream(), stderr_to_stdout: true]

    case System.cmd("cargo", @cargo_args, opts) do
      {_, 0} ->
        Path.join([target, "release", artifact(:os.type())])

      {_, status} ->
        Mix.raise("""
        cargo could not build the NIF library of grpc_lb: its output is above, \
        the exit status of `cargo #{Enum.join(@cargo_args, " ")}` was #{status}\
        """)
    end
  end

  defp target_dir(root) do
    case System.get_env("CARGO_TARGET_DIR", "") do
      "" -> Path.join(shared_build_path(), "grpc_lb_native")
      dir -> Path.expand(dir, root)
    end
  end

  # Beside the environments' folders, or inside the one folder that MIX_BUILD_PATH names for all.
  defp shared_build_path do
    case System.get_env("MIX_BUILD_PATH", "") do
      "" -> Path.dirname(Mix.Project.build_path())
      path -> Path.expand(path)
    end
  end

  defp artifact({:unix, :darwin}), do: "libgrpc_lb_nif.dylib"
  defp artifact(_os), do: "libgrpc_lb_nif.so"

  # Writing over a library that a running VM has mapped crashes that VM. A rename gives the name
  # to a new file and leaves the mapped one alone.
  defp install(library) do
    target = installed()
    temporary = "#{target}.#{System.pid()}"
    File.mkdir_p!(Path.dirname(target))
    File.cp!(library, temporary)
    File.rename!(temporary, target)
  end

  # The VM looks for the .so ending on every Unix, macOS included.
  defp installed, do: Path.join([Mix.Project.app_path(), "priv", "grpc_lb_nif.so"])

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.grpc_lb_native")
end
