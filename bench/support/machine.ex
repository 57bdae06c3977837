defmodule GrpcLb.Bench.Machine do
  @moduledoc false
  # What the figures were taken on.

  def describe do
    %{
      date: DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_iso8601(),
      cpu: cpu(),
      cores: :erlang.system_info(:logical_processors_available),
      schedulers: System.schedulers_online(),
      schedulers_bound: bound?(),
      os: os(),
      load: load(),
      otp: otp(),
      emulator: to_string(:erlang.system_info(:emu_flavor)),
      elixir: System.version(),
      grpc_lb: to_string(Application.spec(:grpc_lb, :vsn))
    }
  end

  defp cpu do
    with {:ok, text} <- File.read("/proc/cpuinfo"),
         [_, model] <- Regex.run(~r/^model name\s*:\s*(.+)$/m, text) do
      model
    else
      _ -> to_string(:erlang.system_info(:system_architecture))
    end
  end

  # Whether each scheduler keeps to a core of its own.
  defp bound?, do: :unbound not in Tuple.to_list(:erlang.system_info(:scheduler_bindings))

  defp os do
    {_family, name} = :os.type()
    version = :os.version() |> Tuple.to_list() |> Enum.join(".")

    case File.read("/etc/os-release") do
      {:ok, text} -> "#{distribution(text) || name}, kernel #{version}"
      {:error, _} -> "#{name} #{version}"
    end
  end

  defp distribution(text) do
    case Regex.run(~r/^PRETTY_NAME="?([^"\n]+)/m, text) do
      [_, name] -> name
      nil -> nil
    end
  end

  # What else the machine had to do when the run began.
  defp load do
    case File.read("/proc/loadavg") do
      {:ok, text} -> text |> String.split() |> hd()
      {:error, _} -> nil
    end
  end

  defp otp do
    release = to_string(:erlang.system_info(:otp_release))

    case File.read(Path.join([:code.root_dir(), "releases", release, "OTP_VERSION"])) do
      {:ok, version} -> String.trim(version)
      {:error, _} -> release
    end
  end
end
