# One server of the service Work, on a port of the loopback interface: the first argument, or any free
# one for 0. The others are its number and what Work.Server heeds, as `key=number`.
#
# Prints `up PORT`. Told to `go away` it says GOAWAY on its connections, and takes new ones. Stops in order
# when it is told so, and dies with whoever started it.

[port | settings] = System.argv()

for setting <- settings do
  [key, value] = String.split(setting, "=")
  {number, ""} = Float.parse(value)
  number = if key == "utilization", do: number, else: trunc(number)
  Application.put_env(:work_server, String.to_atom(key), number)
end

Logger.configure(level: :none)
{:ok, _started} = Application.ensure_all_started(:grpc_server)

{:ok, supervisor} =
  GRPC.Server.Supervisor.start_link(
    endpoint: Work.Endpoint,
    port: String.to_integer(port),
    start_server: true,
    adapter_opts: [ip: {127, 0, 0, 1}]
  )

IO.puts("up #{:ranch.get_port(inspect(Work.Endpoint))}")

defmodule Orders do
  def heed(supervisor) do
    case IO.read(:line) do
      "go away\n" ->
        # Each waits for its streams.
        for connection <- :ranch.procs(inspect(Work.Endpoint), :connections),
            do: spawn(fn -> :sys.terminate(connection, :shutdown, :infinity) end)

        heed(supervisor)

      "stop\n" ->
        Supervisor.stop(supervisor)

      _end_of_file ->
        :ok
    end
  end
end

Orders.heed(supervisor)
System.halt(0)
