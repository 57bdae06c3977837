defmodule Mix.Tasks.GrpcLb.Demo.ServerProcess do
  @moduledoc false
  # The operating-system process a server runs in, held through a port of the calling process:
  # when that one ends, the server's stdin closes and the server halts.

  alias Mix.Tasks.GrpcLb.Demo.Server

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

  # Returns at once; `await_listening/1` waits for the boot, so that several boot side by side.
  # `work`: see `command/1`.
  def open(work \\ []) do
    [erl | args] = command(work)

    Port.open(
      {:spawn_executable, erl},
      [:binary, :exit_status, line: 64, args: args, env: @environment]
    )
  end

  # `work`, how many milliseconds a request takes and how many of 100 fail, makes a server that
  # works; without it, it answers at once.
  def command(work \\ []) do
    ebin = Server |> :code.which() |> Path.dirname()
    erl = Path.join([:code.root_dir(), "bin", "erl"])
    start = ["-run", Atom.to_string(Server), "start" | Enum.map(work, &Integer.to_string/1)]
    [erl | @emulator ++ @runtime ++ ["-pa", ebin] ++ start]
  end

  def os_pid(port) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    os_pid
  end

  def await_listening(port) do
    receive do
      {^port, {:data, {:eol, number}}} -> String.to_integer(number)
      {^port, {:exit_status, status}} -> Mix.raise("a server ended at its start (exit #{status})")
    after
      @boot_ms -> Mix.raise("a server was not up within #{@boot_ms} ms")
    end
  end

  def kill(os_pid) do
    {_output, 0} = System.cmd("sh", ["-c", "kill -KILL #{os_pid}"])
    :ok
  end

  # 128 + the signal's number for a killed one, as in a shell.
  def await_exit(port) do
    receive do
      {^port, {:exit_status, status}} -> status
    after
      @exit_ms -> :still_running
    end
  end
end
