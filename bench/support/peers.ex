defmodule GrpcLb.Bench.Peers do
  @moduledoc false
  # Pools that are no part of OTP: poolboy, of Debian's package erlang-poolboy, and worker_pool, of
  # a source tree: a folder of that name in the folder that the environment variable BENCH_PEERS names.

  @doc "Loads those that there are, and says of each of the others why it is not."
  def load do
    for {name, module, load} <- [
          {"poolboy", :poolboy, &load_poolboy/0},
          {"worker_pool", :wpool, &load_worker_pool/0}
        ],
        not loaded?(module),
        {:error, reason} <- [load.()],
        do: {name, reason}
  end

  def poolboy?, do: loaded?(:poolboy)
  def worker_pool?, do: loaded?(:wpool)

  defp loaded?(module), do: Code.ensure_loaded?(module)

  # Since Elixir 1.15 Mix takes off the code path what the project does not name.
  defp load_poolboy do
    [:code.lib_dir(), "poolboy-*/ebin"]
    |> Path.join()
    |> Path.wildcard()
    |> Enum.each(&Code.append_path/1)

    if poolboy?(), do: :ok, else: {:error, "Debian's package erlang-poolboy is not installed"}
  end

  defp load_worker_pool do
    case System.fetch_env("BENCH_PEERS") do
      {:ok, folder} -> compile(Path.join(folder, "worker_pool"))
      :error -> {:error, "BENCH_PEERS names no folder with its source tree"}
    end
  end

  # Behaviours come first, so that who implements one finds it.
  defp compile(tree) do
    case Path.wildcard(Path.join(tree, "src/*.erl")) do
      [] ->
        {:error, "#{tree} holds no src/*.erl"}

      files ->
        Enum.find_value(
          Enum.sort_by(files, &(not String.contains?(&1, "callbacks"))),
          :ok,
          fn file ->
            with :error <- compile_file(file),
                 do: {:error, "#{Path.basename(file)} does not compile"}
          end
        )
    end
  end

  defp compile_file(file) do
    with {:ok, module, code} <- :compile.file(to_charlist(file), [:binary]),
         {:module, ^module} <- :code.load_binary(module, to_charlist(file), code) do
      nil
    else
      _ -> :error
    end
  end
end
