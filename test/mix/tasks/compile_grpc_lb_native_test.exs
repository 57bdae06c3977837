defmodule Mix.Tasks.Compile.GrpcLbNativeTest do
  # The task reads environment variables and the current folder, which the whole VM shares.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Mix.Tasks.Compile.GrpcLbNative

  @environment ~w(PATH GRPC_LB_NIF CARGO_TARGET_DIR MIX_BUILD_PATH MIX_BUILD_ROOT)

  setup do
    name = "grpc_lb_native_#{System.pid()}_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)

    %{dir: dir, name: name}
  end

  describe "the task" do
    setup %{dir: dir} = context do
      before = Map.new(@environment, &{&1, System.get_env(&1)})
      on_exit(fn -> System.put_env(before) end)

      Enum.each(@environment -- ["PATH"], &System.delete_env/1)
      System.put_env("PATH", "#{dir}/bin:#{before["PATH"]}")

      write_crates(dir, context.name)
      write_cargo(dir, :succeeds)
    end

    test "runs cargo and installs the library", context do
      assert compile(context) == {:ok, []}
      assert cargo_calls(context) == ["build --release -p grpc_lb_nif --locked in #{context.dir}"]
      assert installed(context) == "version 1"
    end

    test "does nothing when nothing changed", context do
      assert compile(context) == {:ok, []}
      before = File.stat!(library(context))

      assert compile(context) == {:noop, []}
      assert length(cargo_calls(context)) == 1
      assert File.stat!(library(context)) == before
    end

    for path <- ~w(Cargo.toml Cargo.lock native/nif/Cargo.toml native/nif/build.rs
                   native/core/src/policy/new.rs) do
      test "runs cargo again when #{path} changes", context do
        assert compile(context) == {:ok, []}
        write(context.dir, unquote(path), "# changed")

        assert compile(context) == {:ok, []}
        assert length(cargo_calls(context)) == 2
        assert compile(context) == {:noop, []}
      end
    end

    test "runs cargo again when a source is removed", context do
      assert compile(context) == {:ok, []}
      File.rm!(Path.join(context.dir, "native/core/src/lib.rs"))

      assert compile(context) == {:ok, []}
      assert length(cargo_calls(context)) == 2
    end

    test "runs cargo again when the installed library is gone", context do
      assert compile(context) == {:ok, []}
      File.rm!(library(context))

      assert compile(context) == {:ok, []}
      assert installed(context) == "version 1"
    end

    test "runs cargo again with --force", context do
      assert compile(context) == {:ok, []}
      assert compile(context, ["--force"]) == {:ok, []}
      assert length(cargo_calls(context)) == 2
    end

    test "leaves the library that a running VM has mapped as it is", context do
      assert compile(context) == {:ok, []}
      {:ok, mapped} = File.open(library(context))
      write(context.dir, "native/nif/src/lib.rs", "version 2")

      assert compile(context) == {:ok, []}
      assert installed(context) == "version 2"
      assert IO.read(mapped, :line) == "version 1"
      assert File.ls!(Path.dirname(library(context))) == ["grpc_lb_nif.so"]
    end

    test "builds in one folder for all environments, or in CARGO_TARGET_DIR", context do
      assert compile(context) == {:ok, []}
      assert File.dir?(Path.join(context.dir, "_build/grpc_lb_native/release"))

      System.put_env("CARGO_TARGET_DIR", Path.join(context.dir, "elsewhere"))
      assert compile(context, ["--force"]) == {:ok, []}
      assert File.dir?(Path.join(context.dir, "elsewhere/release"))
    end

    test "installs the prebuilt library that GRPC_LB_NIF names, without cargo", context do
      prebuilt = write(context.dir, "prebuilt.so", "prebuilt 1")
      System.put_env(%{"GRPC_LB_NIF" => prebuilt, "PATH" => context.dir})

      assert compile(context) == {:ok, []}
      assert installed(context) == "prebuilt 1"
      assert compile(context) == {:noop, []}

      write(context.dir, "prebuilt.so", "prebuilt 2")
      assert compile(context) == {:ok, []}
      assert installed(context) == "prebuilt 2"
      assert cargo_calls(context) == []
    end

    test "goes back to cargo when GRPC_LB_NIF is no longer set", context do
      System.put_env("GRPC_LB_NIF", write(context.dir, "prebuilt.so", "prebuilt"))
      assert compile(context) == {:ok, []}

      System.delete_env("GRPC_LB_NIF")
      assert compile(context) == {:ok, []}
      assert installed(context) == "version 1"
    end

    test "says that the prebuilt library is missing", context do
      System.put_env("GRPC_LB_NIF", "/nowhere/grpc_lb_nif.so")

      assert_raise Mix.Error, ~r"GRPC_LB_NIF .* /nowhere/grpc_lb_nif.so.* no such file", fn ->
        compile(context)
      end
    end

    test "says what to install when cargo is missing", context do
      System.put_env("PATH", context.dir)

      assert_raise Mix.Error, ~r"cargo >= 1.91, https://rustup.rs.* GRPC_LB_NIF", fn ->
        compile(context)
      end
    end

    test "shows cargo's output when cargo fails, and tries again the next time", context do
      write_cargo(context.dir, :fails)

      output =
        capture_io(fn ->
          assert_raise Mix.Error, ~r"the exit status of `cargo build .*` was 101", fn ->
            compile(context)
          end
        end)

      assert output =~ "error[E0425]: cannot find value"
      refute File.exists?(library(context))

      write_cargo(context.dir, :succeeds)
      assert compile(context) == {:ok, []}
    end

    test "clean removes the library and every manifest", context do
      assert compile(context) == {:ok, []}
      manifests = in_project(context, &GrpcLbNative.manifests/0)
      assert manifests != [] and Enum.all?(manifests, &File.regular?/1)

      in_project(context, &GrpcLbNative.clean/0)
      refute Enum.any?([library(context) | manifests], &File.exists?/1)
      assert compile(context) == {:ok, []}
    end
  end

  describe "grpc_lb as a dependency of a new project" do
    @describetag timeout: :timer.minutes(5)

    test "by path", %{dir: dir} do
      assert_usable(dir, [path: File.cwd!()], prebuilt())
    end

    test "by git, from what the package contains", %{dir: dir} do
      repository = Path.join(dir, "grpc_lb")

      for pattern <- Mix.Project.config()[:package][:files],
          path <- Path.wildcard(pattern, match_dot: true) do
        copy = Path.join(repository, path)
        File.mkdir_p!(Path.dirname(copy))
        File.cp_r!(path, copy)
      end

      git!(repository, ~w(init --quiet))
      git!(repository, ~w(add --all))
      git!(repository, ~w(commit --quiet --message package))

      # With cargo where there is one, so that a source that the package lacks is missed.
      build = if System.find_executable("cargo"), do: from_source(), else: prebuilt()
      assert_usable(dir, [git: "file://#{repository}"], build)
    end

    defp prebuilt, do: %{"GRPC_LB_NIF" => Application.app_dir(:grpc_lb, "priv/grpc_lb_nif.so")}

    # In cargo's folder of this project, where the crates of others are built already.
    defp from_source do
      target = Path.expand("../grpc_lb_native", Mix.Project.build_path())
      %{"GRPC_LB_NIF" => nil, "CARGO_TARGET_DIR" => target}
    end
  end

  # The smallest project there can be: its path and its library are all that the task looks at.
  defp write_crates(dir, name) do
    write(dir, "mix.exs", """
    defmodule #{Macro.camelize(name)}.MixProject do
      use Mix.Project
      def project, do: [app: :#{name}, version: "0.1.0"]
    end
    """)

    for path <- ~w(Cargo.toml Cargo.lock native/nif/Cargo.toml native/core/src/lib.rs) do
      write(dir, path, "")
    end

    write(dir, "native/nif/src/lib.rs", "version 1")
  end

  # A cargo that writes down its calls, and whose library is the crate's source.
  defp write_cargo(dir, outcome) do
    work =
      case outcome do
        :succeeds ->
          """
          mkdir -p "$CARGO_TARGET_DIR/release"
          cp native/nif/src/lib.rs "$CARGO_TARGET_DIR/release/libgrpc_lb_nif.so"
          cp native/nif/src/lib.rs "$CARGO_TARGET_DIR/release/libgrpc_lb_nif.dylib"
          """

        :fails ->
          """
          echo "error[E0425]: cannot find value" >&2
          exit 101
          """
      end

    cargo = write(dir, "bin/cargo", "#!/bin/sh\necho \"$* in $PWD\" >>#{dir}/calls\n#{work}")
    File.chmod!(cargo, 0o755)
  end

  defp cargo_calls(%{dir: dir}) do
    case File.read(Path.join(dir, "calls")) do
      {:ok, calls} -> String.split(calls, "\n", trim: true)
      {:error, :enoent} -> []
    end
  end

  defp write(dir, path, content) do
    path = Path.join(dir, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
    path
  end

  defp compile(context, args \\ []) do
    in_project(context, fn -> GrpcLbNative.run(args) end)
  end

  defp in_project(%{dir: dir, name: name}, fun) do
    Mix.Project.in_project(String.to_atom(name), dir, fn _module -> fun.() end)
  end

  defp library(%{dir: dir, name: name}) do
    Path.join(dir, "_build/test/lib/#{name}/priv/grpc_lb_nif.so")
  end

  defp installed(context), do: File.read!(library(context))

  @picks inspect(ok: :one, ok: :two, ok: :one)

  # The project's application picks when it starts, so a run of it in each environment and a start
  # of its release prove that the library is built, found and loaded there.
  defp assert_usable(dir, dependency, build) do
    user = Path.join(dir, "user")

    write(user, "mix.exs", """
    defmodule User.MixProject do
      use Mix.Project

      def project do
        [app: :user, version: "0.1.0", deps: [{:grpc_lb, #{inspect(dependency)}}]]
      end

      def application, do: [mod: {User, []}]
    end
    """)

    write(user, "lib/user.ex", """
    defmodule User do
      use Application

      def start(_type, _args) do
        {:ok, lb} = GrpcLb.new(:round_robin, [:one, :two])
        picks = for _ <- 1..3, do: GrpcLb.pick(lb)
        IO.puts("\#{inspect(picks)} from \#{:code.priv_dir(:grpc_lb)}")
        if System.get_env("RELEASE_NAME"), do: System.stop()
        Supervisor.start_link([], strategy: :one_for_one)
      end
    end
    """)

    run!("mix", ["deps.get"], user, build)

    for env <- ~w(dev test prod) do
      output = run!("mix", ["run"], user, Map.put(build, "MIX_ENV", env))
      assert output =~ "#{@picks} from #{user}/_build/#{env}/lib/grpc_lb/priv"
      refute output =~ "warning"
    end

    run!("mix", ["release"], user, Map.put(build, "MIX_ENV", "prod"))
    release = Path.join(user, "_build/prod/rel/user")
    output = run!("#{release}/bin/user", ["start"], user, %{"RELEASE_DISTRIBUTION" => "none"})
    assert output =~ "#{@picks} from #{release}/lib/grpc_lb-"
  end

  defp git!(dir, args) do
    run!("git", ~w(-c user.name=grpc_lb -c user.email=grpc_lb@localhost) ++ args, dir)
  end

  defp run!(command, args, dir, env \\ %{}) do
    inherited =
      for {name, _value} <- System.get_env(),
          String.starts_with?(name, ["MIX_", "GIT_"]),
          into: %{},
          do: {name, nil}

    env = inherited |> Map.put("LC_ALL", "C.UTF-8") |> Map.merge(env)
    opts = [cd: dir, env: env, stderr_to_stdout: true]
    {output, status} = System.cmd(command, args, opts)
    assert status == 0, "#{command} #{Enum.join(args, " ")} failed:\n#{output}"
    output
  end
end
