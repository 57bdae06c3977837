defmodule GrpcLb.Bench.Backends do
  @moduledoc false
  # The backends that are picked from: one idle process each, whose pid is the id, and the value,
  # which is that pid or the channel struct that carries it.

  alias GrpcLb.Bench.Channel

  def start(count, kind) do
    for index <- 1..count do
      {:ok, pid} = Agent.start_link(fn -> nil end)
      {pid, value(kind, index, pid)}
    end
  end

  def stop(backends), do: Enum.each(backends, fn {pid, _value} -> Agent.stop(pid) end)

  def values(backends), do: Enum.map(backends, fn {_id, value} -> value end)

  defp value(:pid, _index, pid), do: pid
  defp value(:channel, index, pid), do: Channel.new(index, pid)
end
