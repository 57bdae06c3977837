defmodule Mix.Tasks.Compile.GrpcLbNative do
  @shortdoc "Installs the native library in priv/, built by cargo or precompiled"

  @moduledoc """
  Installs the native library as `priv/grpc_lb_nif.so` of the compiled application.

  `mix compile` runs it after the Elixir compiler, also where `grpc_lb` is a dependency of another
  project. It does nothing as long as what it would install is what the last run left. `--force` does
  all of it again. Where the library comes from:

    * `GRPC_LB_NIF`, an environment variable: the absolute path of a library, installed as it is.
    * `GRPC_LB_PRECOMPILED`, an environment variable, or `config :grpc_lb, precompiled: base`: a folder,
      or an `http://` or `https://` address, with what `make package` has packed. The library for this
      machine is taken if it has the checksum that the package carries, in
      `checksum-Elixir.GrpcLb.Native.exs`; a folder may bring that file itself. A wrong checksum, a
      download that ends early and a library for another machine are errors. Where there is none for
      this machine, or the address cannot be reached, the task says so and builds with cargo.
    * else cargo builds it, which needs a Rust toolchain (cargo >= 1.91, <https://rustup.rs>).

  The two variables are remembered from one command to the next, for all environments of the project's
  build folder: until one of them is set to something else, or to nothing (`GRPC_LB_NIF= mix compile`).

  `CARGO_TARGET_DIR` is cargo's own build folder. The default is `_build/grpc_lb_native`, shared by all
  environments, because the library is the same in each of them.
  """

  use Mix.Task.Compiler

  alias Mix.GrpcLb.Precompiled

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
      write(manifest(), digest)
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    Enum.each([manifest(), installed(), remembered()], &File.rm/1)
    :ok
  end

  defp origin do
    case {System.get_env("GRPC_LB_NIF"), System.get_env("GRPC_LB_PRECOMPILED")} do
      {nil, nil} -> recall() || configured()
      {path, _base} when path not in [nil, ""] -> remember({:prebuilt, path})
      {_path, base} when base not in [nil, ""] -> remember({:precompiled, base})
      _set_to_nothing -> forget()
    end
  end

  defp configured do
    case Application.get_env(:grpc_lb, :precompiled) do
      nil ->
        :crate

      base when is_binary(base) and base != "" ->
        {:precompiled, base}

      other ->
        Mix.raise(
          "config :grpc_lb, precompiled: must be a folder or an address, got: #{inspect(other)}"
        )
    end
  end

  # Beside the environments' folders: `mix test` runs in another than `mix compile`.
  defp remembered, do: Path.join(shared_build_path(), "grpc_lb_native.origin")

  defp remember(origin) do
    write(remembered(), :erlang.term_to_binary(origin))
    origin
  end

  defp recall do
    with {:ok, origin} <- File.read(remembered()) do
      :erlang.binary_to_term(origin)
    else
      {:error, _reason} -> nil
    end
  end

  defp forget do
    File.rm(remembered())
    configured()
  end

  defp digest({:prebuilt, path} = origin) do
    unless File.regular?(path) do
      Mix.raise("""
      GRPC_LB_NIF names the library #{path}, and there is no such file. It is remembered from an \
      earlier command where it is not set; `GRPC_LB_NIF= mix compile` forgets it\
      """)
    end

    digest(origin, [path])
  end

  # Where there is none for this machine it is the crate after all.
  defp digest({:precompiled, _base} = origin), do: digest({origin, version()}, sources())

  defp digest(:crate), do: digest(:crate, sources())

  defp digest(origin, files) do
    contents = Enum.map(files, &{&1, File.read!(&1)})
    :erlang.md5(:erlang.term_to_binary({origin, contents}))
  end

  defp sources, do: Enum.flat_map(@sources, &Path.wildcard(Path.join(root(), &1)))

  defp up_to_date?(digest) do
    File.exists?(installed()) and File.read(manifest()) == {:ok, digest}
  end

  defp library({:prebuilt, path}), do: {:file, path}

  defp library({:precompiled, base}) do
    case Precompiled.fetch(base, root(), version()) do
      {:ok, library, from} ->
        Mix.shell().info("grpc_lb: installing the precompiled library #{from}")
        {:bytes, library}

      {:none, why} ->
        Mix.shell().info("grpc_lb: no precompiled library: #{why}; building it with cargo")
        library(:crate)

      {:error, why} ->
        Mix.raise("""
        the precompiled library of grpc_lb was not installed: #{why}. \
        `GRPC_LB_PRECOMPILED= mix compile` builds it with cargo\
        """)
    end
  end

  defp library(:crate) do
    unless System.find_executable("cargo") do
      Mix.raise("""
      cargo was not found, and grpc_lb builds its NIF library with it. Install a Rust toolchain \
      (cargo >= 1.91, https://rustup.rs), or set GRPC_LB_NIF to the path of a prebuilt library, or \
      GRPC_LB_PRECOMPILED to where `make package` has packed one\
      """)
    end

    target = target_dir()
    env = [{"CARGO_TARGET_DIR", target}]
    opts = [cd: root(), env: env, into: IO.stream(), stderr_to_stdout: true]

    case System.cmd("cargo", @cargo_args, opts) do
      {_, 0} ->
        {:file, Path.join([target, "release", artifact(:os.type())])}

      {_, status} ->
        Mix.raise("""
        cargo could not build the NIF library of grpc_lb: its output is above, \
        the exit status of `cargo #{Enum.join(@cargo_args, " ")}` was #{status}\
        """)
    end
  end

  # In a dependency's compilation the current project is the dependency, so this is always grpc_lb.
  defp root, do: Path.dirname(Mix.Project.project_file())

  defp version, do: Mix.Project.config()[:version]

  defp target_dir do
    case System.get_env("CARGO_TARGET_DIR", "") do
      "" -> Path.join(shared_build_path(), "grpc_lb_native")
      dir -> Path.expand(dir, root())
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

    case library do
      {:file, path} -> File.cp!(path, temporary)
      {:bytes, bytes} -> File.write!(temporary, bytes)
    end

    File.rename!(temporary, target)
  end

  defp write(file, content) do
    File.mkdir_p!(Path.dirname(file))
    File.write!(file, content)
  end

  # The VM looks for the .so ending on every Unix, macOS included.
  defp installed, do: Path.join([Mix.Project.app_path(), "priv", "grpc_lb_nif.so"])

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.grpc_lb_native")
end
