defmodule GrpcLb.Bench.Backends do
  @moduledoc false
  # The backends that are picked from: one idle process each, whose pid is the id, and the value,
  # which is that pid or the channel struct that carries it.

  alias GrpcLb.Bench.Channel

  def start(count, kind) do
    connection = make_ref()

    for index <- 1..count do
      {:ok, pid} = Agent.start_link(fn -> nil end)
      {pid, value(kind, index, pid, connection)}
    end
  end

  def stop(backends), do: Enum.each(backends, fn {pid, _value} -> Agent.stop(pid) end)

  @doc "So many backends, or members, in words."
  def count(count, one \\ "backend", many \\ "backends")
  def count(1, one, _many), do: "1 " <> one
  def count(count, _one, many), do: "#{count} " <> many

  def values(backends), do: Enum.map(backends, fn {_id, value} -> value end)

  defp value(:pid, _index, pid, _connection), do: pid
  defp value(:channel, index, pid, connection), do: Channel.new(index, pid, connection)
end
