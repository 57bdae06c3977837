defmodule GrpcLbElixirGrpc.Servers do
  @moduledoc "Servers of the service Work, each an operating system process of its own."

  @enforce_keys [:number, :port, :process, :os_pid]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          number: pos_integer(),
          port: :inet.port_number(),
          process: port(),
          os_pid: non_neg_integer()
        }

  @start_ms 60_000

  @doc """
  Starts servers, one for each list of settings, all at the same time, and waits until they listen. See
  `Work.Server` for the settings; `:port` is where it is to listen.
  """
  @spec start([keyword()]) :: [t()]
  def start(settings) do
    processes = for of_one <- settings, do: {of_one, spawn_server(of_one)}
    for {of_one, process} <- processes, do: await(of_one, process)
  end

  @doc "Where a server listens, as resolvers say it."
  @spec address(t()) :: map()
  def address(server), do: %{address: "127.0.0.1", port: server.port}

  @doc "Ends a server with SIGKILL, and waits until it is gone."
  @spec kill(t()) :: :ok
  def kill(server) do
    {_output, 0} = System.cmd("kill", ["-KILL", "#{server.os_pid}"])
    await_end(server)
  end

  @doc "Has a server stop in order, and waits until it is gone."
  @spec stop(t()) :: :ok
  def stop(server) do
    Port.command(server.process, "stop\n")
    await_end(server)
  end

  @doc "Has a server say GOAWAY on the connections that it has. It takes new ones."
  @spec go_away(t()) :: :ok
  def go_away(server) do
    Port.command(server.process, "go away\n")
    :ok
  end

  defp await_end(%{process: process}) do
    receive do
      {^process, {:exit_status, _status}} -> :ok
    end
  end

  defp spawn_server(settings) do
    {port, settings} = Keyword.pop(settings, :port, 0)
    script = Path.expand("server.exs", __DIR__)
    arguments = for {key, value} <- settings, do: "#{key}=#{value}"

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      {:line, 1_000},
      {:env, [{~c"ERL_LIBS", ~c"#{Path.join(Mix.Project.build_path(), "lib")}"}]},
      # Four servers beside the callers on the cores of one machine.
      {:args, ["--erl", "+S 1:1 +SDio 1", script, "#{port}" | arguments]}
    ])
  end

  defp await(settings, process) do
    receive do
      {^process, {:data, {:eol, "up " <> port}}} ->
        {:os_pid, os_pid} = Port.info(process, :os_pid)

        %__MODULE__{
          number: settings[:number],
          port: String.to_integer(port),
          process: process,
          os_pid: os_pid
        }

      {^process, {:data, {:eol, line}}} ->
        raise "the server said: #{line}"

      {^process, {:exit_status, status}} ->
        raise "the server ended with #{status}"
    after
      @start_ms -> raise "the server did not start"
    end
  end
end
