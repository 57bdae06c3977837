defmodule Mix.GrpcLb.Machine do
  # For which machine a native library is: this one, and the one that a file was built for.
  @moduledoc false

  @doc """
  This machine as Rust names it, from what the VM says of itself.

      iex> Mix.GrpcLb.Machine.target("x86_64-pc-linux-gnu")
      {:ok, "x86_64-unknown-linux-gnu"}
      iex> Mix.GrpcLb.Machine.target("aarch64-alpine-linux-musl")
      {:ok, "aarch64-unknown-linux-musl"}
      iex> Mix.GrpcLb.Machine.target("aarch64-apple-darwin23.1.0")
      {:ok, "aarch64-apple-darwin"}
      iex> Mix.GrpcLb.Machine.target("riscv64-unknown-linux-gnu")
      :error
  """
  @spec target(String.t()) :: {:ok, String.t()} | :error
  def target(architecture \\ List.to_string(:erlang.system_info(:system_architecture))) do
    with [processor | rest] <- String.split(architecture, "-"),
         {:ok, processor} <- processor(processor),
         {:ok, system} <- system(Enum.join(rest, "-")),
         do: {:ok, "#{processor}-#{system}"}
  end

  defp processor(name) when name in ~w(x86_64 amd64), do: {:ok, "x86_64"}
  defp processor(name) when name in ~w(aarch64 arm64), do: {:ok, "aarch64"}
  defp processor(_other), do: :error

  defp system(name) do
    cond do
      name =~ "darwin" -> {:ok, "apple-darwin"}
      name =~ "linux-musl" -> {:ok, "unknown-linux-musl"}
      name =~ "linux" -> {:ok, "unknown-linux-gnu"}
      true -> :error
    end
  end

  @doc """
  Whether a library, of which these are the bytes, is for such a machine: `:ok`, or `{:error, what it is}`.
  Which C library one for Linux wants is not in its first bytes.
  """
  @spec check(library :: binary(), target :: String.t()) :: :ok | {:error, String.t()}
  def check(library, target) do
    [processor | _rest] = String.split(target, "-")
    wanted = {if(target =~ "darwin", do: "macOS", else: "Linux"), processor}

    case built_for(library) do
      ^wanted -> :ok
      {system, processor} -> {:error, "a library for #{system} on #{processor}"}
      :error -> {:error, "no native library of a 64-bit machine"}
    end
  end

  # ELF: class 2 is 64 bits, order 1 little-endian, type 3 a shared object.
  defp built_for(
         <<0x7F, "ELF", 2, 1, _::binary-size(10), 3::little-16, machine::little-16, _::binary>>
       ) do
    case machine do
      62 -> {"Linux", "x86_64"}
      183 -> {"Linux", "aarch64"}
      other -> {"Linux", "processor #{other} of ELF's list"}
    end
  end

  # Mach-O, 64 bits.
  defp built_for(<<0xFEEDFACF::little-32, processor::little-32, _::binary>>) do
    case processor do
      0x01000007 -> {"macOS", "x86_64"}
      0x0100000C -> {"macOS", "aarch64"}
      other -> {"macOS", "processor #{other} of Mach-O's list"}
    end
  end

  defp built_for(_other), do: :error
end
