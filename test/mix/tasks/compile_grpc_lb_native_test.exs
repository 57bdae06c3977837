defmodule Mix.Tasks.Compile.GrpcLbNativeTest do
  # The task reads environment variables and the current folder, which the whole VM shares.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Mix.GrpcLb.{Machine, Precompiled}
  alias Mix.Tasks.Compile.GrpcLbNative

  doctest Machine
  doctest Precompiled

  @environment ~w(PATH GRPC_LB_NIF GRPC_LB_PRECOMPILED CARGO_TARGET_DIR MIX_BUILD_PATH MIX_BUILD_ROOT)

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

    test "remembers GRPC_LB_NIF, also in another environment, until it is set to nothing",
         context do
      System.put_env("GRPC_LB_NIF", write(context.dir, "prebuilt.so", "prebuilt"))
      assert compile(context) == {:ok, []}

      System.delete_env("GRPC_LB_NIF")
      assert compile(context) == {:noop, []}
      File.rm_rf!(Path.join(context.dir, "_build/test"))
      assert compile(context) == {:ok, []}
      assert installed(context) == "prebuilt"
      assert cargo_calls(context) == []

      System.put_env("GRPC_LB_NIF", "")
      assert compile(context) == {:ok, []}
      assert installed(context) == "version 1"
      System.delete_env("GRPC_LB_NIF")
      assert compile(context) == {:noop, []}
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

  describe "a precompiled library" do
    setup %{dir: dir} = context do
      before = Map.new(@environment, &{&1, System.get_env(&1)})
      on_exit(fn -> System.put_env(before) end)

      Enum.each(@environment -- ["PATH"], &System.delete_env/1)
      System.put_env("PATH", "#{dir}/bin:#{before["PATH"]}")

      write_crates(dir, context.name)
      write_cargo(dir, :succeeds)
      {:ok, target} = Machine.target()
      file = Precompiled.file_name("0.1.0", target)
      %{packed: file, folder: Path.join(dir, "packed")}
    end

    test "is taken from a folder that has a list, without cargo", context do
      pack(context, elf("of this machine"))
      write_list(context.folder, context)

      assert precompiled(context, context.folder) =~
               "installing the precompiled library #{context.folder}/#{context.packed}"

      assert installed(context) == elf("of this machine")
      assert cargo_calls(context) == []
      assert compile(context) == {:noop, []}
    end

    test "is taken from an address, and remembered", context do
      pack(context, elf("of this machine"))
      write_list(context.dir, context)
      base = serve(whole(context))

      assert precompiled(context, base <> "/") =~ "precompiled library #{base}/#{context.packed}"
      assert installed(context) == elf("of this machine")

      System.delete_env("GRPC_LB_PRECOMPILED")
      assert compile(context) == {:noop, []}
    end

    test "is taken from where the configuration says", context do
      pack(context, elf("configured"))
      write_list(context.folder, context)
      Application.put_env(:grpc_lb, :precompiled, context.folder)
      on_exit(fn -> Application.delete_env(:grpc_lb, :precompiled) end)

      assert capture_io(fn -> assert compile(context) == {:ok, []} end) =~ "installing"
      assert installed(context) == elf("configured")
    end

    test "leads to cargo, and says why, where there is none", context do
      pack(context, elf("of this machine"))
      absent = serve("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

      for {base, list, why} <- [
            {context.folder, nil, "carries no checksums"},
            {absent, nil, "carries no checksums"},
            {absent, context.dir, "#{absent}/#{context.packed} answered 404"},
            {"http://127.0.0.1:1", context.dir, ":econnrefused"},
            {"/nowhere", context.dir, "/nowhere/#{context.packed} cannot be read: no such file"}
          ] do
        if list, do: write_list(list, context)
        output = precompiled(context, base)
        assert output =~ "no precompiled library: "
        assert output =~ why
        assert output =~ "building it with cargo"
        assert installed(context) == "version 1"
        in_project(context, &GrpcLbNative.clean/0)
      end
    end

    test "for another machine is refused", context do
      for {library, what} <- [
            {elf("of another", 243), "a library for Linux on processor 243 of ELF's list"},
            {<<0xFEEDFACF::little-32, 0x0100000C::little-32>>, "a library for macOS on aarch64"},
            {"text", "no native library of a 64-bit machine"}
          ] do
        pack(context, library)
        write_list(context.folder, context)
        refused(context, context.folder, what)
      end
    end

    test "with another checksum is refused", context do
      pack(context, elf("of this machine"))
      write_list(context.dir, context)
      pack(context, elf("of somebody else"))
      refused(context, context.folder, "the checksum of ")
      refused(context, serve(whole(context)), "the checksum of ")
    end

    test "that does not come whole is refused", context do
      pack(context, elf("of this machine"))
      write_list(context.dir, context)
      response = whole(context)
      half = binary_part(response, 0, byte_size(response) - 50)
      refused(context, serve(half), "ended before it was whole")

      [_head, body] = String.split(response, "\r\n\r\n", parts: 2)
      unsaid = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" <> binary_part(body, 0, 50)
      refused(context, serve(unsaid), "the checksum of ")
    end

    test "that is no archive of one file is refused", context do
      File.mkdir_p!(context.folder)
      File.write!(Path.join(context.folder, context.packed), "no archive")
      write_list(context.folder, context)
      refused(context, context.folder, "no archive of one file")
    end

    test "is refused where the list is no list of checksums", context do
      pack(context, elf("of this machine"))
      write(context.folder, "checksum-Elixir.GrpcLb.Native.exs", "System.halt(1)")
      refused(context, context.folder, "no map of files and their checksums")
    end

    defp precompiled(context, base) do
      System.put_env("GRPC_LB_PRECOMPILED", base)
      capture_io(fn -> assert compile(context, ["--force"]) == {:ok, []} end)
    end

    # Nothing is left, and nothing that was there has gone.
    defp refused(context, base, why) do
      write(context.dir, Path.relative_to(library(context), context.dir), "installed before")
      System.put_env("GRPC_LB_PRECOMPILED", base)
      error = assert_raise Mix.Error, fn -> compile(context, ["--force"]) end
      assert error.message =~ why
      assert error.message =~ "GRPC_LB_PRECOMPILED= mix compile"
      assert installed(context) == "installed before"
      assert File.ls!(Path.dirname(library(context))) == ["grpc_lb_nif.so"]
      assert cargo_calls(context) == []
    end

    defp elf(content, machine \\ nil) do
      {:ok, target} = Machine.target()
      machine = machine || if(target =~ "x86_64", do: 62, else: 183)
      <<0x7F, "ELF", 2, 1, 0::80, 3::little-16, machine::little-16, content::binary>>
    end

    defp pack(context, library) do
      File.mkdir_p!(context.folder)
      archive = String.to_charlist(Path.join(context.folder, context.packed))
      :ok = :erl_tar.create(archive, [{~c"grpc_lb_nif.so", library}], [:compressed])
    end

    defp write_list(folder, context) do
      packed = File.read!(Path.join(context.folder, context.packed))
      checksum = Base.encode16(:crypto.hash(:sha256, packed), case: :lower)

      write(folder, "checksum-Elixir.GrpcLb.Native.exs", """
      %{
        "#{context.packed}" =>
          "sha256:#{checksum}"
      }
      """)
    end

    defp whole(context) do
      packed = File.read!(Path.join(context.folder, context.packed))
      "HTTP/1.1 200 OK\r\ncontent-length: #{byte_size(packed)}\r\n\r\n" <> packed
    end

    # Answers whatever it is asked, and closes, until the test that listens ends.
    defp serve(response) do
      {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
      {:ok, port} = :inet.port(listener)
      start_supervised!({Task, fn -> answer(listener, response) end}, id: listener)
      "http://127.0.0.1:#{port}"
    end

    defp answer(listener, response) do
      with {:ok, socket} <- :gen_tcp.accept(listener) do
        {:ok, _request} = :gen_tcp.recv(socket, 0)
        :ok = :gen_tcp.send(socket, response)
        :gen_tcp.close(socket)
        answer(listener, response)
      end
    end
  end

  describe "grpc_lb as a dependency of a new project" do
    @describetag timeout: :timer.minutes(15)

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
