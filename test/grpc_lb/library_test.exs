defmodule GrpcLb.LibraryTest do
  # In a VM of its own, with a copy of the package that has another library.
  use ExUnit.Case, async: true

  alias GrpcLb.Test.Peer

  setup do
    root =
      Path.join(
        System.tmp_dir!(),
        "grpc_lb_library_#{System.pid()}_#{System.unique_integer([:positive])}"
      )

    copy = Path.join(root, "grpc_lb")
    on_exit(fn -> File.rm_rf!(root) end)

    for part <- ["ebin", "priv"] do
      File.mkdir_p!(Path.join(copy, part))
      File.cp_r!(Application.app_dir(:grpc_lb, part), Path.join(copy, part))
    end

    %{copy: copy, library: Path.join(copy, "priv/grpc_lb_nif.so")}
  end

  test "the application starts with the library that belongs to it", %{copy: copy} do
    assert {:ok, started} = start_application(copy)
    assert :grpc_lb in started
  end

  test "it does not start without one, and says where it should be", context do
    File.rm!(context.library)
    assert start_application(context.copy) =~ "#{context.library}"
  end

  test "it does not start with what is none", context do
    # A new file: this VM has the other one mapped.
    File.rm!(context.library)
    File.write!(context.library, "no library")
    message = start_application(context.copy)
    assert message =~ "the native library of grpc_lb is not the one that it needs"
    assert message =~ "grpc_lb_nif.so: "
    assert message =~ "mix deps.compile grpc_lb --force"
  end

  test "it does not start with one of another version", context do
    app = Path.join(context.copy, "ebin/grpc_lb.app")
    version = to_string(Application.spec(:grpc_lb, :vsn))
    File.write!(app, app |> File.read!() |> String.replace(~s("#{version}"), ~s("9.9.9")))

    assert start_application(context.copy) =~
             "it is of version #{version}, and this package is 9.9.9"
  end

  # The message is all there is: the application's processes were not started, and did not crash.
  defp start_application(copy) do
    paths = for path <- :code.get_path(), not String.contains?("#{path}", "/grpc_lb/"), do: path

    args = Enum.flat_map([~c"#{copy}/ebin" | paths], &[~c"-pa", &1])
    opts = %{connection: :standard_io, args: args, wait_boot: 60_000}
    {:ok, peer, _node} = :peer.start_link(opts)
    :ok = Peer.run(peer, :logger, :set_primary_config, [:level, :none])

    case Peer.run(peer, :application, :ensure_all_started, [:grpc_lb]) do
      {:error, {:grpc_lb, {message, {GrpcLb.Application, :start, _arguments}}}} -> message
      {:ok, started} -> {:ok, started}
    end
  end
end
