defmodule GrpcLbElixirGrpc.Restart do
  @moduledoc """
  Stops servers in order and starts them again on their ports, one after the other, while 16 callers call.

  A server stops as cowboy does: it takes no new connections, says GOAWAY on those that it has, and
  closes them when the calls have ended, after five seconds at most.
  """

  alias GrpcLbElixirGrpc.{Load, Servers}

  @callers 16
  @give_up_ms 10_000

  @type figures :: %{
          calls: non_neg_integer(),
          failed: non_neg_integer(),
          slowest_ms: non_neg_integer(),
          back_ms: non_neg_integer() | :never
        }

  @doc "`back_ms` is the longest time from when a server listened again until it had answered a call."
  @spec run([Servers.t()], (() -> {:ok, server :: pos_integer()} | {:error, term()})) ::
          {figures(), [Servers.t()]}
  def run(servers, call) do
    callers = Load.start(@callers, call)
    # Cowboy closes connections that have not begun without a word.
    for server <- servers, do: Load.await(call, server.number, @give_up_ms)

    {servers, backs} =
      servers
      |> Enum.map(fn server ->
        Servers.stop(server)
        [again] = Servers.start([[port: server.port, number: server.number + 10]])
        {again, Load.await(call, again.number, @give_up_ms)}
      end)
      |> Enum.unzip()

    calls = Load.stop(callers)

    figures = %{
      calls: length(calls),
      failed: Enum.count(calls, &match?({:error, _}, &1.result)),
      slowest_ms: calls |> Enum.map(&(&1.ended - &1.begun)) |> Enum.max(),
      # An atom is more than any number.
      back_ms: Enum.max(backs)
    }

    {figures, servers}
  end
end
