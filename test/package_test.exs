defmodule GrpcLb.PackageTest do
  # What `mix hex.build` and `mix docs` want to know, checked without either.
  use ExUnit.Case, async: true

  @project Mix.Project.config()
  @files @project[:package][:files]
  @docs @project[:docs]

  # As Hex expands them.
  defp packed do
    for pattern <- @files,
        path <- Path.wildcard(pattern, match_dot: true),
        file <-
          if(File.dir?(path), do: Path.wildcard("#{path}/**", match_dot: true), else: [path]),
        File.regular?(file),
        do: file
  end

  test "the package has what Hex requires" do
    assert @project[:version] =~ ~r/^\d+\.\d+\.\d+$/
    assert String.length(@project[:description]) in 20..300
    assert @project[:package][:licenses] == ["Apache-2.0"]
    assert @project[:source_url] =~ ~r"^https://"
    assert map_size(@project[:package][:links]) > 0
    for {_name, link} <- @project[:package][:links], do: assert(link =~ ~r"^https://")
  end

  test "every pattern of its files is of use, and all that is tracked and needed is there" do
    for pattern <- @files, not String.starts_with?(pattern, "checksum-") do
      assert Path.wildcard(pattern, match_dot: true) != [], "nothing is #{pattern}"
    end

    packed = packed()

    for file <- tracked(),
        String.starts_with?(file, ["lib/", "guides/", "livebook/"]) or
          file =~ ~r"^native/[^/]+/(src/|Cargo.toml|build.rs)" do
      assert file in packed, "#{file} is not in the package"
    end

    # Nothing that was built, and no tests.
    for file <- packed do
      refute file =~ ~r"(^|/)(_build|target|deps|test|tests|package)/|\.so$", "#{file} is"
    end
  end

  # A copy of the checkout knows no more than what is there.
  defp tracked do
    case System.cmd("git", ["-c", "safe.directory=*", "ls-files"], stderr_to_stdout: true) do
      {tracked, 0} -> String.split(tracked, "\n", trim: true)
      _no_repository -> Enum.flat_map(~w(lib guides livebook), &Path.wildcard("#{&1}/**/*.*"))
    end
  end

  test "what the packed guides show is packed" do
    packed = packed()

    for guide <- packed, Path.extname(guide) in [".md", ".livemd"] do
      for [_all, target] <- Regex.scan(~r/\]\(([^)#:]+)\)/, File.read!(guide)) do
        path =
          [Path.dirname(guide), target] |> Path.join() |> Path.expand() |> Path.relative_to_cwd()

        assert path in packed, "#{guide} shows #{target}"
      end
    end
  end

  test "the documentation has every guide, and a room for every public module" do
    assert Enum.sort(Path.wildcard("guides/*.md")) ==
             Enum.sort(@docs[:groups_for_extras][:Guides])

    for extra <- @docs[:extras], do: assert(extra in packed(), "#{extra} is not in the package")

    rooms = List.flatten(Keyword.values(@docs[:groups_for_modules]))
    {:ok, modules} = :application.get_key(:grpc_lb, :modules)

    for module <- modules, public?(module) do
      name = inspect(module)

      assert Enum.any?(rooms, fn
               %Regex{} = pattern -> name =~ pattern
               room -> room == module
             end),
             "#{name} is in no group"
    end
  end

  defp public?(module) do
    name = inspect(module)

    name =~ ~r/^GrpcLb(\.(?!Test)|$)/ and
      match?({:docs_v1, _, _, _, %{}, _, _}, Code.fetch_docs(module))
  end

  test "the native library has the version of the package" do
    assert File.read!("Cargo.toml") =~ ~r/^version = "#{@project[:version]}"$/m
    assert File.read!("CHANGELOG.md") =~ ~r/^## (Unreleased|#{@project[:version]})/m
  end
end
