defmodule Demo.Servers.ServerProcess do
  @moduledoc false
  # The operating-system process a server runs in, held through a port of the calling process:
  # when that one ends, the server's stdin closes and the server halts.

  alias Demo.Servers.Server

  @boot_ms 30_000
  @exit_ms 10_000

  # One scheduler of each kind and no busy waiting: seven of these share the machine with the
  # callers. Nothing of the user's own settings or start-up file gets in.
  @emulator ~w(+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none)
  @runtime ~w(-noinput -boot no_dot_erlang)
  @environment [
    {~c"ERL_FLAGS", false},
    {~c"ERL_AFLAGS", false},
    {~c"ERL_ZFLAGS", false},
    {~c"ERL_CRASH_DUMP_SECONDS", ~c"0"}
  ]

  # How many milliseconds a request takes, and how many of 100 fail; `nil` answers at once.
  @type work :: {non_neg_integer(), 0..100} | nil

  # Returns at once; `await_listening/1` waits for the boot, so that several boot side by side.
  @spec open(:inet.port_number(), work()) :: port()
  def open(number, work) do
    [erl | args] = command(number, work)

    Port.open(
      {:spawn_executable, erl},
      [:binary, :exit_status, line: 64, args: args, env: @environment]
    )
  end

  @spec command(:inet.port_number(), work()) :: [Path.t() | String.t()]
  def command(number, work) do
    ebin = Server |> :code.which() |> Path.dirname()
    erl = Path.join([:code.root_dir(), "bin", "erl"])
    settings = [number | if(work, do: Tuple.to_list(work), else: [])]
    start = ["-run", Atom.to_string(Server), "start" | Enum.map(settings, &Integer.to_string/1)]
    [erl | @emulator ++ @runtime ++ ["-pa", ebin] ++ start]
  end

  @spec os_pid(port()) :: pos_integer()
  def os_pid(process) do
    {:os_pid, os_pid} = Port.info(process, :os_pid)
    os_pid
  end

  @spec await_listening(port()) :: :inet.port_number()
  def await_listening(process) do
    receive do
      {^process, {:data, {:eol, number}}} ->
        String.to_integer(number)

      {^process, {:exit_status, status}} ->
        Mix.raise("a server ended as it began (exit #{status})")
    after
      @boot_ms -> Mix.raise("a server was not up within #{@boot_ms} ms")
    end
  end

  @spec kill(pos_integer()) :: :ok
  def kill(os_pid) do
    {_output, 0} = System.cmd("sh", ["-c", "kill -KILL #{os_pid}"])
    :ok
  end

  # The exit status: 128 + the signal's number for a killed one, as in a shell.
  @spec stop(port()) :: non_neg_integer() | :still_running
  def stop(process) do
    # Unlike `Port.command/2` this does not mind that the server has ended before.
    send(process, {self(), {:command, "stop\n"}})
    await_exit(process)
  end

  # As `stop/1`, once its clients have gone, which it tells to go.
  @spec leave(port()) :: non_neg_integer() | :still_running
  def leave(process) do
    send(process, {self(), {:command, "leave\n"}})
    await_exit(process)
  end

  @spec await_exit(port()) :: non_neg_integer() | :still_running
  def await_exit(process) do
    receive do
      {^process, {:exit_status, status}} -> status
    after
      @exit_ms -> :still_running
    end
  end
end
